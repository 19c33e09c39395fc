"""What sampling and a whole GRPO step cost at a named shape, on whatever device is there.

    bench = Bench(SHAPES["tunix"])
    bench.run(["step"], runs=5)
    print(bench.report()["timings"]["step"]["cpu_s"]["median"])

A step goes the program's own way: `GroupSampler.groups`, `rollout.policy_batch`, `data.place`,
the update of `stages.grpo`. Prompts are random ids with pictures of noise, and the scores that the
verifier gives to noise are replaced by a number read off the sampled ids. Knows nothing of other
programs: `tools/bench` runs those.
"""

import contextlib
import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from shapes import Processor, Shape, count_down, example

from r1v3_jax import types
from r1v3_jax.config import GRPO
from r1v3_jax.data import placement
from r1v3_jax.data.prompts import TileSlots, place_images, prompt_batch
from r1v3_jax.losses.advantages import group_advantages, token_weights
from r1v3_jax.losses.policy import clipped_policy_loss
from r1v3_jax.losses.supervised import weighted_sum
from r1v3_jax.models import build
from r1v3_jax.models.flops import num_params
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.rewards import score
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout import sampler
from r1v3_jax.rollout.group import Group
from r1v3_jax.run import metrics
from r1v3_jax.sampling import loop, params, state
from r1v3_jax.stages import grpo
from r1v3_jax.tpu.chips import CHIPS
from r1v3_jax.train import policy_batch
from r1v3_jax.train.logprobs import token_logprobs
from r1v3_jax.train.optimizer import schedule, trainable
from r1v3_jax.train.update import create, gradients, make_update
from r1v3_jax.types import Batch

# Dense bfloat16 FLOP/s by a part of jax's `device_kind`, the first that fits; from the vendors'
# data sheets.
PEAK_FLOPS = {
    "H100": 989e12, "H200": 989e12, "A100": 312e12,
    "TPU v4": 275e12, "TPU v5 lite": CHIPS["v5e"].flops, "TPU v5": CHIPS["v5p"].flops,
    "TPU v6": CHIPS["v6e"].flops,
}  # fmt: skip


@dataclasses.dataclass
class Run:
    wall_s: float = 0.0
    cpu_s: float = 0.0  # of all threads of this process
    tokens: int = 0  # sampled
    busy: float = 0.0  # tokens for each decode slot and step, of a rollout


class Clock:
    """Runs by name: `with clock("update") as run: ...`"""

    def __init__(self):
        self.runs: dict[str, list[Run]] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Run]:
        run, wall, cpu = Run(), time.perf_counter(), time.process_time()
        yield run
        run.wall_s, run.cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        self.runs.setdefault(name, []).append(run)


def summary(runs: list[Run]) -> dict:
    """What the runs after the first have in common; the first compiled, and stands by itself."""
    first, *steady = runs
    out = {"runs": len(steady)}
    for unit in ("cpu_s", "wall_s"):
        seconds = [getattr(run, unit) for run in steady]
        middle = statistics.median(seconds)
        out[unit] = {"min": min(seconds), "median": middle, "max": max(seconds)}
        out[f"compile_{unit}"] = getattr(first, unit) - middle
    if first.tokens:
        out["tokens"] = [run.tokens for run in steady]
        if first.busy:
            out["busy"] = statistics.median(run.busy for run in steady)
        out["tokens_per_s"] = statistics.median(
            run.tokens / run.wall_s for run in steady
        )
        out["tokens_per_cpu_s"] = statistics.median(
            run.tokens / run.cpu_s for run in steady
        )
    return out


class Bench:
    """A shape made ready, and the clock on it. `slots`: rows of a continuous batch; 0: none."""

    def __init__(self, shape: Shape, *, slots: int = 0):
        self.shape, self.clock, self.draws = shape, Clock(), 0
        self.peak_rss_gib: dict[str, float] = {}
        self.load = os.getloadavg()[0]
        self.processor = Processor(shape)
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
        self.sampler = sampler.GroupSampler(
            processor=self.processor,
            sampling=params.SamplingParams(
                shape.new_tokens, banned=self.processor.tokenizer.banned_token_ids
            ),
            max_prompt_tokens=shape.prompt_tokens,
            tiles=shape.tiles,
            group_size=shape.group_size,
            slots=slots,
        )
        model = build.init(shape.model, shape.compute)
        if shape.shortest:
            model = count_down(model, shape.shortest, shape.new_tokens)
        optimizer, self.update = grpo.make_update(self.config)
        learns, lr = trainable("all"), schedule(self.config.optimizer, 1)
        loss = functools.partial(naive_loss, config=self.config)
        self.naive_update = make_update(gradients(loss), optimizer, learns, lr)
        self.state = create(model, optimizer, learns)

    def run(self, parts: list[str], runs: int) -> None:
        """Times each of PARTS named, once to compile and `runs` times more."""
        for part in parts:
            for _ in range(runs + 1):
                PARTS[part](self)
            self.peak_rss_gib[part] = metrics.peak_rss_gib()

    # --- the parts

    def sample(self) -> None:
        """One rollout: G samples of each of the P prompts."""
        with self.clock("sampler") as run:
            run.tokens, run.busy = counts_of([self.groups(self.sampler)])

    def sample_static(self) -> None:
        """As many samples, in batches of as many as there are slots: each waits for its longest."""
        each, odd = divmod(self.sampler.slots, self.shape.group_size)  # prompts
        if odd or not each or self.shape.prompts % each:
            raise ValueError(
                f"static takes batches of {self.sampler.slots} samples (--slots) from "
                f"{self.shape.prompts} prompts x {self.shape.group_size}; use a multiple of "
                f"{self.shape.group_size} that divides {self.shape.prompts * self.shape.group_size}"
            )
        with self.clock("static") as run:
            alone = dataclasses.replace(
                self.sampler, slots=0, tiles=each if self.shape.tiles else 0
            )
            firsts = range(0, self.shape.prompts, each)
            run.tokens, run.busy = counts_of(
                [self.groups(alone, prompts=each, first=first) for first in firsts]
            )

    def sample_distinct(self) -> None:
        """As many samples, each of a prompt of its own: nothing is shared."""
        rows = self.shape.prompts * self.shape.group_size
        tiles = rows if self.shape.tiles else 0
        with self.clock("distinct") as run:
            alone = dataclasses.replace(self.sampler, group_size=1, tiles=tiles)
            run.tokens, run.busy = counts_of([self.groups(alone, prompts=rows)])

    def step(self) -> None:
        """One GRPO step, and how it divides into rollout, batch (on the host) and update."""
        with self.clock("step") as whole:
            with self.clock("rollout") as run:
                groups = self.groups(self.sampler)
                run.tokens, run.busy = counts_of([groups])
                whole.tokens, whole.busy = run.tokens, run.busy
            with self.clock("batch"):
                batch = self.place(
                    policy_batch.policy_batch(groups, self.config, self.processor)
                )
            self.learn("update", self.update, batch)

    def profile(self) -> None:
        """The programs of a rollout without slots, each waited for."""
        model = build.for_decoding(self.state.model)
        prompts = placement.place(
            self.prompts(), model.compute.rules, jax.sharding.get_mesh()
        )
        how, images = (
            {"group_size": self.shape.group_size, "sampling": self.sampler.sampling},
            None,
        )
        if prompts.tiles is not None:
            with self.clock("encode_images"):
                images = jax.block_until_ready(
                    sampler.encode_images(model, prompts.tiles)
                )
        asked = model, prompts.tokens, prompts.lengths
        seen = images, prompts.image_index
        with self.clock("prefill") as prefill:
            jax.block_until_ready(loop.prefill(*asked, *seen, **how))
        with self.clock("generate") as both:
            jax.block_until_ready(loop.generate(*asked, self.key(), *seen, **how))
        decode = Run(both.wall_s - prefill.wall_s, both.cpu_s - prefill.cpu_s)
        self.clock.runs.setdefault("decode", []).append(decode)

    def multiply(self) -> None:
        """The matrix products of rows of full length and nothing else, on one device: the floor of
        any sampler.
        """
        model, text = build.for_decoding(self.state.model), self.shape.model.text

        def plain(name: str, i: int):  # without a layout, and as a matrix
            w = np.asarray(getattr(model.language.blocks, name)[i])
            return (
                w.reshape(-1, text.embed)
                if name in ("out", "down")
                else w.reshape(len(w), -1)
            )

        names = ("q", "k", "v", "out", "gate", "up", "down")
        layers = [{name: plain(name, i) for name in names} for i in range(text.layers)]
        head, rows = np.asarray(model.language.head_weights()), self.shape.prompts
        rows *= self.shape.group_size
        given = layers, head, np.ones((rows, text.embed), head.dtype)
        given = jax.tree.map(jnp.asarray, given)
        with self.clock("products") as run:
            jax.block_until_ready(products(*given, jnp.int32(self.shape.new_tokens)))
            run.tokens = rows * self.shape.new_tokens

    def naive(self) -> None:
        """Two updates on the same groups: ours, and one that repeats a prompt for each sample."""
        groups = self.groups(self.sampler)
        batch = self.place(
            policy_batch.policy_batch(groups, self.config, self.processor)
        )
        self.learn("update", self.update, batch)
        batch = self.place(naive_batch(groups, self.config, self.processor))
        self.learn("naive_update", self.naive_update, batch)

    # --- what they are made of

    def key(self):
        """A key a draw: the n-th draw of two programs has the same."""
        self.draws += 1
        return jax.random.fold_in(jax.random.key(0), self.draws)

    def prompts(self) -> types.PromptBatch:
        shape = self.shape
        encoded = [
            self.processor.prompt(self.config.train(i)) for i in range(shape.prompts)
        ]
        return prompt_batch(
            encoded,
            self.processor,
            max_prompt_tokens=shape.prompt_tokens,
            tiles=shape.tiles,
        )

    def groups(
        self, how: sampler.GroupSampler, prompts: int = 0, first: int = 0
    ) -> list[Group]:
        """Sampled groups on the host, with scores that differ."""
        model, count = (
            build.for_decoding(self.state.model),
            prompts or self.shape.prompts,
        )
        examples = [self.config.train(i) for i in range(first, first + count)]
        return [
            dataclasses.replace(group, scores=rewards_of(group.completions))
            for group in how.groups(model, examples, self.key(), self.shape.new_tokens)
        ]

    def place(self, batch):
        rules = self.shape.compute.rules
        return jax.block_until_ready(
            placement.place(batch, rules, jax.sharding.get_mesh())
        )

    def learn(self, name: str, update, batch) -> None:
        with self.clock(name):
            self.state, found = jax.block_until_ready(update(self.state, batch))
        if not found["finite"]:
            raise ValueError(
                f"{name}: loss {found['loss']} or its gradient is not finite"
            )

    def report(self) -> dict:
        """All that was measured, for a JSON file."""
        timings = {name: summary(runs) for name, runs in self.clock.runs.items()}
        work = flops(self.shape)
        out = {
            "shape": dataclasses.asdict(self.shape),
            "parameters": num_params(self.shape.model),
            "versions": metrics.versions(),
            "load": {"before": self.load, "after": os.getloadavg()[0]},
            "flops": work,
            "peak_rss_gib": self.peak_rss_gib,
            "timings": timings,
        }
        if memory := jax.devices()[0].memory_stats():  # a CPU has none
            out["peak_device_gib"] = memory["peak_bytes_in_use"] / 2**30
        kind, half = (
            jax.devices()[0].device_kind,
            self.shape.compute.dtype == "bfloat16",
        )
        peak = next((peak for part, peak in PEAK_FLOPS.items() if part in kind), None)
        if peak and half and not self.shape.shortest:
            chips = jax.sharding.get_mesh().size or 1
            out["mfu"] = {
                name: work[name] / (timings[name]["wall_s"]["median"] * chips * peak)
                for name in work
                if name in timings
            }
        return out


PARTS = {
    "sampler": Bench.sample,
    "static": Bench.sample_static,
    "distinct": Bench.sample_distinct,
    "step": Bench.step,
    "profile": Bench.profile,
    "products": Bench.multiply,
    "naive": Bench.naive,
}


@jax.jit
def products(
    layers: list[dict], head: jax.Array, x: jax.Array, tokens: jax.Array
) -> jax.Array:
    """The products of `tokens` tokens of float[B, D] rows with the 2-D matrices of all layers, and
    with the head [V, D]. Each depends on the one before, or it would be left out.
    """

    def token(_, x):
        for w in layers:
            query, key, value = x @ w["q"], x @ w["k"], x @ w["v"]
            x = query @ w["out"] + jnp.max(key) + jnp.max(value)
            x = (x @ w["gate"] * (x @ w["up"])) @ w["down"]
            x = x / jnp.max(jnp.abs(x))
        return x + jnp.max(x @ head.T)

    return jax.lax.fori_loop(0, tokens, token, x)


def rewards_of(completions: state.Completions) -> list[score.Score]:
    """The share of odd ids: it differs from sample to sample. The peers' scripts have the like."""
    rows = zip(completions.tokens, completions.lengths, strict=True)
    shares = [float(np.mean(ids[:length] % 2)) for ids, length in rows]
    return [score.Score(share, share, 0.0, Verdict.RIGHT, None, "") for share in shares]


def counts_of(batches: list[list[Group]]) -> tuple[int, float]:
    """Tokens sampled in rollouts of equally many slots, and the share of slots and steps that they
    fill.
    """
    tokens = [
        sum(int(group.completions.lengths.sum()) for group in batch)
        for batch in batches
    ]
    places = sum(
        count / batch[0].busy for count, batch in zip(tokens, batches, strict=True)
    )
    return sum(tokens), sum(tokens) / places


def flops(shape: Shape) -> dict[str, float]:
    """FLOPs of a step that reads each prompt once a group: what has to be computed, not what is.

    Two a weight and token, causal attention, the head for sampled tokens only; backward is twice
    forward (PaLM, arXiv 2204.02311, appendix B).
    """
    t, v, P, T, C = (
        shape.model.text, shape.model.vision, shape.prompts, shape.prompt_tokens, shape.new_tokens
    )  # fmt: skip
    q, kv, B = t.heads * t.head_dim, t.kv_heads * t.head_dim, P * shape.group_size
    layers = t.layers * t.embed * (2 * q + 2 * kv + 3 * t.mlp)
    seen = P * T**2 / 2 + B * (T * C + C**2 / 2)  # pairs of a query and a key
    forward = 2 * layers * (P * T + B * C) + 2 * t.vocab_size * t.embed * B * C
    forward += 4 * t.layers * q * seen
    if v is not None:
        count = v.patches + 1
        tower = v.layers * (4 * v.embed**2 + 2 * v.embed * v.mlp)
        connector = (4 * v.embed + t.embed) * t.embed * v.patches / 4
        forward += (
            P * 2 * (tower * count + 2 * v.layers * v.embed * count**2 + connector)
        )
    return {"rollout": float(forward), "update": 3.0 * forward, "step": 4.0 * forward}


# -------------------------------------------------------------------------------------------------
# the yardstick of an update


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NaiveBatch:
    """A row a sample, prompt and completion side by side; float32[N, B, T] each."""

    batch: Batch
    advantages: np.ndarray
    sampler_logprobs: np.ndarray


def naive_batch(groups: list[Group], config: GRPO, processor: Processor) -> NaiveBatch:
    """What `rollout.policy_batch` was as long as a prompt went through the update with each of its
    samples. For prompts of `max_prompt_tokens` and one tile each.
    """
    G, N, T = config.group_size, config.accumulate, config.max_prompt_tokens
    rows = jax.tree.map(
        lambda *x: np.concatenate(x), *[group.completions for group in groups]
    )
    live = np.arange(config.max_completion_tokens) < rows.lengths[:, None]
    reward = np.stack([group.rewards for group in groups])
    advantage = group_advantages(
        reward, ~np.isnan(reward), divide_by_std=config.divide_by_std
    )

    def behind(prompts, completions):  # [P, T], [B, C] -> [B, T + C]
        prompts = np.broadcast_to(prompts, (len(groups), T))
        return np.concatenate([np.repeat(prompts, G, axis=0), completions], axis=1)

    index = np.full((len(groups), T), -1, np.int32)
    for p, group in enumerate(groups):
        place_images(index[p], group.prompt, p % (len(groups) // N), processor)
    used = behind(True, live)
    batch = Batch(
        tokens=behind(
            np.stack([group.prompt.tokens for group in groups]),
            np.where(live, rows.tokens, processor.tokenizer.pad_token_id),
        ),
        positions=np.where(used, np.arange(used.shape[1]), 0).astype(np.int32),
        segment_ids=used.astype(np.int32),
        loss_weights=token_weights(
            behind(False, live & rows.chosen),
            config.aggregation,
            config.max_completion_tokens,
        ),
        image_index=None,
    )
    if processor.config.vision is not None:
        none = np.full_like(rows.tokens, -1)
        batch = dataclasses.replace(batch, image_index=behind(index, none))
    batch = placement.split(batch, N)
    if processor.config.vision is not None:
        tiles, each = [group.prompt.tiles for group in groups], len(groups) // N
        parts = [tiles[i * each : (i + 1) * each] for i in range(N)]
        size = processor.config.vision.image_size
        batch = dataclasses.replace(batch, tiles=TileSlots(parts, each, size))
    floats = (
        behind(np.float32(0), np.float32(live * x)).reshape(N, -1, used.shape[1])
        for x in (advantage.reshape(-1, 1), rows.logprobs)
    )
    return NaiveBatch(batch, *floats)


def naive_loss(model: R1V3, batch: NaiveBatch, *, config: GRPO):
    """`stages.grpo.policy_loss` on such rows, strictly on-policy and without KL."""
    weights = batch.batch.loss_weights
    logprobs, entropy = token_logprobs(
        model, batch.batch, temperature=config.temperature
    )
    old = jax.lax.stop_gradient(logprobs)
    loss, found = clipped_policy_loss(
        logprobs, old, batch.advantages, weights,
        clip_low=config.clip_low, clip_high=config.clip_high,
    )  # fmt: skip
    found["sampler_gap"] = weighted_sum(jnp.abs(old - batch.sampler_logprobs), weights)
    found["policy_entropy"] = weighted_sum(entropy, weights)
    return loss, found


# -------------------------------------------------------------------------------------------------
# against another program


def ratios(pairs: list[tuple[dict, dict]]) -> dict[str, dict]:
    """{quantity: {"pairs": [...], "median": ...}} of (theirs, ours), each {quantity: number}:
    theirs over ours, within each pair; above 1 where ours takes less.
    """
    out = {}
    for name in pairs[0][0]:
        values = [theirs[name] / ours[name] for theirs, ours in pairs]
        out[name] = {"pairs": values, "median": statistics.median(values)}
    return out
