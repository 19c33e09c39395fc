"""A checkpoint of ours -> Hugging Face safetensors, for transformers, vLLM, SGLang or LMDeploy.

python tools/export_hf.py --checkpoint=checkpoints/internvl3_1b --out=export --layout=hf

--layout=hf is what transformers loads (InternVLForConditionalGeneration); --layout=original is the
scheme of the published repositories (InternVLChatModel, SkyworkR1VChatModel), for vLLM and
LMDeploy.

The chat template is the checkpoint's own if it marks images as the readers of the layout want
them marked; else one that does, in the same format.
"""

from absl import flags

from r1v3_jax import cli, hf
from r1v3_jax.files import empty_directory
from r1v3_jax.hf.read_config import LAYOUTS
from r1v3_jax.processing.tokenizer import export_template
from r1v3_jax.processing.tokenizer_files import tokenizer_files
from r1v3_jax.run.weights import load_weights, read_config

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Checkpoint directory.", required=True
)
OUT = flags.DEFINE_string("out", None, "Directory to write.", required=True)
LAYOUT = flags.DEFINE_enum("layout", "hf", list(LAYOUTS), "Names of the weights.")
NONFINITE = flags.DEFINE_bool(
    "allow_nonfinite", False, "Also weights with nan or inf, for a look at them."
)
MESH = cli.define_mesh()


def main():
    # Everything that can be refused is refused before a weight is read.
    empty_directory(OUT.value)
    config, _ = read_config(CHECKPOINT.value)
    source = f"{CHECKPOINT.value}/tokenizer"
    tokenizer_files(source)
    # A language model alone has no images to mark.
    template = None
    if config.vision is not None:
        template = export_template(source, LAYOUT.value)
    with cli.set_mesh(MESH):
        model = load_weights(CHECKPOINT.value)
        hf.save(
            model,
            OUT.value,
            LAYOUT.value,
            tokenizer=source,
            chat_template=template,
            allow_nonfinite=NONFINITE.value,
        )
    print(f"{OUT.value}: {hf.describe(model)}, layout {LAYOUT.value}")


if __name__ == "__main__":
    cli.run(main)
