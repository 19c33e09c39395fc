"""Decoding steps that others measured on TPUs, and this program's estimates at the same shapes.

`by_bytes` reckons a step from what it reads, at the rates of `chips.py`, which were fitted to these
steps; no compiler is asked. `decoding` does the same for a stage of a run, with the band that the
spread of these steps gives. `comparison.py` compiles the steps. Nothing is run, and engines that
serve also schedule and page, which no estimate here does. Results: docs/results/pod.md.
"""

import dataclasses
import math

import numpy as np

from r1v3_jax.config import GRPO, ModelConfig, Run, TextConfig, topology
from r1v3_jax.tpu import lengths
from r1v3_jax.tpu.chips import CHIPS, HOP_SECONDS, SMALL_OP_SECONDS, Chip


def language_model(**sizes) -> ModelConfig:
    """Returns a model without a vision tower; sizes: of its `TextConfig`."""
    return ModelConfig(
        text=TextConfig(head_dim=128, kv_heads=8, **sizes),
        vision=None,
        image_token_id=None,
        end_token_id=0,
        pad_token_id=1,
    )


# Their config.json.
QWEN3_8B = language_model(
    vocab_size=151936,
    embed=4096,
    layers=36,
    heads=32,
    mlp=12288,
    qkv_bias=False,
    qk_norm=True,
)
QWEN3_32B = language_model(
    vocab_size=151936,
    embed=5120,
    layers=64,
    heads=64,
    mlp=25600,
    qkv_bias=False,
    qk_norm=True,
)
LLAMA3_70B = language_model(
    vocab_size=128256,
    embed=8192,
    layers=80,
    heads=64,
    mlp=28672,
    qkv_bias=False,
    rope_theta=5e5,
)


@dataclasses.dataclass(frozen=True)
class Published:
    """A decoding step as its authors measured it: milliseconds a token of every row."""

    model: str
    config: ModelConfig
    topology: str
    mesh: tuple[int, int, int]
    rows: int  # samples on all chips
    prompt: int  # tokens
    completion: int  # tokens
    measured: float
    int8: bool = False

    @property
    def by_bytes(self) -> float:
        """Milliseconds by `by_bytes`, on average over the answer."""
        groups = self.mesh[0]
        rows = self.rows // groups
        seconds = by_bytes(
            self.config.text,
            CHIPS[topology.parse(self.topology).kind],
            shards=math.prod(self.mesh[1:]),
            rows=rows,
            slots=rows * (self.prompt + self.completion / 2),
            int8=self.int8,
        )
        return seconds * 1e3

    @property
    def name(self) -> str:
        """As it is printed and chosen by --rows: "qwen3_32b_16x4096+1024"."""
        return f"{self.model}_{self.rows}x{self.prompt}+{self.completion}"


def sglang(model: str, config: ModelConfig, rows: int, prompt: int, measured: float):
    """Returns a row of SGLang-JAX: bfloat16 on four v6e chips, tensor parallel."""
    return Published(model, config, "v6e:2x2", (1, 1, 4), rows, prompt, 1024, measured)


# SGLang-JAX, docs/.../benchmarks/qwen3_benchmark.md of sgl-project/sglang-jax, 12 September 2025,
# "ITL" of version 10f32e4: the faster of the two engines there. Rows whose samples did not fit
# together (where more rows add no throughput) are left out.
# vLLM for TPU: its tables of Llama-3.3-70B on v6e-8.
# jax-llm-examples, llama3/README.md of jax-ml/jax-llm-examples: weights and cache in 8 bits, data 2
# x tensor 8, "tok / s" of one row; a cache of 2,048 slots, taken as half prompt.
PUBLISHED = (
    sglang("qwen3_32b", QWEN3_32B, 8, 1024, 18.29),
    sglang("qwen3_32b", QWEN3_32B, 16, 1024, 19.16),
    sglang("qwen3_32b", QWEN3_32B, 32, 1024, 22.17),
    sglang("qwen3_32b", QWEN3_32B, 64, 1024, 29.48),
    sglang("qwen3_32b", QWEN3_32B, 16, 4096, 22.45),
    sglang("qwen3_32b", QWEN3_32B, 16, 8192, 26.94),
    sglang("qwen3_8b", QWEN3_8B, 64, 1024, 11.11),
    sglang("qwen3_8b", QWEN3_8B, 256, 1024, 30.00),
    sglang("qwen3_8b", QWEN3_8B, 64, 8192, 31.98),
    Published(
        "llama3_70b", LLAMA3_70B, "v6e:2x4", (1, 1, 8), 64, 1024, 1024, measured=25.4
    ),
    Published(
        "llama3_70b", LLAMA3_70B, "v6e:2x4", (1, 1, 8), 128, 1024, 1024, measured=35.1
    ),
    Published(
        "llama3_70b_int8",
        LLAMA3_70B,
        "v5e:4x4",
        (2, 1, 8),
        16,
        1024,
        1024,
        measured=1e3 / 80.2,
        int8=True,
    ),
    Published(
        "llama3_70b_int8",
        LLAMA3_70B,
        "v5e:4x4",
        (2, 1, 8),
        64,
        1024,
        1024,
        measured=1e3 / 58.4,
        int8=True,
    ),
)


# Ops of a layer that are no product, no kernel and no sum, in compiled steps: 30 to 38.
SMALL_OPS = 38


def by_bytes(
    text: TextConfig,
    chip: Chip,
    *,
    shards: int,
    rows: int,
    slots: float,
    int8: bool = False,
) -> float:
    """Returns the seconds of a decoded token of every row, by what it reads; no compiler is asked.

    shards: chips that a layer is split over. rows: samples of those chips. slots: keys of each
    layer that they attend to, all rows together; a prompt that samples share counts once.

        weights / streamed + keys and values / attended + small ops + two sums a layer

    A sum is an all-reduce in a ring both ways, and a hop of latency for each other chip.
    """
    # 1. The weights, and the head, which never has 8 bits.
    width = text.heads * text.head_dim
    keys = text.kv_heads * text.head_dim
    layer = text.embed * (2 * width + 2 * keys + 3 * text.mlp)
    weights = (
        layer * text.layers * (1 if int8 else 2) + 2 * text.vocab_size * text.embed
    )
    seconds = weights / shards / chip.streamed_hbm

    # 2. Keys and values, in bfloat16.
    cache = slots * text.layers * 2 * keys * 2
    seconds += cache / shards / chip.attended_hbm

    # 3. What is neither.
    sent = 2 * (shards - 1) / shards * rows * text.embed * 2
    one_sum = (shards - 1) * HOP_SECONDS / 2 + sent / (2 * chip.link)
    return seconds + text.layers * (SMALL_OPS * SMALL_OP_SECONDS + 2 * one_sum)


def figures(row: Published) -> dict:
    """Returns a row's line of the table, without an estimate of the compiler."""
    return {
        "name": row.name,
        "topology": row.topology,
        "mesh": list(row.mesh),
        "int8": row.int8,
        "measured": row.measured,
        "by_bytes": row.by_bytes,
        "estimated": None,
    }


# -------------------------------------------------------------------------------------------------
# a stage of a run


def band(*, int8: bool) -> tuple[float, float]:
    """Returns the least and the most that a measured step took, over what `by_bytes` says of it."""
    rows = [row for row in PUBLISHED if row.int8 == int8]
    ratios = [row.measured / row.by_bytes for row in rows]
    return min(ratios), max(ratios)


def decoding(config: Run, stage: GRPO, steps: list[np.ndarray]) -> dict:
    """Returns the seconds of a rollout's decoding by `by_bytes`, and their band.

    steps: int[P, G] lengths of samples, of one step or of several whose mean is taken.
    """
    chip = CHIPS[topology.parse(config.topology).kind]
    data, fsdp, tensor = config.mesh
    rows = stage.decode_slots // data
    # Samples of a prompt share its keys.
    under_way = stage.in_flight or stage.prompts
    prompts = under_way // data * stage.max_prompt_tokens

    def seconds(slots: float) -> float:
        return by_bytes(
            config.model.text,
            chip,
            shards=fsdp * tensor,
            rows=rows,
            slots=slots,
            int8=stage.rollout_int8,
        )

    full = seconds(prompts + rows * stage.max_completion_tokens)
    cache = full - seconds(prompts)
    total = lengths.decode_seconds(config, stage, steps, full, cache)
    least, most = band(int8=stage.rollout_int8)
    return {"seconds": total, "least": total * least, "most": total * most}


def decoding_line(name: str, decode: dict, rest: float | None) -> str:
    """Formats what `decoding` returns, in one line; rest: seconds of a step beside it, if known."""
    spread = f"{decode['least']:.0f} to {decode['most']:.0f}"
    text = (
        f"{name}: at the rates of steps that others measured decoding takes "
        f"{decode['seconds']:.0f} s ({spread} by their spread)"
    )
    if rest is None:
        return text
    least, middle, most = (rest + decode[k] for k in ("least", "seconds", "most"))
    return f"{text}, and a step {middle:.0f} s ({least:.0f} to {most:.0f})"
