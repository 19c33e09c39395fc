"""Hugging Face safetensors -> a checkpoint of ours.

python tools/import_hf.py --hf=InternVL3-1B --out=checkpoints/internvl3_1b
"""

from absl import flags

from r1v3_jax import cli, hf
from r1v3_jax.files import empty_directory
from r1v3_jax.hf.checkpoint import Checkpoint
from r1v3_jax.processing import tokenizer
from r1v3_jax.run.weights import save_weights

HF = flags.DEFINE_string(
    "hf", None, "Directory with config.json and *.safetensors.", required=True
)
OUT = flags.DEFINE_string("out", None, "Checkpoint directory to write.", required=True)
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Of the weights; default: as stored."
)
NONFINITE = flags.DEFINE_bool(
    "allow_nonfinite", False, "Also weights with nan or inf, for a look at them."
)
ROPE_IMPL = cli.define_rope_impl()
MESH = cli.define_mesh()


def main():
    # Everything that can be refused is refused before a weight is read.
    empty_directory(OUT.value)
    checkpoint = Checkpoint.open(HF.value)
    text_only = checkpoint.config.vision is None
    tokenizer.load(HF.value, text_only=text_only).check_model(checkpoint.config)
    with cli.set_mesh(MESH):
        model = hf.load(
            checkpoint,
            DTYPE.value,
            rope_impl=ROPE_IMPL.value,
            allow_nonfinite=NONFINITE.value,
        )
        save_weights(OUT.value, model, tokenizer=HF.value)
    print(f"{OUT.value}: {hf.describe(model)}")


if __name__ == "__main__":
    cli.run(main)
