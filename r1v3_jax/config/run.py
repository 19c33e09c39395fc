"""What a run is (`Run`): its model, its stages in order, and what holds for all of them."""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from r1v3_jax.config.collect import Collect
from r1v3_jax.config.evaluate import Evaluate
from r1v3_jax.config.fit import check_splits
from r1v3_jax.config.grpo import GRPO
from r1v3_jax.config.model import Compute, ModelConfig, check_attention
from r1v3_jax.config.preference import Preference
from r1v3_jax.config.sft import SFT
from r1v3_jax.config.topology import Topology, parse
from r1v3_jax.fields import (
    TABLE,
    Limit,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    check,
    flatten_fields,
)
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.sharding import check_mesh_shape

# What a stage may be. What each kind does: `stages.kinds`.
Stage = SFT | GRPO | Preference | Collect

# What `start` of a stage says for the weights that the run begins with.
INITIAL = "init"
# What a run writes below its workdir, where each stage has a directory of its name; words of
# summary.json; and INITIAL. A stage may have none of these names.
RESERVED = (
    "answer_prior",
    "blind",
    "export",
    INITIAL,
    "not_finite",
    "plots",
    "report",
    "rollouts",
    "tensorboard",
    "tokenizer",
    "trackers",
)

# Names that `Evaluate.after` may have although the run has no such stage.
USUAL_STAGES = ("base", "cold_start", "grpo", "connector")


@dataclasses.dataclass(frozen=True)
class Video:
    """Which frames of a film a model sees, and how many tiles they have.

    A row may ask for other frames of its film than these; see docs/own_data.md.
    """

    frames: PositiveInt = 8  # evenly spaced
    # Frames a second of film, at most `max_frames`; 0: `frames`, however long the film is.
    fps: NonNegativeFloat = 0.0
    max_frames: PositiveInt = 64  # a row that asks for more of them is left out
    # Tiles of one film, thumbnails counted, shared evenly by its frames. 0: one a frame.
    tiles: NonNegativeInt = 0
    max_seconds: PositiveFloat = 600.0  # a row with a longer film is left out

    def __post_init__(self):
        check(self)
        if not self.fps and self.frames > self.max_frames:
            raise ValueError(
                f"data.video: frames is {self.frames}, and max_frames {self.max_frames}; wanted "
                f"at most as many, as --config.data.video.max_frames={self.frames}"
            )


@dataclasses.dataclass(frozen=True)
class Data:
    """How rows are read, and how many of them may be bad."""

    threads: NonNegativeInt = (
        0  # that decode images and tokenise; 0: one a core, at most 16
    )
    # Examples made before they are wanted; their images are in memory, decoded.
    ahead: PositiveInt = 64
    # How images become RGB. served: as transformers and vLLM do it for the exported model, turned
    # by EXIF and with white behind transparent pixels. reference: as the code of Skywork-R1V3.
    image_conversion: Literal["served", "reference"] = "served"
    video: Video = Video()  # how films become images
    # A stage stops when more than this share of its rows is dropped. 1,000 rows (or one pass, if
    # that is shorter) are added to the count, so that a few bad rows at the start do not stop it.
    max_drop_fraction: Annotated[
        float, Limit(lambda share: 0 <= share < 1, "at least 0 and below 1")
    ] = 0.01

    __post_init__ = check


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Which training states of a stage stay on disk, and what a failed save does."""

    keep: PositiveInt = 2  # the newest so many
    keep_every: NonNegativeInt = (
        0  # and each whose step is a multiple of this; 0: no others
    )
    # stop: the run ends with the error of the save. warn: it goes on and tries again at the next
    # save; what is on disk stays as it was.
    on_error: Literal["stop", "warn"] = "stop"

    __post_init__ = check


@dataclasses.dataclass(frozen=True)
class Health:
    """When a run is not well: what ends it, and what is only logged. A threshold of 0: never."""

    # A step is stuck when it takes so many times the median of the steps before it, and at least so
    # long; the first step compiles. Then all stacks are written and the process ends. 0: never.
    stuck_after_medians: NonNegativeFloat = 10.0
    stuck_after_s: NonNegativeFloat = 600.0
    stuck_first_step_s: NonNegativeFloat = 3600.0
    # An update whose loss, gradient, log-probabilities, rewards or moments are not finite is never
    # applied, and its batch is written to WORKDIR/not_finite. stop: the run ends. skip: it goes on
    # without the step, for so many such steps of a stage.
    not_finite: Literal["stop", "skip"] = "stop"
    max_skipped: NonNegativeInt = 10
    # Alarms: a line in the log, and alarm/NAME = 1 in the metrics.
    entropy_below: NonNegativeFloat = 0.02  # nats a token: the policy has collapsed
    entropy_above: NonNegativeFloat = 5.0  # nats a token: it babbles
    zero_signal_above: NonNegativeFloat = (
        0.9  # share of groups whose rewards are all equal
    )
    # Mean |log p of the sampler - log p of the trainer| over tokens.
    sampler_gap_above: NonNegativeFloat = 0.1
    # Effective sample size of tokens drawn by older weights, as a share of them (GRPO.in_flight).
    ess_below: Share = 0.5
    clipped_above: NonNegativeFloat = (
        0.5  # share of completions cut at the length limit
    )
    # Seconds that a host spends longer on a step than the median host.
    slow_host_above_s: NonNegativeFloat = 10.0

    __post_init__ = check


@dataclasses.dataclass(frozen=True)
class Run:
    """A whole run: a table of stages that run in order, or one of them."""

    name: str
    model: ModelConfig
    # name -> SFT, GRPO, Preference or Collect, in the order in which they run; the kind of a stage
    # is its type. A field of a stage is changed by --config.NAME.FIELD=VALUE.
    stages: dict[str, Stage] = dataclasses.field(metadata=TABLE)
    stage: str = ""  # the name of one stage, to run it alone; empty: all, in order
    compute: Compute = Compute()
    mesh: tuple[int, int, int] = (
        1,
        1,
        1,
    )  # data, fsdp, tensor; what they do: `sharding`
    # A TPU slice, as "v5p:4x4x8", or several, as "2 x v5p:4x4x8", which `data` of the mesh spans;
    # empty: a CPU, or GPUs.
    topology: str = ""
    seed: int = 0
    # A Hugging Face directory or a checkpoint of ours; empty: random weights.
    init_from: str = ""
    write_tokenizer: Callable | None = None  # of a model that starts from nothing
    # The system turn where a row brings none, and what the assistant's turn begins with; empty: as
    # the checkpoint's chat template has them. The exported chat template keeps both.
    system: str = ""
    opening: str = ""
    evaluate: Evaluate = Evaluate()
    verify: Verify = Verify()
    data: Data = Data()
    checkpoints: Checkpoints = Checkpoints()
    health: Health = Health()
    # Projects of services that are sent the curves and a few samples, too, if their packages are
    # installed. Empty: nothing is sent.
    wandb: str = ""
    trackio: str = ""

    def __post_init__(self):
        self._check_names()
        self._check_starts()
        if not self.init_from and self.write_tokenizer is None:
            raise ValueError("set init_from, a checkpoint to start from")
        if "\\" in self.opening:
            raise ValueError(
                f"opening {self.opening!r} has a backslash; a shell writes a new line as "
                "--config.opening=$'<think>\\n'"
            )
        self._check_mesh()
        check_attention(self.model, self.compute)
        for name, stage in self.selected_stages().items():
            stage.check_fit(name, self)
        if self.evaluate.sources or self.evaluate.probe is not None:
            evaluate = self.evaluate
            check_splits(self.mesh, "evaluate.batch", evaluate.batch, "data")
            check_splits(self.mesh, "evaluate.slots", evaluate.slots, "data")
            if self.model.vision is not None:
                axes = "data fsdp tensor"
                check_splits(self.mesh, "evaluate.tiles", evaluate.tiles, axes)

    def selected_stages(self) -> dict[str, Stage]:
        """Returns the stages to run, in order: all, or the one that `stage` names."""
        return {self.stage: self.stages[self.stage]} if self.stage else self.stages

    def stage_named(self, name: str) -> Stage:
        """Returns a stage by its name. ValueError if the run has none of that name."""
        if name not in self.stages:
            raise ValueError(
                f"{self.name} has no stage {name!r}; it has {', '.join(self.stages)}"
            )
        return self.stages[name]

    def rewarded_stage(self) -> GRPO:
        """Returns the first stage whose answers are rewarded. ValueError if the run has none."""
        for stage in self.stages.values():
            if stage.IS_REWARDED:
                return stage
        raise ValueError(
            f"{self.name} has no stage with rewards, as GRPO; it has {', '.join(self.stages)}"
        )

    def start_of(self, name: str) -> str:
        """Returns the stage whose weights stage `name` begins with; "" for the initial weights.

        "" of a first stage, "cold_start" of one behind it. Behind a stage that only collects, the
        stage whose weights that one has.
        """
        start = self.stages[name].start
        if start == INITIAL:
            return ""
        names = ["", *self.stages]
        start = start or names[names.index(name) - 1]
        return self.weights_of(start) if start else ""

    def weights_of(self, name: str) -> str:
        """Returns the stage whose weights there are after stage `name`; "" for the initial ones.

        It is the stage itself, unless that only collects.
        """
        if self.stages[name].HAS_WEIGHTS:
            return name
        return self.start_of(name)

    def with_stages(self, **stages: Stage) -> "Run":
        """Returns the run with other stages of these names; new names come last."""
        return dataclasses.replace(self, stages={**self.stages, **stages})

    def identity(self, name: str) -> dict[str, str]:
        """Returns everything that determines what stage `name` computes, as {field: value}.

        A saved state is resumed only by a run with the same values. Fields that change only where
        or how often something is done (mesh, save interval) are not in it.
        """
        stage = self.stages[name]
        parts = {"model": self.model, name: stage, **stage.depends_on(name, self)}
        fields = {}
        for part, config in parts.items():
            fields |= flatten_fields(config, part, older=True)
        for key in ("dtype", "param_dtype"):
            fields[f"compute.{key}"] = repr(getattr(self.compute, key))
        for key in ("seed", "system", "opening"):
            fields[key] = repr(getattr(self, key))
        fields["data.image_conversion"] = repr(self.data.image_conversion)
        # Runs of before had no films: at its defaults it is in no identity.
        if self.data.video != Video():
            fields |= flatten_fields(self.data.video, "data.video")
        # What files hold counts as well as how they are called: other rows are another run.
        for key in ("train", "validation", "source"):
            source = getattr(stage, key, None)
            if hasattr(source, "fingerprint"):
                fields[f"{name}.{key}.rows"] = source.fingerprint()
        chains = getattr(stage, "chains", "")
        if chains:
            digest = hashlib.sha256(Path(chains).read_bytes()).hexdigest()
            fields[f"{name}.chains.sha256"] = digest
        free = stage.may_change()
        return {k: v for k, v in fields.items() if k.rpartition(".")[2] not in free}

    @property
    def slices(self) -> int:
        """How many slices the mesh is on; 1 without a topology."""
        return parse(self.topology).slices if self.topology else 1

    def mesh_of(self, chips: Topology) -> tuple[int, int, int]:
        """Returns this mesh for other chips.

        `data` takes what `fsdp` and `tensor` leave, on all slices; those two are halved only if
        they must be.

            (16, 4, 2) on 64 chips -> (8, 4, 2)      on 4 chips -> (1, 2, 2)
                       on 2 slices of 128 chips -> (32, 4, 2)
        """
        _, fsdp, tensor = self.mesh
        while chips.chips_a_slice % (fsdp * tensor):
            if fsdp > 1:
                fsdp //= 2
            else:
                tensor //= 2
        return chips.chips // (fsdp * tensor), fsdp, tensor

    def _check_names(self) -> None:
        """Raises ValueError for stages that flags cannot address, or for none at all."""
        if not self.stages:
            raise ValueError("Run.stages is empty; {'grpo': GRPO(...)} would do")
        fields = {field.name for field in dataclasses.fields(self)}
        for name, stage in self.stages.items():
            if not isinstance(stage, Stage):
                raise ValueError(
                    f"Run.stages[{name!r}] is {stage!r}; it must be SFT(...), GRPO(...), "
                    "Preference(...) or Collect(...)"
                )
            if not name.isidentifier():
                raise ValueError(
                    f"Run.stages: a stage cannot be named {name!r}, which is no word; 'grpo' would "
                    "do"
                )
            if name in fields or name in RESERVED:
                raise ValueError(
                    f"Run.stages: a stage cannot be named {name!r}, which is a field of Run, a "
                    f"file of its workdir or a value of start; {name + '_stage'!r} would do"
                )
        known = ", ".join(self.stages)
        if self.stage and self.stage not in self.stages:
            raise ValueError(f"no stage {self.stage!r}; choose from {known}")
        for entry in self.evaluate.measurements:
            if entry.stage not in self.stages and entry.stage not in USUAL_STAGES:
                raise ValueError(
                    f"Evaluate.after: no stage {entry.stage!r}; choose from {known}"
                )
            if entry.of:
                self._check_weights("Evaluate.after: `of`", entry.of, entry.stage)

    def _check_starts(self) -> None:
        """Raises ValueError for a stage that begins where no stage before it ends."""
        earlier = []
        for name, stage in self.stages.items():
            choices = [INITIAL, *earlier]
            if stage.start and stage.start not in choices:
                is_later = stage.start in self.stages
                problem = "does not come before it" if is_later else "is no stage"
                raise ValueError(
                    f"{name}.start is {stage.start!r}, which {problem}; choose from "
                    f"{', '.join(choices)}, or '' for the stage before"
                )
            earlier.append(name)
            carry = getattr(stage, "carry", "")
            if carry:
                self._check_carry(name, carry)

    def _check_weights(self, field: str, wanted: str, stage: str) -> None:
        """Raises ValueError unless `wanted` has weights when `stage` is done."""
        names = list(self.stages)
        done = names[: names.index(stage) + 1] if stage in names else names
        choices = [name for name in done if self.stages[name].HAS_WEIGHTS]
        if wanted not in choices:
            raise ValueError(
                f"{field} is {wanted!r}, which has no weights when {stage} is done; choose from "
                f"{', '.join(choices)}"
            )

    def _check_carry(self, name: str, carry: str) -> None:
        """Raises ValueError if stage `name` cannot go on with the optimizer of stage `carry`."""
        names = list(self.stages)
        choices = [
            other
            for other in names[: names.index(name)]
            if isinstance(self.stages[other], SFT)
        ]
        if carry not in choices:
            raise ValueError(
                f"{name}.carry is {carry!r}, which is no SFT stage before it; choose from "
                f"{', '.join(choices) or 'none: leave it empty'}"
            )
        stage, other = self.stages[name], self.stages[carry]
        if stage.lora or other.lora:
            raise ValueError(
                f"{name}.carry goes on with the moments of {carry}, and adapters begin anew in "
                "each stage; carry = '' would do, or lora = None in both"
            )
        # Moments of other weights, or a place in another schedule, cannot be gone on with.
        if stage.trainable != other.trainable or stage.optimizer != other.optimizer:
            raise ValueError(
                f"{name}.carry goes on with the optimizer of {carry}, and their `trainable` or "
                f"`optimizer` differ ({other.trainable!r}, {other.optimizer} there; "
                f"{stage.trainable!r}, {stage.optimizer} here); give both stages the same"
            )
        if stage.optimizer.schedule == "cosine" and not stage.optimizer.schedule_steps:
            raise ValueError(
                f"{name}.carry goes on in the cosine of {carry}, which ends with that stage; set "
                "optimizer.schedule_steps of both to the updates of all stages that share it"
            )

    def _check_mesh(self) -> None:
        check_mesh_shape(self.mesh)
        if not self.topology:
            return
        chips = parse(self.topology)
        devices = math.prod(self.mesh)
        if chips.chips != devices:
            raise ValueError(
                f"Run.mesh {self.mesh} has {devices} devices and topology "
                f"{self.topology} {chips.chips} chips; a mesh that would do: "
                f"{self.mesh_of(chips)}"
            )
        data = self.mesh[0]
        if data % chips.slices:
            raise ValueError(
                f"Run.mesh {self.mesh} has data {data}, which cannot span the {chips.slices} "
                f"slices of {self.topology}; a mesh that would do: {self.mesh_of(chips)}"
            )
