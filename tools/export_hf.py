"""A checkpoint of ours -> Hugging Face safetensors, for transformers, vLLM, SGLang or LMDeploy.

python tools/export_hf.py --checkpoint=checkpoints/internvl3_1b --out=export --layout=hf

--layout=hf is what transformers loads (InternVLForConditionalGeneration); --layout=original is the
scheme of the published repositories (InternVLChatModel, SkyworkR1VChatModel), for vLLM and
LMDeploy.

The chat template is the checkpoint's own if it marks images as the readers of the layout want
them marked; else one that does, in the same format.
"""

from absl import flags

from r1v3_jax import cli, files, hf
from r1v3_jax.hf import read_config
from r1v3_jax.processing import tokenizer, tokenizer_files
from r1v3_jax.run import weights

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Checkpoint directory.", required=True
)
OUT = flags.DEFINE_string("out", None, "Directory to write.", required=True)
LAYOUT = flags.DEFINE_enum(
    "layout", "hf", list(read_config.LAYOUTS), "Names of the weights."
)
MESH = cli.define_mesh()


def main():
    files.empty_directory(OUT.value)
    config, _ = weights.read_config(CHECKPOINT.value)
    source = f"{CHECKPOINT.value}/tokenizer"
    tokenizer_files.tokenizer_files(source)
    # A language model alone has no images to mark.
    template = (
        tokenizer.export_template(source, LAYOUT.value)
        if config.vision is not None
        else None
    )
    with cli.set_mesh(MESH):
        model = weights.load_weights(CHECKPOINT.value)
        hf.save(
            model, OUT.value, LAYOUT.value, tokenizer=source, chat_template=template
        )
    print(f"{OUT.value}: {hf.describe(model)}, layout {LAYOUT.value}")


if __name__ == "__main__":
    cli.run(main)
