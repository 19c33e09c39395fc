"""A step with samples of uneven lengths, from the estimates of its programs; see `lengths`."""

import dataclasses

import jax
import numpy as np

from r1v3_jax.config import Run
from r1v3_jax.tpu import lengths as uneven
from r1v3_jax.tpu.compiled import Compiled
from r1v3_jax.tpu.compiler import GIB
from r1v3_jax.tpu.lengths import Lengths
from r1v3_jax.train.policy_batch import pack


def uneven_step(
    config: Run,
    name: str,
    compiled: dict[str, Compiled],
    lengths: Lengths,
    mesh,
) -> dict:
    """Returns the figures of a step of a stage with samples of these lengths.

    compiled: by label, as "decode". mesh: of devices, over which the update packs its samples.
    """
    stage = config.stages[name]
    steps = uneven.draws(stage, lengths)
    with jax.set_mesh(mesh):
        used = float(np.mean([pack(step, stage).used for step in steps]))
    seconds = {}
    for label, entry in compiled.items():
        if not entry.program.calls:
            continue
        if label == "decode":
            once = decode_of(config, name, entry, steps)
        elif entry.program.trip == "micro-batch":
            # Micro-batches that stay empty are not run.
            empty = entry.program.trips - used
            once = entry.seconds - empty * entry.estimate.dynamic_loop_seconds
        else:
            once = entry.seconds
        seconds[label] = once * entry.program.calls
    mean, cut = uneven.mean_and_cut(steps, stage.max_completion_tokens)
    total = sum(seconds.values())
    saves = {}
    if stage.in_flight:
        data = config.mesh[0]
        steady = uneven.mean_load(stage, steps, data).trips
        # Before a save fewer samples are under way: more tokens a step, each about as long.
        longer = uneven.drained_trips(stage, steps, data) / steady
        saves["with_saves"] = total + seconds["decode"] * (longer - 1)
    return {
        **saves,
        "lengths": lengths.name,
        "mean_tokens": mean,
        "cut": cut,
        "micro_batches": used,
        "seconds": seconds,
        "step_seconds": total,
        "tokens_per_second": mean * stage.prompts * stage.group_size / total,
    }


def decode_of(
    config: Run, name: str, decode: Compiled, steps: list[np.ndarray]
) -> float:
    """Returns the seconds of decoding samples of int[P, G] lengths, the mean of several steps."""
    stage = config.stages[name]
    trip = decode.estimate.dynamic_loop_seconds
    # By kernels a token reads the slots in use; by the reference what it reads is not known here.
    cache = 0.0
    if config.compute.attention == "splash":
        cache = uneven.cache_bytes(config, stage) / decode.estimate.cache_rate
    return uneven.decode_seconds(config, stage, steps, trip, min(cache, trip))


def uneven_line(name: str, step: dict) -> str:
    """Formats the figures of `uneven_step`, in one line."""
    parts = [f"{label} {seconds:.2f}" for label, seconds in step["seconds"].items()]
    saves = ""
    if "with_saves" in step:
        saves = (
            f"; {step['with_saves']:.1f} s on average over the steps between two saves"
        )
    return (
        f"{name}: with samples of {step['lengths']} (mean {step['mean_tokens']:,.0f} tokens, "
        f"{step['cut']:.0%} cut) a step takes {step['step_seconds']:.1f} s by estimate "
        f"({', '.join(parts)}); {step['tokens_per_second']:,.0f} tokens/s{saves}"
    )


def slower_slots(
    config: Run,
    name: str,
    with_slots: Compiled,
    all_at_once: Compiled,
    lengths: Lengths | None,
) -> dict:
    """Returns what decoding takes with the slots of a stage and without, and a sentence about it.

    lengths: of samples; None: all are full.
    """
    stage = config.stages[name]
    if not all_at_once.fits:
        sentence = (
            f"{name}: without slots decoding needs {all_at_once.peak / GIB:.1f} GiB of "
            f"{all_at_once.limit / GIB:.2f} and does not fit"
        )
        return {"sentence": sentence}
    steps = uneven.drawn(stage, lengths)
    about = "every row full" if lengths is None else lengths.name
    slots = stage.slots
    seconds = decode_of(config, name, with_slots, steps)
    whole = config.with_stages(**{name: dataclasses.replace(stage, slots=0)})
    other = decode_of(whole, name, all_at_once, steps)
    sentence = (
        f"{name}: decoding takes {seconds:.1f} s in {slots} slots and {other:.1f} s all at once, "
        f"by estimate ({about})"
    )
    if seconds > other:
        sentence = (
            f"warning: {sentence}; slots save memory here, not time: 0 would be faster"
        )
    return {"seconds": seconds, "all_at_once": other, "sentence": sentence}
