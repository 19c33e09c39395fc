"""Collecting: a model answers questions, and some answers become rows for the stages behind it.

One step: P questions, K samples each, scored; what `keep` makes of each group is added to
STAGE/kept.jsonl. Nothing is learnt. At the end the file is sealed as STAGE/rows/rows.jsonl with its
checksum, and what is in it is part of the identity of every stage that reads it
(`data.made.Made`).
"""

import collections
import contextlib
import dataclasses
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from r1v3_jax import checksums, files
from r1v3_jax.config import Collect, Data, ModelConfig, Run
from r1v3_jax.config.collect import Chosen
from r1v3_jax.data.made import ROWS
from r1v3_jax.data.reader import Reader, format_counts
from r1v3_jax.distill.ask import answering_tokenizer
from r1v3_jax.distill.keeps import keep_all, reward_pass
from r1v3_jax.evaluate.accuracy import sample_groups
from r1v3_jax.models import build
from r1v3_jax.models.build import for_decoding
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer_files import tokenizer_of
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.metrics import statistics
from r1v3_jax.rollout.programs import rollout_programs
from r1v3_jax.rollout.sampler import GroupSampler
from r1v3_jax.run import watchdog
from r1v3_jax.run.checkpoints import first_process_does
from r1v3_jax.run.context import Context
from r1v3_jax.run.program import Program
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import abstract_mesh, shard_bytes
from r1v3_jax.stages.helpers import (
    check_helpers,
    helper_programs,
    make_helpers,
    resident_helpers,
)
from r1v3_jax.stages.ledger import Ledger
from r1v3_jax.stages.loop import Loop, Resume, StepWork, check_sources, resumed
from r1v3_jax.stages.reference import checkpoint_config, is_ours, load_checkpoint
from r1v3_jax.stages.verifiers import check_verifiers
from r1v3_jax.train.update import release
from r1v3_jax.types import StepInfo


def run(context: Context, name: str, config: Collect, model: R1V3) -> tuple[R1V3, dict]:
    """Runs the stage from its newest state, and seals its rows.

    Returns `model`, which is unchanged, and the account of what was kept. ValueError if nothing
    was; what was sampled stays on disk.
    """
    # 1. Who answers, and where the stage goes on.
    answering = model
    if config.model:
        wanted = answering_config(context.run, config)
        answering = load_checkpoint(config.model, wanted, context.run.compute)
    sampler = make_sampler(context, config)
    states = context.training_states(name)
    saved = states.newest(step_marker(0))
    resume = Resume() if saved is None else resumed(saved[0], saved[2])
    harvest = Harvest(context.directory(name) / KEPT, config, resume)
    temperature = resume.temperature
    reward_pass_of = resume.reward_pass
    rows = reader(config, sampler.processor, context.run.data, **resume.position)
    ledger = Ledger(
        context.workdir, name, resume_step=resume.step, counts=resume.dropped
    )

    with (
        contextlib.closing(rows),
        Loop(context, name, config, states, resume) as loop,
    ):
        # 2. The temperature, once; then the weights as they are decoded with.
        if temperature is None:
            with loop.watchdog.slow():
                temperature, reward_pass_of = choose_temperature(
                    context, name, config, sampler, answering
                )
        decoding_model = for_decoding(answering)
        for step in range(resume.step, config.steps):
            # No question of a source with an end comes twice.
            if rows.cursor >= harvest.end:
                break

            # 3. Ask.
            with loop.timer("rollout"), ledger.reading(step):
                with watchdog.own_work():
                    items, consumed = rows.take(config.prompts)
                ledger.add(step, consumed.drops)
                examples = [item.example for item in items]
                info = step_info(context, name, config, step, temperature)
                groups = sampler.groups(decoding_model, examples, info)

            # 4. Keep.
            indices = [item.index for item in items]
            harvest.add(list(zip(indices, groups, strict=True)))

            # 5. Write down.
            metrics = statistics(groups, config.max_completion_tokens)
            metrics |= {"time/data_wait_s": consumed.wait_s, "temperature": temperature}
            loop.log(step, metrics | ledger.metrics() | harvest.metrics())
            context.compiles.after(f"{name}/rollout")
            position = {"cursor": consumed.cursor, "dropped": ledger.counts}
            position |= {"temperature": temperature, "reward_pass": reward_pass_of}
            position |= harvest.position()
            loop.end(step, step_marker(step + 1), position)
    if config.model:
        release(answering)
    harvest.check()
    seal(context.directory(name), harvest.path)
    account = harvest.account() | {"temperature": temperature}
    if reward_pass_of:
        account["reward_pass"] = reward_pass_of
    return model, {"collected": account}


# -------------------------------------------------------------------------------------------------
# where it goes on


def step_marker(step: int) -> dict[str, jax.Array]:
    """Returns the only array that a state of this stage has: how many steps are done."""
    everywhere = NamedSharding(jax.sharding.get_mesh(), PartitionSpec())
    return {"step": jax.device_put(np.int32(step), everywhere)}


KEPT = "kept.jsonl"  # in the directory of a stage, while it runs


class Harvest:
    """What a stage has kept so far: STAGE/kept.jsonl, and what became of every answer.

    Process 0 writes the file. What a run that was cut off wrote behind its newest state is removed
    first.
    """

    def __init__(self, path: Path, config: Collect, resume: Resume):
        """Goes on where a state stands. ValueError if the file is shorter than it says."""
        self.path = path
        self.config = config
        self.asked = resume.asked  # questions
        self.rows = resume.rows
        self.bytes = resume.row_bytes
        self.verdicts = collections.Counter(resume.verdicts)
        # The index behind the last question.
        has_end = hasattr(config.source, "__len__")
        self.end = len(config.source) if has_end else sys.maxsize
        first_process_does(self._cut_off)

    def _cut_off(self) -> None:
        """Removes what lies behind the newest state. ValueError if less is there than it says."""
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < self.bytes:
            raise ValueError(
                f"{self.path} has {there} bytes, and the newest state says {self.bytes}: rows are "
                f"gone; put back a copy, or remove {self.path.parent} to begin the stage anew"
            )
        with self.path.open("ab") as file:
            file.truncate(self.bytes)

    def add(self, answered: list[tuple[int, Group]]) -> None:
        """Keeps what there is to keep of (index of the question, its samples), in their order.

        The last batch is as large as the others: questions beyond the end, or beyond those that
        are wanted, are thrown away. The rows are on the disk when this returns.
        """
        wanted = [pair for pair in answered if pair[0] < self.end]
        wanted = wanted[: self.config.questions - self.asked]
        rows, verdicts = keep_all(wanted, self.config.keep)
        self.asked += len(wanted)
        self.verdicts.update(verdicts)
        lines = "".join(files.dumps(row) + "\n" for row in rows).encode()
        self.rows += len(rows)
        self.bytes += len(lines)
        if files.first_process():
            with self.path.open("ab") as file:
                file.write(lines)
                file.flush()
                # Before a state says that they are there.
                os.fsync(file.fileno())

    def metrics(self) -> dict[str, float]:
        """Returns how far it is."""
        return {"asked": self.asked, "rows": self.rows}

    def position(self) -> dict:
        """Returns where it goes on, fields of `Resume`."""
        return {
            "asked": self.asked,
            "rows": self.rows,
            "row_bytes": self.bytes,
            "verdicts": dict(self.verdicts),
        }

    def account(self) -> dict:
        """Returns what the stage has done, for summary.json."""
        answers = dict(sorted(self.verdicts.items()))
        return {"questions": self.asked, "rows": self.rows, "answers": answers}

    def check(self) -> None:
        """Raises ValueError if nothing was kept, with what became of the answers."""
        if self.rows:
            return
        raise ValueError(
            f"{self.path.parent.name} asked {self.asked} questions, and "
            f"{type(self.config.keep).__name__} kept none of {self.verdicts.total()} answers: "
            f"{format_counts(self.verdicts)}; ask a model that solves some of them, or keep "
            f"others; then remove {self.path.parent} and start again, which goes on from there"
        )


def seal(stage: Path, rows: Path) -> None:
    """Copies the rows into STAGE/rows, with their checksum, where other stages read them."""
    sealed = stage / ROWS.parent
    # A run that was cut off behind this moment comes here again, with the same rows.
    if files.first_process():
        shutil.rmtree(sealed, ignore_errors=True)
    multihost_utils.sync_global_devices("no rows are sealed")
    with files.atomic_directory(sealed) as (partial, writes_files):
        if writes_files:
            shutil.copyfile(rows, partial / ROWS.name)
            checksums.write_sums(partial)


# -------------------------------------------------------------------------------------------------
# asking


def make_sampler(context: Context, config: Collect) -> GroupSampler:
    """Returns the sampler of the stage, with the tokenizer of the model that answers."""
    processor = answering_processor(context, config)
    return GroupSampler(
        processor=processor,
        sampling=SamplingParams(
            max_tokens=config.max_completion_tokens,
            temperature=config.temperatures[0],
            banned=processor.tokenizer.banned_token_ids,
        ),
        max_prompt_tokens=config.max_prompt_tokens,
        tiles=config.tiles,
        group_size=config.samples,
        verify=context.run.verify,
        data=context.run.data,
        reward=config.reward,
        slots=config.slots,
        helpers=make_helpers(context, config),
    )


def answering_processor(context: Context, config: Collect) -> Processor:
    """Returns the processor of the model that answers: another checkpoint has its own words."""
    if not config.model:
        return context.processor
    model_config = answering_config(context.run, config)
    directory = tokenizer_of(config.model)
    tokenizer = answering_tokenizer(context.run, directory, model_config)
    return Processor(model_config, tokenizer)


def step_info(
    context: Context, name: str, config: Collect, step: int, temperature: float
) -> StepInfo:
    """Returns what the rollout of a step needs to know.

    The random key has the stage's name in it: rounds that ask the same questions draw other
    numbers.
    """
    key = context.key("collect", step)
    return StepInfo(
        step=step,
        key=jax.random.fold_in(key, zlib.crc32(name.encode())),
        token_limit=config.max_completion_tokens,
        # As an array where there are several, which all run the same program.
        temperature=temperature if isinstance(config.temperature, Chosen) else None,
    )


def choose_temperature(
    context: Context,
    name: str,
    config: Collect,
    sampler: GroupSampler,
    model: R1V3,
) -> tuple[float, dict[str, float]]:
    """Returns the temperature with the highest Reward-Pass@K on the probe; the first of equals.

    Beside it, what was measured: {"0.7": 0.82, ...}; {} where one temperature is given.
    """
    choice = config.temperature
    if not isinstance(choice, Chosen):
        return choice, {}
    rates = {}
    for temperature in choice.choices:
        groups: list[Group] = sample_groups(
            sampler,
            model,
            choice.probe,
            choice.questions,
            config.prompts,
            context.key("probe"),
            temperature=temperature,
        )
        rates[temperature] = reward_pass(groups, config.keep)
        context.compiles.after(f"{name}/probe")
    best = max(rates, key=rates.get)
    return best, {f"{temperature:g}": rate for temperature, rate in rates.items()}


# -------------------------------------------------------------------------------------------------
# the kind of a stage: see `stages.kinds`


def reader(
    config: Collect,
    processor: Processor,
    data: Data,
    *,
    source: Callable | None = None,
    **position,
) -> Reader:
    """Returns a reader of the stage's questions, or of `source` in their place.

    Every question has the same share of the tile slots. position: `start` and `counts` of a
    resumed stage, see `data.reader.Reader`.
    """
    return Reader(
        source or config.source,
        processor.prompt,
        tokens=config.max_prompt_tokens,
        tiles=config.tiles // config.prompts,
        data=data,
        tile_size=processor.tile_size,
        **position,
    )


def check(run: Run, config: Collect) -> None:
    """Raises ValueError or FileNotFoundError for what the stage cannot ask, or whom."""
    check_sources(config.source, getattr(config.temperature, "probe", None))
    if hasattr(config.source, "check"):
        check_verifiers(config.source, run.verify)
    check_helpers(run, config)
    if not config.model:
        return
    if not Path(config.model).is_dir():
        raise FileNotFoundError(
            f"Collect.model: {config.model}: no such directory; give a Hugging Face export or a "
            "checkpoint of this program, as RUN/export or RUN/grpo/done"
        )
    model = answering_config(run, config)
    room = config.max_prompt_tokens + config.max_completion_tokens
    if room > model.text.max_positions:
        raise ValueError(
            f"Collect.model: {config.model} has {model.text.max_positions} positions, and "
            f"max_prompt_tokens + max_completion_tokens = {room}; a shorter completion would do"
        )
    # Refuses a mesh that does not divide it: it is loaded as it would be trained.
    mesh = abstract_mesh(run.mesh, slices=run.slices)
    for compute in (run.compute, build.decode_compute(run.compute)):
        build.abstract(model, compute, mesh)


def work(config: Collect) -> StepWork:
    """Returns what a step of full size computes: nothing is learnt."""
    sampled = config.prompts * config.samples * config.max_completion_tokens
    return StepWork(learnt=(), updates=0, new_tokens=sampled)


def programs(
    config: Run, stage: Collect, mesh, banned: tuple[int, ...]
) -> list[Program]:
    """Returns the programs of a step with the shapes they get, in the order of the calls.

    banned: `Tokenizer.banned_token_ids`, which the sampler is compiled with. Another model has
    other banned tokens; as many of them, for a program's cost.
    """
    model = answering_config(config, stage)
    resident = shard_bytes(build.abstract(model, config.compute, mesh))
    if stage.model:
        resident += shard_bytes(build.abstract(config.model, config.compute, mesh))
    resident += resident_helpers(config, stage, mesh)
    table = rollout_programs(
        config,
        mesh,
        SamplingParams(
            max_tokens=stage.max_completion_tokens,
            temperature=stage.temperatures[0],
            banned=banned,
        ),
        prompts=stage.prompts,
        group_size=stage.samples,
        slots=stage.slots,
        tiles=stage.tiles,
        max_prompt_tokens=stage.max_prompt_tokens,
        resident=resident,
        moving_temperature=isinstance(stage.temperature, Chosen),
        answering=model,
    )
    return table + helper_programs(config, stage, mesh, banned, resident)


def answering_config(run: Run, stage: Collect) -> ModelConfig:
    """Returns the dimensions of the model that answers."""
    # `check` refuses a directory that is not there. A dry run without data has none: it counts
    # with the model of the run.
    if not stage.model or not Path(stage.model).is_dir():
        return run.model
    config = checkpoint_config(stage.model)
    if is_ours(stage.model):
        return config
    # What no config.json has: the vocabulary is padded as the run's.
    text = dataclasses.replace(
        config.text,
        vocab_multiple=run.model.text.vocab_multiple,
        rope_impl=run.model.text.rope_impl,
    )
    return dataclasses.replace(config, text=text)
