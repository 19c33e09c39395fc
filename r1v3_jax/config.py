"""What a run is (`Run`): its stages, and every knob of theirs."""

import dataclasses
import hashlib
import itertools
import math
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from r1v3_jax import tpu
from r1v3_jax.fields import described, one_of, positive, require
from r1v3_jax.model_config import Compute, ModelConfig
from r1v3_jax.sharding import check_mesh_shape


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW behind a global-norm clip."""

    lr: float = 1e-5
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr_fraction: float = 0.0  # of lr, at the end of the cosine
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0  # of matrices; norms and biases never decay
    max_grad_norm: float = 1.0

    def __post_init__(self):
        one_of(self, "schedule", ("constant", "cosine"))
        require(self, "lr eps max_grad_norm", lambda x: x > 0, "positive")
        require(self, "warmup_steps weight_decay", lambda x: x >= 0, "at least 0")
        require(self, "final_lr_fraction b1 b2", lambda x: 0 <= x <= 1, "between 0 and 1")


@dataclasses.dataclass(frozen=True)
class SFT:
    """One supervised stage: the cold start, or connector-only tuning.

    `train` and `validation` give examples by index: `source(index) -> types.Example`, pure
    functions.
    """

    train: Callable
    validation: Callable | None = None
    chains: str = ""  # a file of tools/distill.py, whose chains take the place of the examples' own
    steps: int = 100
    rows: int = 32  # packed rows a step
    row_tokens: int = 256
    tiles: int = 128  # tile slots a step
    accumulate: int = 1  # micro-batches the rows of a step are cut into
    trainable: str = "all"  # all, or parts joined by +: llm, connector, vision
    optimizer: Optimizer = Optimizer()
    # Every so many steps the loss on `validation_steps` batches is measured; after `patience`
    # measurements without a new best the stage stops, and its best weights are what it hands on. 0:
    # never.
    validate_every: int = 0
    validation_steps: int = 4
    patience: int = 0
    checkpoint_every: int = 100

    def __post_init__(self):
        require(
            self,
            "steps rows row_tokens accumulate validation_steps checkpoint_every",
            positive,
            "at least 1",
        )
        require(self, "tiles validate_every patience", lambda n: n >= 0, "at least 0")
        if self.rows % self.accumulate or self.tiles % self.accumulate:
            raise ValueError(
                f"SFT.rows {self.rows} and tiles {self.tiles} must divide into accumulate = "
                f"{self.accumulate} parts"
            )
        if self.validate_every and self.validation is None:
            raise ValueError("SFT.validate_every needs SFT.validation examples")


@dataclasses.dataclass(frozen=True)
class Shaping:
    """What is taken off the reward of a sample besides its answer; a weight of 0 leaves it out."""

    repetition: float = 0.0  # times the share of n-grams that have come before
    repetition_ngram: int = 40  # tokens
    # Times 0 to 1 over the last `overlong_tokens` before the length limit (DAPO's soft punishment).
    overlong: float = 0.0
    overlong_tokens: int = 1024
    language: float = 0.0  # times the share of words in another script than the question's

    def __post_init__(self):
        require(self, "repetition overlong overlong_tokens language", lambda x: x >= 0, ">= 0")
        require(self, "repetition_ngram", positive, "at least 1")


@dataclasses.dataclass(frozen=True)
class Verify:
    """How answers are checked: in processes, and by a model for the rows that ask for it. What a
    row's verifier may be: `verifiers.routing`.
    """

    processes: int = 0  # 0: one a core, at most 8
    deadline_s: float = 10.0  # for one answer; then its process is killed, and it counts as ERROR
    memory_gib: float = 2.0  # of one process
    # The functions that rows may name, as "package.module:function".
    custom: tuple[str, ...] = ()
    # An OpenAI-compatible endpoint, as http://host:8000/v1; empty: no model verifier. With one, a
    # row that names no verifier is right if the rule OR the model says so (report, section 3.1).
    model_url: str = ""
    model_name: str = ""
    model_timeout_s: float = 60.0  # for a whole reply
    model_retries: int = 3
    model_requests: int = 32  # at a time
    model_cache: str = ""  # a file that keeps judgements; empty: they are kept in memory

    def __post_init__(self):
        require(self, "processes model_retries", lambda n: n >= 0, "at least 0")
        require(self, "deadline_s memory_gib model_timeout_s", lambda x: x > 0, "positive")
        require(self, "model_requests", positive, "at least 1")
        if bool(self.model_url) != bool(self.model_name):
            raise ValueError("Verify.model_url and Verify.model_name go together; set both")
        address = urllib.parse.urlsplit(self.model_url)
        if self.model_url and not (address.scheme in ("http", "https") and address.hostname):
            raise ValueError(
                f"Verify.model_url {self.model_url!r} is no address; give one as http://host:8000/v1"
            )


@dataclasses.dataclass(frozen=True)
class GRPO:
    """Group-relative policy optimization, Skywork-R1V3 report section 3.3."""

    train: Callable  # source(index) -> types.Example
    steps: int = 100
    prompts: int = 32  # P, a step
    group_size: int = 32  # G, samples a prompt
    max_prompt_tokens: int = 4096
    max_completion_tokens: int = 8192
    # Progressive lengths, ((from_step, tokens), ...): R1V3 went from 4,096 to 8,192. Empty: the
    # maximum.
    length_limits: tuple[tuple[int, int], ...] = ()
    slots: int = 0  # decode slots; 0: one for each sample
    tiles: int = 32  # tile slots of a step: its images are encoded once to sample, once to learn
    # Smaller (max_prompt_tokens, tiles), rising: a step whose prompts all fit into one is padded to
    # that. The programs of each are compiled when it first comes up; until all have, a step is not
    # called stuck before `Health.stuck_first_step_s`.
    buckets: tuple[tuple[int, int], ...] = ()
    temperature: float = 1.0
    accuracy_weight: float = 0.8  # reward = this * accuracy + the rest * format, section 3.1
    shaping: Shaping = Shaping()
    divide_by_std: bool = True  # False: Dr. GRPO
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Literal["token", "sequence", "constant"] = "sequence"  # equation 7
    kl_coef: float = 0.0  # 0: no reference model in memory and no pass through one
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    updates_per_rollout: int = 1  # 1 is strictly on-policy
    # Rollout passes a step may add to replace groups whose rewards are all equal (dynamic sampling,
    # DAPO).
    refills: int = 0
    # 1: the devices sample for a step while the samples of the one before are scored, with weights
    # that are an update old; `importance_cap` corrects for it.
    off_policy_steps: int = 0
    importance_cap: float = 0.0  # truncated importance sampling for the sampler/trainer gap; 0: off
    # Samples are drawn with the language model's matrices in 8 bits (`models.int8`): a token reads
    # half the bytes of its weights. `importance_cap` corrects for it.
    rollout_int8: bool = False
    # Micro-batches that the samples of a step are cut into. A micro-batch has room for prompts x
    # group_size / accumulate samples of full length; shorter ones are packed, and micro-batches
    # that stay empty are not run.
    accumulate: int = 1
    # Parts in which an update reads its prompts and their tiles. With 1 all that their backward
    # pass needs is kept while the samples are learnt from; with more it is computed again, part by
    # part, at the price of one more forward pass over the prompts.
    prompt_parts: int = 1
    trainable: str = "all"
    optimizer: Optimizer = Optimizer()
    evaluate_every: int = 0  # steps; also the candidates for the choice of a checkpoint
    checkpoint_every: int = 20
    rollouts_every: int = 10  # steps between rollouts written to disk

    def __post_init__(self):
        require(
            self,
            "steps prompts max_prompt_tokens max_completion_tokens updates_per_rollout accumulate "
            "prompt_parts checkpoint_every",
            positive,
            "at least 1",
        )
        require(
            self,
            "group_size",
            lambda n: n >= 2,
            "at least 2: an advantage compares samples of one prompt",
        )
        require(
            self,
            "slots tiles refills kl_coef importance_cap evaluate_every rollouts_every",
            lambda n: n >= 0,
            ">= 0",
        )
        require(self, "temperature", lambda x: x > 0, "positive: greedy samples do not explore")
        require(self, "accuracy_weight clip_low", lambda x: 0 <= x <= 1, "between 0 and 1")
        require(self, "clip_high", lambda x: x >= 0, "at least 0")
        one_of(self, "aggregation", ("token", "sequence", "constant"))
        one_of(self, "kl_estimator", ("k1", "k2", "k3"))
        if self.off_policy_steps not in (0, 1):
            raise ValueError(f"GRPO.off_policy_steps is {self.off_policy_steps}; it must be 0 or 1")
        if self.off_policy_steps and (self.refills or not self.importance_cap):
            raise ValueError(
                f"GRPO.off_policy_steps = 1 wants refills = 0, not {self.refills}, and an "
                f"importance_cap, not {self.importance_cap}; 2.0 would do"
            )
        if self.rollout_int8 and not self.importance_cap:
            raise ValueError(
                "GRPO.rollout_int8 samples from a slightly other policy than the one that learns, "
                "and wants an importance_cap, not 0; 2.0 would do"
            )
        samples = self.prompts * self.group_size
        if self.slots > samples:
            raise ValueError(
                f"GRPO.slots is {self.slots}; it must be at most prompts x group_size = {samples}"
            )
        if samples % self.accumulate:
            raise ValueError(
                f"GRPO.prompts x group_size = {samples} samples must divide into accumulate = "
                f"{self.accumulate} parts"
            )
        for bucket in self.buckets if isinstance(self.buckets, tuple) else (self.buckets,):
            if not (isinstance(bucket, tuple) and [type(n) for n in bucket] == [int, int]):
                raise ValueError(
                    f"GRPO.buckets: {bucket!r} is not (prompt tokens, tiles); give pairs of whole "
                    "numbers, as ((1024, 128),)"
                )
        sizes = (*self.buckets, (self.max_prompt_tokens, self.tiles))
        for small, large in itertools.pairwise(sizes):
            if not (0 < small[0] < large[0] and 0 <= small[1] <= large[1]):
                raise ValueError(
                    f"GRPO.buckets: (prompt tokens, tiles) must rise, the tokens strictly, up to "
                    f"max_prompt_tokens and tiles = {sizes[-1]}; {tuple(small)} stands before "
                    f"{tuple(large)}"
                )
        for start, tokens in self.length_limits:
            if not 0 < tokens <= self.max_completion_tokens:
                raise ValueError(
                    f"GRPO.length_limits: {tokens} tokens from step {start} must lie between 1 and "
                    f"max_completion_tokens = {self.max_completion_tokens}"
                )

    def length_limit(self, step: int) -> int:
        """Completion tokens allowed at `step`."""
        limits = [tokens for start, tokens in self.length_limits if start <= step]
        return limits[-1] if limits else self.max_completion_tokens


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """What is measured after each stage, and by what the GRPO checkpoint is chosen."""

    sets: tuple[tuple[str, Callable], ...] = ()  # (name, source) of held-out questions
    pooled: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (name, sets): several taken as one
    after: tuple[str, ...] = ("cold_start", "grpo", "connector")  # the stages
    # (set, accuracy of the best constant answer), where that is known: what a blind model can get.
    answer_prior: tuple[tuple[str, float], ...] = ()
    questions: int = 1000  # a set
    batch: int = 250  # prompts at a time
    slots: int = 0  # decode slots of a batch; 0: one for each prompt
    tiles: int = 250  # tile slots of a batch
    max_prompt_tokens: int = 4096
    max_tokens: int = 8192
    # How the model thinks over held-out questions. slow: as it was trained; none: its thinking is
    # given, and empty; no_wait: critical words are never sampled.
    thinking: Literal["slow", "none", "no_wait"] = "slow"
    thinking_tokens: int = 0  # after so many the thinking is closed; 0: no limit
    # A smaller fixed set for the checkpoints of GRPO: its accuracy, and the entropy at critical
    # words.
    probe: Callable | None = None
    probe_questions: int = 250
    critical_words: tuple[str, ...] = ("Wait", "Alternatively", "Hmm")  # report, 5.1 and 6.2
    high_entropy: float = (
        6.8  # P(entropy > this) is logged; report, 6.5 (base of the log not stated)
    )
    select_by: Literal["critical_entropy", "accuracy", "both"] = "both"

    def __post_init__(self):
        names = "questions batch probe_questions max_prompt_tokens max_tokens"
        require(self, names, positive, "at least 1")
        if wrong := [(name, source) for name, source in self.sets if not callable(source)]:
            name, source = wrong[0]
            raise ValueError(
                f"Evaluate.sets {name!r}: {source!r} is no source of questions; in a config, "
                f"(({name!r}, Rows({str(source)!r})),)"
            )
        known = {name for name, _ in self.sets}
        for name, parts in self.pooled:
            if missing := set(parts) - known:
                raise ValueError(f"Evaluate.pooled {name!r}: no set {sorted(missing)[0]!r}")
        one_of(self, "select_by", ("critical_entropy", "accuracy", "both"))
        one_of(self, "thinking", ("slow", "none", "no_wait"))
        require(self, "slots thinking_tokens", lambda n: n >= 0, "at least 0")
        if self.slots > self.batch:
            raise ValueError(
                f"Evaluate.slots is {self.slots}; it must be at most batch = {self.batch}"
            )
        if self.thinking == "none" and self.thinking_tokens:
            raise ValueError(
                f"Evaluate.thinking_tokens {self.thinking_tokens} limits a thinking that thinking "
                "'none' leaves out; set one of them"
            )


@dataclasses.dataclass(frozen=True)
class Data:
    """How rows are read, and how many of them may be bad."""

    threads: int = 0  # that decode images and tokenise; 0: one a core, at most 16
    ahead: int = 64  # examples made before they are wanted; their images are in memory, decoded
    # The share of the rows of a stage that may be left out. With more it stops; but as many more
    # are let pass as it would be of 1,000 rows, or of one pass through fewer.
    max_drop_fraction: float = 0.01

    def __post_init__(self):
        require(self, "threads", lambda n: n >= 0, "at least 0")
        require(self, "ahead", positive, "at least 1")
        require(self, "max_drop_fraction", lambda x: 0 <= x < 1, "at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Which training states of a stage stay on disk, and what a failed save does."""

    keep: int = 2  # the newest so many
    keep_every: int = 0  # and each whose step is a multiple of this; 0: no others
    # stop: the run ends with the error of the save. warn: it goes on and tries again at the next
    # one; what is on disk stays as it was.
    on_error: Literal["stop", "warn"] = "stop"

    def __post_init__(self):
        require(self, "keep", positive, "at least 1")
        require(self, "keep_every", lambda n: n >= 0, "at least 0")
        one_of(self, "on_error", ("stop", "warn"))


@dataclasses.dataclass(frozen=True)
class Health:
    """When a run is not well: what ends it, what is only said. A threshold of 0: never."""

    # A step is stuck when it takes so many times the median of those before it, and at least so
    # long; the first one compiles. Then all stacks are written and the process ends. 0: never.
    stuck_after_medians: float = 10.0
    stuck_after_s: float = 600.0
    stuck_first_step_s: float = 3600.0
    # An update whose loss, gradient, log-probabilities, rewards or moments are not finite is never
    # applied, and its batch is written to WORKDIR/not_finite. stop: the run ends. skip: it goes on
    # without it, for so many such steps of a stage.
    not_finite: Literal["stop", "skip"] = "stop"
    max_skipped: int = 10
    # Alarms: a line in the log, and alarm/NAME = 1 in the metrics.
    entropy_below: float = 0.02  # nats a token: the policy has collapsed
    entropy_above: float = 5.0  # nats a token: it babbles
    zero_signal_above: float = 0.9  # share of groups whose rewards are all equal
    sampler_gap_above: float = 0.1  # mean |log p of the sampler - of the trainer| over tokens
    clipped_above: float = 0.5  # share of completions cut at the length limit
    slow_host_above_s: float = 10.0  # what a host spends longer on a step than the median host

    def __post_init__(self):
        names = [f.name for f in dataclasses.fields(self) if f.name != "not_finite"]
        require(self, " ".join(names), lambda x: x >= 0, "at least 0")
        one_of(self, "not_finite", ("stop", "skip"))


# Fields of a stage that may change between the parts of a run: where and how often, not what.
FREE = {
    SFT: {"checkpoint_every"},
    GRPO: {"checkpoint_every", "rollouts_every", "accumulate", "prompt_parts", "slots", "buckets"},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A whole run: one model through the stages of `pipeline`, or through one of them."""

    name: str
    model: ModelConfig
    compute: Compute = Compute()
    mesh: tuple[int, int, int] = (1, 1, 1)  # data, fsdp, tensor; what they do: `sharding`
    topology: str = ""  # of a TPU slice, as "v5p:4x4x8"; empty: a CPU, or GPUs
    seed: int = 0
    init_from: str = ""  # a Hugging Face directory or a checkpoint of ours; empty: random weights
    write_tokenizer: Callable | None = None  # of a model that starts from nothing
    # The system turn where a row brings none, and what the assistant's turn begins with; empty: as
    # the checkpoint's chat template has them. What is left at the end speaks as it was trained to.
    system: str = ""
    opening: str = ""
    pipeline: tuple[str, ...] = ("cold_start", "grpo", "connector")
    stage: str = ""  # one stage of the pipeline alone; empty: all of them in a row
    base: SFT | None = None  # teaches a model that starts from nothing to see
    cold_start: SFT | None = None
    grpo: GRPO | None = None
    connector: SFT | None = None
    evaluate: Evaluate = Evaluate()
    verify: Verify = Verify()
    data: Data = Data()
    checkpoints: Checkpoints = Checkpoints()
    health: Health = Health()

    def __post_init__(self):
        for name in (*self.pipeline, *((self.stage,) if self.stage else ())):
            if name not in ("base", "cold_start", "grpo", "connector"):
                raise ValueError(
                    f"no stage {name!r}; choose from base, cold_start, grpo, connector"
                )
            if getattr(self, name) is None:
                raise ValueError(f"stage {name} is to run, but Run.{name} is not configured")
        if not self.init_from and self.write_tokenizer is None:
            raise ValueError("set init_from, a checkpoint to start from")
        if "\\" in self.opening:
            raise ValueError(
                f"opening {self.opening!r} has a backslash; a shell writes a new line as "
                "--config.opening=$'<think>\\n'"
            )
        check_mesh_shape(self.mesh)
        if self.topology and (chips := tpu.parse(self.topology).chips) != math.prod(self.mesh):
            raise ValueError(
                f"Run.mesh {self.mesh} has {math.prod(self.mesh)} devices and topology "
                f"{self.topology} {chips} chips; a mesh that would do: "
                f"{tuple(self.mesh_of(chips))}"
            )
        for name in (self.stage,) if self.stage else self.pipeline:
            self._check_stage(name, getattr(self, name))
        if self.evaluate.sets or self.evaluate.probe is not None:
            self._splits("evaluate.batch", self.evaluate.batch, "data")
            self._splits("evaluate.slots", self.evaluate.slots, "data")
            if self.model.vision is not None:
                self._splits("evaluate.tiles", self.evaluate.tiles, "data fsdp tensor")

    def identity(self, stage: str) -> dict[str, str]:
        """The fields that make `stage` what it is: with another one a state of it is another
        run's. Left out is what changes where and how often it is done, not what is done.
        """
        config = getattr(self, stage)
        free = set(FREE[type(config)])
        parts = {"model": self.model, stage: config}
        if isinstance(config, GRPO):
            # Under the stage's name: when it is done they may change.
            for name in ("custom", "model_name"):
                parts[f"{stage}.verify.{name}"] = getattr(self.verify, name)
            if config.evaluate_every:
                parts |= {
                    f"{stage}.evaluate.{name}": getattr(self.evaluate, name)
                    for name in ("probe", "probe_questions", "select_by")
                }
            if config.off_policy_steps:  # no rollout is begun across a save
                free.remove("checkpoint_every")
        named = {k: v for part, c in parts.items() for k, v in described(c, part).items()}
        named |= {f"compute.{k}": repr(getattr(self.compute, k)) for k in ("dtype", "param_dtype")}
        named |= {key: repr(getattr(self, key)) for key in ("seed", "system", "opening")}
        for name in ("train", "validation"):
            if hasattr(source := getattr(config, name, None), "fingerprint"):
                named[f"{stage}.{name}.rows"] = source.fingerprint()
        if chains := getattr(config, "chains", ""):
            named[f"{stage}.chains.sha256"] = hashlib.sha256(Path(chains).read_bytes()).hexdigest()
        return {k: v for k, v in named.items() if k.rpartition(".")[2] not in free}

    def mesh_of(self, chips: int) -> tuple[int, int, int]:
        """This mesh for another number of chips: `data` takes what `fsdp` and `tensor` leave."""
        _, fsdp, tensor = self.mesh
        while chips % (fsdp * tensor):
            fsdp, tensor = (fsdp // 2, tensor) if fsdp > 1 else (1, tensor // 2)
        return chips // (fsdp * tensor), fsdp, tensor

    def _check_stage(self, name: str, stage: SFT | GRPO) -> None:
        room, parts = self.model.text.max_positions, stage.accumulate
        if isinstance(stage, GRPO):
            length = stage.max_prompt_tokens + stage.max_completion_tokens
            limit = f"{name}.max_prompt_tokens + {name}.max_completion_tokens = {length} exceed"
            change = f"at most {room - stage.max_prompt_tokens} completion tokens would do"
            rows = stage.prompts * stage.group_size
            named = f"{name}.prompts x {name}.group_size / {name}.accumulate"
            self._splits(f"{name}.prompts", stage.prompts, "data")
            self._check_copies(name, stage)
            self._splits(f"{name}.slots", stage.slots, "data")
            if stage.evaluate_every and self.evaluate.probe is None:
                raise ValueError(
                    f"{name}.evaluate_every = {stage.evaluate_every} measures evaluate.probe, and "
                    f"there is none; set it, or {name}.evaluate_every = 0"
                )
        else:
            length, rows = stage.row_tokens, stage.rows
            named = f"{name}.rows / {name}.accumulate"
            limit, change = f"{name}.row_tokens = {length} exceeds", f"{room} would do"
        if length > room:
            raise ValueError(f"{limit} the model's {room} positions; {change}")
        self._splits(named, rows // parts, "data fsdp")
        if self.model.vision is not None:
            buckets = stage.buckets if isinstance(stage, GRPO) else ()
            sizes = [("tiles", stage.tiles), *(("buckets: tiles", tiles) for _, tiles in buckets)]
            for field, tiles in sizes:
                if not tiles:
                    raise ValueError(
                        f"{name}.{field} = 0: this model has a vision tower, whose programs take "
                        f"at least one tile a device; {math.prod(self.mesh)} would do"
                    )
                self._splits(f"{name}.{field}", tiles, "data fsdp tensor")
            if isinstance(stage, SFT):
                named = f"{name}.tiles / {name}.accumulate"
                self._splits(named, stage.tiles // parts, "data fsdp tensor")

    def _check_copies(self, name: str, stage: GRPO) -> None:
        """In an update a device's samples lie with their prompts: `rollout.pack`."""
        shards = self.mesh[0] * self.mesh[1]
        if stage.prompts % shards and shards % stage.prompts:
            raise ValueError(
                f"{name}.prompts = {stage.prompts} and data x fsdp = {shards} of mesh {self.mesh}: "
                f"one must divide the other; {-(-stage.prompts // shards) * shards} would do"
            )
        if stage.prompts < shards and stage.group_size % (shards // stage.prompts):
            raise ValueError(
                f"{name}.group_size = {stage.group_size} does not split over the "
                f"{shards // stage.prompts} devices that have a prompt's samples in mesh "
                f"{self.mesh}; use a multiple, or more {name}.prompts"
            )

    def _splits(self, name: str, count: int, axes: str) -> None:
        sizes = dict(zip(("data", "fsdp", "tensor"), self.mesh, strict=True))
        parts = math.prod(sizes[axis] for axis in axes.split())
        if count % parts:
            raise ValueError(
                f"{name} = {count} does not split over {' x '.join(axes.split())} = {parts} of "
                f"mesh {self.mesh}; {-(-count // parts) * parts} would do"
            )
