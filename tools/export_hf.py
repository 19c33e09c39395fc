"""A checkpoint of ours -> Hugging Face safetensors, for transformers, vLLM, SGLang or LMDeploy.

python tools/export_hf.py --checkpoint=checkpoints/internvl3_1b --out=export --layout=hf

--layout=hf is what transformers loads (InternVLForConditionalGeneration); --layout=original is the
scheme of the published repositories (InternVLChatModel, SkyworkR1VChatModel), for vLLM and
LMDeploy.
"""

from absl import flags

from r1v3_jax import checkpoint, cli, hf, hf_config

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Checkpoint directory.", required=True)
OUT = flags.DEFINE_string("out", None, "Directory to write.", required=True)
LAYOUT = flags.DEFINE_enum("layout", "hf", list(hf_config.LAYOUTS), "Names of the weights.")


def main():
    hf_config.empty_directory(OUT.value)
    model = checkpoint.load_weights(CHECKPOINT.value)
    hf.save(model, OUT.value, LAYOUT.value, tokenizer=f"{CHECKPOINT.value}/tokenizer")
    print(f"{OUT.value}: {hf.describe(model)}, layout {LAYOUT.value}")


if __name__ == "__main__":
    cli.run(main)
