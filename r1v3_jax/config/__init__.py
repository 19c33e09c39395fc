"""Every knob of a run, as frozen dataclasses; no arrays, no devices."""

from r1v3_jax.config.collect import Chosen, Collect
from r1v3_jax.config.draft import Draft
from r1v3_jax.config.evaluate import After, Evaluate
from r1v3_jax.config.grpo import GRPO
from r1v3_jax.config.load import list_configs, load_arms, load_config
from r1v3_jax.config.lora import LoRA
from r1v3_jax.config.model import Compute, ModelConfig, TextConfig, VisionConfig
from r1v3_jax.config.preference import Preference
from r1v3_jax.config.presets import (
    INTERNVL3_1B,
    INTERNVL3_2B,
    INTERNVL3_8B,
    INTERNVL3_14B,
    INTERNVL3_38B,
    INTERNVL3_78B,
    PRESETS,
    R1V3_38B,
    TINY,
    TINY_300M,
)
from r1v3_jax.config.run import Checkpoints, Data, Health, Run, Video
from r1v3_jax.config.sft import SFT, Optimizer
from r1v3_jax.rewards.settings import Verify

__all__ = [
    "GRPO",
    "INTERNVL3_14B",
    "INTERNVL3_1B",
    "INTERNVL3_2B",
    "INTERNVL3_38B",
    "INTERNVL3_78B",
    "INTERNVL3_8B",
    "PRESETS",
    "R1V3_38B",
    "SFT",
    "TINY",
    "TINY_300M",
    "After",
    "Checkpoints",
    "Chosen",
    "Collect",
    "Compute",
    "Data",
    "Draft",
    "Evaluate",
    "Health",
    "LoRA",
    "ModelConfig",
    "Optimizer",
    "Preference",
    "Run",
    "TextConfig",
    "Verify",
    "Video",
    "VisionConfig",
    "list_configs",
    "load_arms",
    "load_config",
]
