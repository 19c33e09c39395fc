"""GRPO on real handwritten digits in one file, from the package's parts, without the launcher.

    python docs/grpo_in_one_file.py --steps=20 --warmup=600

A small R1V3 that starts from nothing learns, supervised, to read images of 2 x 2 digits and to
answer with a chain of thought; then GRPO improves it on its own samples. Deliberately absent, and
in `r1v3_jax/stages`: resuming, checkpoints, watching, evaluation, several hosts. A few minutes on a
laptop.
"""

import argparse
import contextlib
import functools
import itertools
import tempfile

import jax
import numpy as np

from r1v3_jax.config import GRPO, SFT, Data, Optimizer, load_config
from r1v3_jax.data import packing, placement
from r1v3_jax.losses import Clipped, TokenMean
from r1v3_jax.models import build
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rollout.sampler import GroupSampler
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import TRAIN, make_mesh
from r1v3_jax.stages import grpo, sft
from r1v3_jax.tasks import digits
from r1v3_jax.train.optimizer import trainable
from r1v3_jax.train.policy_batch import policy_batch
from r1v3_jax.train.update import create
from r1v3_jax.types import StepInfo

# What is learnt, and from what: an example is a function of its index.
MODEL = load_config("digits").model
CHAINS = digits.Digits(augment=True, styles=(0.4, 0.35, 0.25)).mix(easy=1, normal=1)


def warm_up(model, processor: Processor, config: SFT):
    """Teaches the model to read digits and to write chains of thought."""
    optimizer, update = sft.make_update(config)
    state = create(model, optimizer, trainable("all"))
    with contextlib.closing(sft.reader(config, processor, Data())) as rows:
        batches = packing.packed_batches(rows, processor, config)
        for step, (batch, _) in enumerate(itertools.islice(batches, config.steps)):
            state, metrics = update(state, place(batch))
            if step % 50 == 0:
                print(f"warm-up {step:4d}  loss {float(metrics['loss']):.3f}")
    return state.model


def reinforce(model, processor: Processor, config: GRPO):
    """Samples, scores, updates: the whole of GRPO, strictly on-policy."""
    optimizer, update = grpo.make_update(config)
    state = create(model, optimizer, trainable("all"))
    sampler = GroupSampler(
        processor=processor,
        sampling=SamplingParams(
            max_tokens=config.max_completion_tokens,
            temperature=config.temperature,
            banned=processor.tokenizer.banned_token_ids,
        ),
        max_prompt_tokens=config.max_prompt_tokens,
        tiles=config.tiles,
        group_size=config.group_size,
    )
    with contextlib.closing(grpo.reader(config, processor, Data())) as questions:
        for step in range(config.steps):
            # 1. P prompts, G samples each, their rewards.
            items, _ = questions.take(config.prompts)
            groups = sampler.groups(
                build.for_decoding(state.model),
                [item.example for item in items],
                StepInfo(step, jax.random.key(step), config.max_completion_tokens),
            )
            # 2. Advantages within each group, packed rows, one update.
            batch = policy_batch(groups, config, processor)
            state, _ = update(state, place(batch))
            rewards = np.concatenate([group.rewards for group in groups])
            print(f"grpo {step:4d}  mean reward {np.nanmean(rewards):.3f}")
    return state.model


def place(batch):
    """Puts a batch on the devices of the current mesh."""
    return placement.place(batch, TRAIN, jax.sharding.get_mesh())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--warmup", type=int, default=600)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    rows = functools.partial(SFT, CHAINS, rows=8, row_tokens=160, tiles=40)
    learning = Optimizer(lr=3e-3, warmup_steps=20, schedule="cosine")
    with tempfile.TemporaryDirectory() as directory, jax.set_mesh(make_mesh((1, 1, 1))):
        digits.write_tokenizer(directory)
        processor = Processor(MODEL, load(directory))
        model = build.init(MODEL, load_config("digits").compute, seed=0)
        model = warm_up(
            model, processor, rows(steps=arguments.warmup, optimizer=learning)
        )
        config = GRPO(
            CHAINS, steps=arguments.steps, prompts=16, group_size=8, max_prompt_tokens=26,
            max_completion_tokens=52, tiles=16, aggregation=TokenMean(), loss=Clipped(high=0.28),
            optimizer=Optimizer(lr=2e-4, warmup_steps=5),
        )  # fmt: skip
        reinforce(model, processor, config)


if __name__ == "__main__":
    main()
