"""What a run is (`Run`): its stages, and every knob of theirs."""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from r1v3_jax.config import topology
from r1v3_jax.config.evaluate import Evaluate
from r1v3_jax.config.fields import flatten_fields, one_of, positive, require
from r1v3_jax.config.grpo import FREE, GRPO
from r1v3_jax.config.model import Compute, ModelConfig
from r1v3_jax.config.rewards import Verify
from r1v3_jax.config.sft import SFT
from r1v3_jax.sharding import check_mesh_shape


@dataclasses.dataclass(frozen=True)
class Data:
    """How rows are read, and how many of them may be bad."""

    threads: int = 0  # that decode images and tokenise; 0: one a core, at most 16
    ahead: int = (
        64  # examples made before they are wanted; their images are in memory, decoded
    )
    # The share of the rows of a stage that may be left out. With more it stops; but as many more
    # are let pass as it would be of 1,000 rows, or of one pass through fewer.
    max_drop_fraction: float = 0.01

    def __post_init__(self):
        require(self, "threads", lambda n: n >= 0, "at least 0")
        require(self, "ahead", positive, "at least 1")
        require(
            self, "max_drop_fraction", lambda x: 0 <= x < 1, "at least 0 and below 1"
        )


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
    sampler_gap_above: float = (
        0.1  # mean |log p of the sampler - of the trainer| over tokens
    )
    clipped_above: float = 0.5  # share of completions cut at the length limit
    slow_host_above_s: float = (
        10.0  # what a host spends longer on a step than the median host
    )

    def __post_init__(self):
        names = [f.name for f in dataclasses.fields(self) if f.name != "not_finite"]
        require(self, " ".join(names), lambda x: x >= 0, "at least 0")
        one_of(self, "not_finite", ("stop", "skip"))


@dataclasses.dataclass(frozen=True)
class Run:
    """A whole run: one model through the stages of `pipeline`, or through one of them."""

    name: str
    model: ModelConfig
    compute: Compute = Compute()
    mesh: tuple[int, int, int] = (
        1,
        1,
        1,
    )  # data, fsdp, tensor; what they do: `sharding`
    topology: str = ""  # of a TPU slice, as "v5p:4x4x8"; empty: a CPU, or GPUs
    seed: int = 0
    init_from: str = (
        ""  # a Hugging Face directory or a checkpoint of ours; empty: random weights
    )
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
                raise ValueError(
                    f"stage {name} is to run, but Run.{name} is not configured"
                )
        if not self.init_from and self.write_tokenizer is None:
            raise ValueError("set init_from, a checkpoint to start from")
        if "\\" in self.opening:
            raise ValueError(
                f"opening {self.opening!r} has a backslash; a shell writes a new line as "
                "--config.opening=$'<think>\\n'"
            )
        check_mesh_shape(self.mesh)
        if self.topology and (
            chips := topology.parse(self.topology).chips
        ) != math.prod(self.mesh):
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
        named = {
            k: v
            for part, c in parts.items()
            for k, v in flatten_fields(c, part).items()
        }
        named |= {
            f"compute.{k}": repr(getattr(self.compute, k))
            for k in ("dtype", "param_dtype")
        }
        named |= {
            key: repr(getattr(self, key)) for key in ("seed", "system", "opening")
        }
        for name in ("train", "validation"):
            if hasattr(source := getattr(config, name, None), "fingerprint"):
                named[f"{stage}.{name}.rows"] = source.fingerprint()
        if chains := getattr(config, "chains", ""):
            named[f"{stage}.chains.sha256"] = hashlib.sha256(
                Path(chains).read_bytes()
            ).hexdigest()
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
            change = (
                f"at most {room - stage.max_prompt_tokens} completion tokens would do"
            )
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
            sizes = [
                ("tiles", stage.tiles),
                *(("buckets: tiles", tiles) for _, tiles in buckets),
            ]
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
