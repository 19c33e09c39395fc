"""How large the engine is made: what it reserves for every slot, and which programs it compiles."""

import dataclasses
import math

from r1v3_jax.config import Compute, ModelConfig
from r1v3_jax.engine.programs import CHUNK, Sizes
from r1v3_jax.sharding import mesh_size

SMALLEST_PROMPT = 128  # tokens; the kernel of a TPU wants a multiple of it
LARGEST_TILES = 16  # that one call of the tower encodes, on each device


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """What the engine has room for."""

    slots: int = 32  # samples at a time
    max_prompt_tokens: int = 8192
    max_tokens: int = 16384  # of an answer
    queue: int = 256  # requests that may wait
    int8: bool = False  # the language model's matrices in 8 bits


def check_room(config: ModelConfig, settings: EngineSettings) -> None:
    """Raises ValueError unless the model can have such prompts and answers."""
    for name in ("slots", "max_prompt_tokens", "max_tokens", "queue"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} {getattr(settings, name)} must be at least 1")
    room = config.text.max_positions
    if settings.max_prompt_tokens + settings.max_tokens > room:
        raise ValueError(
            f"max_prompt_tokens {settings.max_prompt_tokens} and max_tokens "
            f"{settings.max_tokens} exceed the model's {room} positions; "
            f"{room // 2} and {room - room // 2} would do"
        )


def sizes_of(
    config: ModelConfig, compute: Compute, settings: EngineSettings, mesh
) -> Sizes:
    """Returns the sizes of the programs, for a mesh; ValueError if they do not fit onto it."""
    check_room(config, settings)
    groups = mesh_size(mesh, compute.rules.batch)
    if settings.slots % groups:
        nearest = -(-settings.slots // groups) * groups
        raise ValueError(
            f"{settings.slots} slots cannot be split over {groups} groups of devices; "
            f"{nearest} can"
        )
    # A request of several samples keeps its prompt on each of several groups until the last sample
    # has a slot: one row more than slots.
    extra = groups if groups > 1 else 0

    # 1. Lengths of prompts: 128, 256, 512, ..., up to what is wanted. The cache has as many slots
    #    as the longest of them.
    wanted = settings.max_prompt_tokens
    multiple = SMALLEST_PROMPT
    if compute.attention != "splash":
        multiple = min(CHUNK, wanted)
    longest = -(-wanted // multiple) * multiple
    lengths = [longest]
    while lengths[0] > SMALLEST_PROMPT:
        lengths.insert(0, doubling_below(lengths[0]))

    # 2. Tiles of a call of the tower: 1, 2, 4, 8, 16, on each device, and as many as a prompt has
    #    room for at most.
    buckets = ()
    tiles = 0
    if config.vision is not None:
        devices = mesh_size(mesh, compute.rules.tiles)
        most = max(1, wanted // config.image_tokens_per_tile)
        rounds = math.ceil(math.log2(min(LARGEST_TILES, -(-most // devices))))
        buckets = tuple(devices * 2**i for i in range(rounds + 1))
        # The last call may be padded.
        tiles = -(-most // buckets[-1]) * buckets[-1]
    return Sizes(
        slots=settings.slots,
        rows=settings.slots + extra,
        prompt_tokens=wanted,
        cache_tokens=longest,
        max_tokens=settings.max_tokens,
        prompt_buckets=tuple(lengths),
        tile_buckets=buckets,
        tiles=tiles,
    )


def doubling_below(length: int) -> int:
    """Returns the largest of 128, 256, 512, ... below `length`, which is more than 128."""
    return SMALLEST_PROMPT * 2 ** (math.ceil(math.log2(length / SMALLEST_PROMPT)) - 1)
