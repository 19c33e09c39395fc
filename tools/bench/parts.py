"""Runs and times sampling, a GRPO step and a Preference step at a named shape, on any device.

    bench = Bench(SHAPES["tunix"])
    bench.run(["step"], runs=5)
    print(bench.report()["timings"]["step"]["cpu_s"]["median"])

A step goes the program's own way: `GroupSampler.groups`, `policy_batch`, `place`, the update of
`stages.grpo`. Prompts are random ids with pictures of noise. The scores that the verifier gives to
noise are replaced by a number computed from the sampled ids. Knows nothing of other programs:
`__main__` runs those.
"""

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable

import arithmetic
import jax
import jax.numpy as jnp
import numpy as np
from clock import Clock, Run, summary
from naive import naive_batch, naive_loss
from naive_pairs import naive_pair_batch, naive_pair_loss, naive_score
from shapes import RandomProcessor, Shape, count_down, example

from r1v3_jax.config import GRPO, Data, Preference
from r1v3_jax.data import placement
from r1v3_jax.data.prompts import prompt_batch
from r1v3_jax.losses import Truncated
from r1v3_jax.models import build
from r1v3_jax.models.flops import num_params
from r1v3_jax.processing.processor import EncodedPair
from r1v3_jax.rewards.score import Score
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.in_flight import InFlight
from r1v3_jax.rollout.sampler import GroupSampler
from r1v3_jax.rollout.texts import encode_images
from r1v3_jax.run import metrics
from r1v3_jax.sampling import loop
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sampling.state import Completions
from r1v3_jax.sharding import TRAIN
from r1v3_jax.stages import grpo, preference
from r1v3_jax.train.optimizer import schedule, trainable
from r1v3_jax.train.policy_batch import policy_batch
from r1v3_jax.train.preference import pair_batch
from r1v3_jax.train.update import create, gradients, make_update
from r1v3_jax.types import PolicyBatch, PromptBatch, StepInfo

CARRIED = 4  # steps' prompts under way


class Bench:
    """A shape made ready, and the clock on it. slots: rows of a continuous batch; 0: none."""

    def __init__(self, shape: Shape, *, slots: int = 0):
        self.shape = shape
        self.clock = Clock()
        self.rollouts = 0  # sampled so far
        self.in_flight = None  # of the part `carried`
        self.peak_rss_gib: dict[str, float] = {}  # after each part
        self.load = os.getloadavg()[0]
        self.processor = RandomProcessor(shape)
        self.config = GRPO(
            train=functools.partial(example, shape=shape),
            prompts=shape.prompts,
            group_size=shape.group_size,
            max_prompt_tokens=shape.prompt_tokens,
            max_completion_tokens=shape.new_tokens,
            tiles=shape.tiles,
            accumulate=shape.accumulate,
            optimizer=dataclasses.replace(GRPO.optimizer, lr=1e-6),
        )
        banned = self.processor.tokenizer.banned_token_ids
        self.sampler = GroupSampler(
            processor=self.processor,
            sampling=SamplingParams(shape.new_tokens, banned=banned),
            max_prompt_tokens=shape.prompt_tokens,
            tiles=shape.tiles,
            group_size=shape.group_size,
            slots=slots,
        )

        # Weights that end samples at uneven lengths, if the shape has such.
        model = build.init(shape.model, shape.compute)
        if shape.shortest:
            model = count_down(model, shape)
        optimizer, self.update = grpo.make_update(self.config)
        learns = trainable("all")
        lr = schedule(self.config.optimizer, 1)
        loss = functools.partial(naive_loss, config=self.config)
        self.naive_update = make_update(gradients(loss), optimizer, learns, lr)
        self.state = create(model, optimizer, learns)

        # A step of preferences, with as many pairs as there are prompts.
        self.preference = Preference(
            train=self.config.train,
            pairs=shape.prompts,
            max_prompt_tokens=shape.prompt_tokens,
            max_answer_tokens=shape.new_tokens,
            tiles=shape.tiles,
            # Two pairs at least in a micro-batch.
            accumulate=min(shape.accumulate, max(1, shape.prompts // 2)),
            optimizer=self.config.optimizer,
        )
        _, self.pair_update = preference.make_update(self.preference)
        loss = functools.partial(naive_pair_loss, config=self.preference)
        self.naive_pair_update = make_update(gradients(loss), optimizer, learns, lr)

    def run(self, parts: list[str], runs: int) -> None:
        """Times each of the named PARTS, once to compile and `runs` times more."""
        for part in parts:
            for _ in range(runs + 1):
                PARTS[part](self)
            self.peak_rss_gib[part] = metrics.peak_rss_gib()

    # --- the parts

    def sample(self) -> None:
        """Times one rollout: G samples of each of the P prompts."""
        with self.clock("sampler") as run:
            groups = self.groups(self.sampler)
            run.tokens, run.busy_slots = counts_of([groups])

    def sample_static(self) -> None:
        """Times as many samples in batches of `slots`: each batch waits for its longest sample."""
        # 8 slots and 4 samples a prompt: batches of 2 prompts.
        prompts, remainder = divmod(self.sampler.slots, self.shape.group_size)
        if remainder or not prompts or self.shape.prompts % prompts:
            raise ValueError(
                f"static takes batches of {self.sampler.slots} samples (--slots) from "
                f"{self.shape.prompts} prompts x {self.shape.group_size}; use a multiple of "
                f"{self.shape.group_size} that divides {self.shape.prompts * self.shape.group_size}"
            )
        with self.clock("static") as run:
            tiles = prompts if self.shape.tiles else 0
            sampler = dataclasses.replace(self.sampler, slots=0, tiles=tiles)
            batches = []
            for start in range(0, self.shape.prompts, prompts):
                batches.append(self.groups(sampler, prompts=prompts, start=start))
            run.tokens, run.busy_slots = counts_of(batches)

    def sample_distinct(self) -> None:
        """Times as many samples, each with its own prompt: nothing is shared."""
        # Every prompt has an image of one tile, or none has one.
        rows = self.shape.prompts * self.shape.group_size
        tiles = rows if self.shape.tiles else 0
        with self.clock("distinct") as run:
            sampler = dataclasses.replace(self.sampler, group_size=1, tiles=tiles)
            groups = self.groups(sampler, prompts=rows)
            run.tokens, run.busy_slots = counts_of([groups])

    def step(self) -> None:
        """Times one GRPO step, and its rollout, batch (on the host) and update."""
        with self.clock("step") as whole:
            with self.clock("rollout") as run:
                groups = self.groups(self.sampler)
                run.tokens, run.busy_slots = counts_of([groups])
                whole.tokens = run.tokens
                whole.busy_slots = run.busy_slots
            with self.clock("batch"):
                batch = self.place(policy_batch(groups, self.config, self.processor))
            self.learn("update", self.update, batch)

    def carried(self) -> None:
        """Times one GRPO step of which CARRIED steps' prompts are under way; the first fills up."""
        if self.in_flight is None:
            config = dataclasses.replace(
                self.config,
                in_flight=CARRIED * self.shape.prompts,
                slots=self.sampler.slots,
                correction=Truncated(2.0),
            )
            _, update = grpo.make_update(config)
            questions = grpo.reader(config, self.processor, Data())
            flight = InFlight(self.sampler, config, self.new_key(), lambda _: math.inf)
            self.in_flight = (config, update, questions, flight, itertools.count())
        config, update, questions, flight, steps = self.in_flight
        info = StepInfo(next(steps), self.new_key(), self.shape.new_tokens)
        with self.clock("carried") as whole:
            with self.clock("carried_rollout") as run:
                groups = flight.collect(self.state.model, questions, info).groups
                groups = [with_scores(group) for group in groups]
                run.tokens = sum(int(g.completions.lengths.sum()) for g in groups)
                run.busy_slots = groups[0].busy_slots
                whole.tokens = run.tokens
                whole.busy_slots = run.busy_slots
            batch = self.place(policy_batch(groups, config, self.processor))
            self.learn("carried_update", update, batch)

    def profile(self) -> None:
        """Times the programs of a rollout without slots, one by one."""
        model = build.for_decoding(self.state.model)
        mesh = jax.sharding.get_mesh()
        prompts = placement.place(self.prompts(), model.compute.rules, mesh)
        # What a program is compiled for.
        static = {
            "group_size": self.shape.group_size,
            "sampling": self.sampler.sampling,
        }
        images = None
        if prompts.tiles is not None:
            with self.clock("encode_images"):
                images = jax.block_until_ready(encode_images(model, prompts.tiles))
        texts = model, prompts.tokens, prompts.lengths
        pictures = images, prompts.image_index
        with self.clock("prefill") as prefill:
            jax.block_until_ready(loop.prefill(*texts, *pictures, **static))
        with self.clock("generate") as whole:
            key = self.new_key()
            jax.block_until_ready(loop.generate(*texts, key, *pictures, **static))
        # Generating is prefill and decoding: the difference is decoding alone.
        decode = Run(
            wall_s=whole.wall_s - prefill.wall_s,
            cpu_s=whole.cpu_s - prefill.cpu_s,
        )
        self.clock.runs.setdefault("decode", []).append(decode)

    def multiply(self) -> None:
        """Times the matrix products of full rows and nothing else, on one device.

        No sampler can be faster.
        """
        model = build.for_decoding(self.state.model)
        text = self.shape.model.text
        rows = self.shape.prompts * self.shape.group_size

        def matrix(name: str, layer: int) -> np.ndarray:  # without a layout
            weight = np.asarray(getattr(model.language.blocks, name)[layer])
            # Weights have an axis for heads; the width of the model is first or last.
            if name in ("out", "down"):
                return weight.reshape(-1, text.embed)
            return weight.reshape(len(weight), -1)

        names = ("q", "k", "v", "out", "gate", "up", "down")
        layers = []
        for layer in range(text.layers):
            layers.append({name: matrix(name, layer) for name in names})
        head = np.asarray(model.language.head_weights())
        arguments = layers, head, np.ones((rows, text.embed), head.dtype)
        arguments = jax.tree.map(jnp.asarray, arguments)
        with self.clock("products") as run:
            count = jnp.int32(self.shape.new_tokens)
            jax.block_until_ready(arithmetic.products(*arguments, count))
            run.tokens = rows * self.shape.new_tokens

    def naive(self) -> None:
        """Times two updates on the same groups: ours, and one that repeats each prompt."""
        groups = self.groups(self.sampler)
        batch = self.place(policy_batch(groups, self.config, self.processor))
        self.learn("update", self.update, batch)
        batch = self.place(naive_batch(groups, self.config, self.processor))
        self.learn("naive_update", self.naive_update, batch)

    def pairs(self) -> None:
        """Times two steps on the same pairs: ours, and one that repeats a prompt for each answer.

        A step is the reference's log-probabilities and the update.
        """
        reference = jax.tree.map(jnp.copy, self.state.model)
        batch = self.place(self.pair_batch())
        with self.clock("pairs"):
            batch = preference.with_reference(reference, batch, self.preference)
            self.learn("pair_update", self.pair_update, batch)
        pairs = self.encoded_pairs()
        batch = self.place(naive_pair_batch(pairs, self.preference, self.processor))
        with self.clock("naive_pairs"):
            logprobs = naive_score(reference, batch)
            batch = dataclasses.replace(batch, ref_logprobs=logprobs)
            self.learn("naive_pair_update", self.naive_pair_update, batch)

    # --- what they are made of

    def new_key(self):
        """Returns another key for each rollout: the n-th of two programs is the same."""
        self.rollouts += 1
        return jax.random.fold_in(jax.random.key(0), self.rollouts)

    def prompts(self) -> PromptBatch:
        """Returns the prompts of a step as arrays."""
        shape = self.shape
        questions = [self.config.train(i) for i in range(shape.prompts)]
        encoded = [self.processor.prompt(question) for question in questions]
        return prompt_batch(
            encoded,
            self.processor,
            max_prompt_tokens=shape.prompt_tokens,
            tiles=shape.tiles,
        )

    def encoded_pairs(self) -> list[EncodedPair]:
        """Returns the pairs of a step of preferences."""
        limit = self.preference.max_answer_tokens
        examples = [self.preference.train(i) for i in range(self.preference.pairs)]
        return [self.processor.pair(x, answer_tokens=limit) for x in examples]

    def pair_batch(self) -> PolicyBatch:
        """Returns those pairs as arrays, with a shift of 0."""
        shards = TRAIN.shards("batch")
        pairs = self.encoded_pairs()
        batch = pair_batch(pairs, self.preference, self.processor, shards)
        return dataclasses.replace(batch, numbers={"shift": np.float32(0)})

    def groups(
        self, sampler: GroupSampler, prompts: int = 0, start: int = 0
    ) -> list[Group]:
        """Samples groups, and gives them scores that differ.

        prompts: how many, from number `start` on; 0: those of a step.
        """
        model = build.for_decoding(self.state.model)
        count = prompts or self.shape.prompts
        examples = [self.config.train(i) for i in range(start, start + count)]
        info = StepInfo(step=0, key=self.new_key(), token_limit=self.shape.new_tokens)
        return [with_scores(group) for group in sampler.groups(model, examples, info)]

    def place(self, batch):
        """Puts a batch on the devices, and waits for it."""
        rules = self.shape.compute.rules
        placed = placement.place(batch, rules, jax.sharding.get_mesh())
        return jax.block_until_ready(placed)

    def learn(self, name: str, update: Callable, batch) -> None:
        """Times one update under `name`."""
        with self.clock(name):
            self.state, learnt = jax.block_until_ready(update(self.state, batch))
        if not learnt["finite"]:
            raise ValueError(
                f"{name}: loss {learnt['loss']} or its gradient is not finite"
            )

    def report(self) -> dict:
        """Returns everything that was measured, for a JSON file."""
        timings = {name: summary(runs) for name, runs in self.clock.runs.items()}
        work = arithmetic.flops(self.shape)
        result = {
            "shape": dataclasses.asdict(self.shape),
            "parameters": num_params(self.shape.model),
            "versions": metrics.versions(),
            "load": {"before": self.load, "after": os.getloadavg()[0]},
            "flops": work,
            "peak_rss_gib": self.peak_rss_gib,
            "timings": timings,
        }
        if memory := jax.devices()[0].memory_stats():  # a CPU has none
            result["peak_device_gib"] = memory["peak_bytes_in_use"] / 2**30
        peak = arithmetic.peak_flops()
        is_half = self.shape.compute.dtype == "bfloat16"
        # The FLOPs are those of full samples, the peak that of bfloat16.
        if peak and is_half and not self.shape.shortest:
            chips = jax.sharding.get_mesh().size or 1
            result["mfu"] = {}
            for name in work:
                if name in timings:
                    seconds = timings[name]["wall_s"]["median"]
                    result["mfu"][name] = work[name] / (seconds * chips * peak)
        return result


PARTS = {
    "sampler": Bench.sample,
    "static": Bench.sample_static,
    "distinct": Bench.sample_distinct,
    "step": Bench.step,
    "carried": Bench.carried,
    "profile": Bench.profile,
    "products": Bench.multiply,
    "naive": Bench.naive,
    "pairs": Bench.pairs,
}


def with_scores(group: Group) -> Group:
    """Returns the group with scores that differ."""
    return dataclasses.replace(group, scores=scores_of(group.completions))


def scores_of(completions: Completions) -> list[Score]:
    """Scores each sample by its share of odd ids, which differs from sample to sample.

    The peers' scripts do about the same.
    """
    scores = []
    for ids, length in zip(completions.tokens, completions.lengths, strict=True):
        share = float(np.mean(ids[:length] % 2))
        scores.append(
            Score(
                total=share,
                accuracy=share,
                format=0.0,
                verdict=Verdict.RIGHT,
                extracted=None,
                reason="",
            )
        )
    return scores


def counts_of(batches: list[list[Group]]) -> tuple[int, float]:
    """Counts the tokens of rollouts with equally many slots, and how full the slots were.

    Returns tokens, and tokens / (slots x steps). A rollout of 4 tokens that fills 2/3 of its slots
    and steps has 6 places; one of 20 tokens that fills all has 20: 24 / 26.
    """
    tokens = 0
    places = 0.0
    for batch in batches:
        count = sum(int(group.completions.lengths.sum()) for group in batch)
        tokens += count
        places += count / batch[0].busy_slots
    return tokens, tokens / places
