"""A GGUF file of a language model -> a Hugging Face checkpoint directory, in float32.

python tools/import_gguf.py --gguf=SmolLM2-135M-Instruct.Q4_1.gguf --out=halves/smollm2

What comes out is read by transformers, by tools/import_hf.py and by tools/assemble.py. Needs
`pip install gguf`.
"""

from absl import flags

from r1v3_jax import cli
from r1v3_jax.files import empty_directory
from r1v3_jax.hf.checkpoint import Checkpoint
from r1v3_jax.hf.read_gguf import convert
from r1v3_jax.models.flops import num_params

GGUF = flags.DEFINE_string("gguf", None, "The file.", required=True)
OUT = flags.DEFINE_string("out", None, "Directory to write.", required=True)


def main():
    empty_directory(OUT.value)
    convert(GGUF.value, OUT.value)
    config = Checkpoint.open(OUT.value).config
    print(f"{OUT.value}: a language model, {num_params(config):,} parameters, float32")


if __name__ == "__main__":
    cli.run(main)
