"""A checkpoint of ours -> Hugging Face safetensors, for transformers, vLLM, SGLang or LMDeploy.

python tools/export_hf.py --checkpoint=checkpoints/internvl3_1b --out=export --layout=hf

--layout=hf is what transformers loads (InternVLForConditionalGeneration); --layout=original is the
scheme of the published repositories (InternVLChatModel, SkyworkR1VChatModel), for vLLM and
LMDeploy.

The chat template is the checkpoint's own if it marks images as the readers of the layout want
them marked; else one that does, in the same format.
"""

from absl import flags

from r1v3_jax import checkpoint, cli, hf, hf_config, tokens

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Checkpoint directory.", required=True)
OUT = flags.DEFINE_string("out", None, "Directory to write.", required=True)
LAYOUT = flags.DEFINE_enum("layout", "hf", list(hf_config.LAYOUTS), "Names of the weights.")
MESH = cli.define_mesh()


def main():
    hf_config.empty_directory(OUT.value)
    config, _ = checkpoint.read_config(CHECKPOINT.value)
    source = f"{CHECKPOINT.value}/tokenizer"
    hf_config.tokenizer_files(source)
    # A language model alone has no images to mark.
    template = chat_template(source, LAYOUT.value) if config.vision is not None else None
    with cli.set_mesh(MESH):
        model = checkpoint.load_weights(CHECKPOINT.value)
        hf.save(model, OUT.value, LAYOUT.value, tokenizer=source, chat_template=template)
    print(f"{OUT.value}: {hf.describe(model)}, layout {LAYOUT.value}")


def chat_template(source: str, layout: str) -> str | None:
    """The template to write; None to keep the one in the tokenizer's files.

    transformers' InternVLProcessor replaces <IMG_CONTEXT>. vLLM replaces <image> in the original
    layout, and puts it there itself where a template knows strings only.
    """
    tokenizer = tokens.load(source)
    context, marker = tokens.IMAGE_CONTEXT, tokens.IMAGE_MARKER
    if tokenizer.hf.chat_template:
        content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
        try:
            text = tokenizer.hf.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False
            )
        except Exception:  # a template is a program: one for strings fails at a list in any way
            text = ""
        right = text.count(context) == 1 if layout == "hf" else context not in text
        if right:
            return None
    template = tokens.chat_template(tokenizer.chat)
    return template if layout == "hf" else template.replace(context, marker)


if __name__ == "__main__":
    cli.run(main)
