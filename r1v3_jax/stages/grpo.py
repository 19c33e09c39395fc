"""GRPO: sample groups of completions, score them, move the policy towards the better ones.

One step: P prompts, G samples each, rewards, advantages within each group, `updates_per_rollout`
optimizer steps. What is deliberately absent: a value network, a reward model, a second engine. One
set of weights samples (in 8 bits with `rollout_int8`), scores and learns.

With one update per rollout the policy that learns is the policy that sampled: no scoring pass is
needed, the update's own forward pass is the old policy. With kl_coef 0 there is no reference model
at all.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from r1v3_jax.config import GRPO, Data, Run
from r1v3_jax.data import placement
from r1v3_jax.data.reader import Reader
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import Processor
from r1v3_jax.rewards.helpers import likelihood_terms
from r1v3_jax.rollout.collect import Collected
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.metrics import not_finite, statistics
from r1v3_jax.run.context import Context
from r1v3_jax.stages.drafting import Drafting
from r1v3_jax.stages.entropy_bonus import EntropyBonus
from r1v3_jax.stages.following import followed
from r1v3_jax.stages.grpo_programs import make_update
from r1v3_jax.stages.grpo_programs import programs as programs  # see kinds.py
from r1v3_jax.stages.helpers import check_helpers, make_helpers
from r1v3_jax.stages.kept import newest_of_all, saved_state
from r1v3_jax.stages.ledger import Ledger
from r1v3_jax.stages.loop import Loop, StepWork, check_sources
from r1v3_jax.stages.probe import Probe, make_sampler
from r1v3_jax.stages.reference import check_reference, make_reference
from r1v3_jax.stages.rollouts import Rollouts
from r1v3_jax.stages.samples import SampleWriter
from r1v3_jax.stages.verifiers import check_verifiers
from r1v3_jax.train.kl_rewards import with_kl
from r1v3_jax.train.likelihood import with_likelihood
from r1v3_jax.train.optimizer import what_learns
from r1v3_jax.train.policy_batch import busy_rows, policy_batch
from r1v3_jax.train.policy_gradient import needs_old_logprobs, with_logprobs
from r1v3_jax.train.update import TrainState, create
from r1v3_jax.types import PolicyBatch


def run(context: Context, name: str, config: GRPO, model: R1V3) -> tuple[R1V3, dict]:
    """Runs the stage from its newest state, or from `model`.

    Returns the chosen model, and the account of the choice.
    """
    optimizer, update = make_update(config)
    reference = make_reference(context.run, config, model)
    state = create(model, optimizer, what_learns(config))
    del model  # its arrays belong to `state` now, and the first update donates them
    states = context.training_states(name)
    drafting = Drafting(context, config)
    kept, resume = newest_of_all(config, states, state, reference, drafting.state)
    state = kept.state
    reference = kept.reference
    drafting.go_on(kept.drafts, resume.tokens_a_pass)
    sampler = make_sampler(context, config, make_helpers(context, config))
    writer = SampleWriter(context, name, config)
    probe = Probe(context, name, config, resume.checkpoints, writer)
    bonus = EntropyBonus(config.entropy_coef, resume.entropy_coef)
    questions = reader(config, context.processor, context.run.data, **resume.position)
    ledger = Ledger(
        context.workdir, name, resume_step=resume.step, counts=resume.dropped
    )

    with (
        contextlib.closing(questions),
        contextlib.closing(writer),
        Loop(context, name, config, states, resume) as loop,
    ):
        rollouts = Rollouts(context, config, loop, sampler, questions, drafting)
        for step in range(resume.step, config.steps):
            wanted = programs_ahead(name, config, drafting, step)
            if not wanted <= context.compiles.done:
                loop.watchdog.may_compile()

            # 1. Sample and score.
            with loop.timer("rollout"), ledger.reading(step):
                collected = rollouts.collect(step, state.model)
                ledger.add(step, collected.consumed.drops)
                bonus.measure(collected.groups)
                drafting.measure(collected.groups)
                host_batch = batch_of(context, config, step, collected.groups, bonus)
                batch = place(context, host_batch)

            # 2. Learn, unless a reward or a log-probability is not finite.
            learnt = {}
            problem = not_finite(collected.groups)
            if not problem and needs_old_logprobs(config):
                with loop.timer("score"):
                    batch = with_logprobs(batch, state.model, reference, config)
                    collected, batch = with_reference_terms(
                        context, config, step, collected, batch, bonus
                    )
                    problem = not_finite(collected.groups)
            if problem:
                loop.skip(step, problem, host_batch)
            else:
                taught = drafting.learn(step, state.model, batch, loop.timer)
                state, learnt = learn(loop, step, state, batch, update, config)
                learnt |= taught
            reference = followed(config, step, reference, state.model)

            # 3. Measure: this step's samples, and now and then the policy on fixed questions.
            metrics = learnt | ledger.metrics() | speed(loop.timer, config, collected)
            metrics |= sample_metrics(config, step, collected, host_batch)
            metrics |= probe.entropies(collected.groups) | bonus.metrics()
            metrics |= drafting.metrics()
            if probe.is_due(step):
                with loop.timer("probe"), loop.watchdog.slow():
                    metrics |= probe.measure(step, state.model)

            # 4. Write down.
            loop.log(step, metrics)
            context.compiles.after(*programs_of(name, collected, host_batch, metrics))
            writer.write(step, collected.groups, batch, loop)
            position = position_after(collected, ledger, probe, bonus, drafting)
            saved = saved_state(config, state, reference, drafting.state)
            loop.end(step, saved, position, can_go_on=rollouts.are_done)
    return probe.choose(state)


def position_after(
    collected: Collected,
    ledger: Ledger,
    probe: Probe,
    bonus: EntropyBonus,
    drafting: Drafting,
) -> dict:
    """Returns where the stage goes on after a step, the fields of `Resume`.

    The list of checkpoints is copied: a thread saves it while later steps add to it.
    """
    return {
        "cursor": collected.consumed.cursor,
        "dropped": ledger.counts,
        "checkpoints": [*probe.checkpoints],
        "entropy_coef": bonus.coefficient,
        "tokens_a_pass": drafting.tokens_a_pass,
    }


def reader(
    config: GRPO,
    processor: Processor,
    data: Data,
    *,
    source: Callable | None = None,
    **position,
) -> Reader:
    """Returns a reader of the stage's questions, or of `source` in their place.

    Every prompt of a step has the same share of the step's tile slots: with 64 slots and 16
    prompts, a prompt of more than 4 tiles is dropped. position: `start` and `counts` of a resumed
    stage, see `data.reader.Reader`.
    """
    return Reader(
        source or config.train,
        processor.prompt,
        tokens=config.max_prompt_tokens,
        tiles=config.tiles // config.prompts,
        data=data,
        tile_size=processor.tile_size,
        **position,
    )


def check(run: Run, config: GRPO) -> None:
    """Raises ValueError or FileNotFoundError for data that the stage cannot use."""
    sources = [config.train]
    if config.evaluate_every:
        sources.append(run.evaluate.probe)
    check_sources(*sources)
    check_reference(run, config)
    check_helpers(run, config)
    if hasattr(config.train, "check"):
        check_verifiers(config.train, run.verify)


def batch_of(
    context: Context,
    config: GRPO,
    step: int,
    groups: list[Group],
    bonus: EntropyBonus,
) -> PolicyBatch:
    """Returns the arrays of a step's update, on the host."""
    return policy_batch(
        groups,
        config,
        context.processor,
        seed=(context.run.seed, step),
        progress=step / config.steps,
        entropy_coef=bonus.applied,
    )


def with_reference_terms(
    context: Context,
    config: GRPO,
    step: int,
    collected: Collected,
    batch: PolicyBatch,
    bonus: EntropyBonus,
) -> tuple[Collected, PolicyBatch]:
    """Adds the reward terms that read the reference to a scored batch; its advantages are new.

    They are `Likely` and, with kl_in = "reward", the KL term. Without them nothing changes.
    """
    progress = step / config.steps
    groups = collected.groups
    if likelihood_terms(config.reward):
        tokenizer = context.processor.tokenizer
        groups = with_likelihood(groups, batch, config, tokenizer, progress)
    if config.kl_in == "reward":
        groups = with_kl(groups, batch, config, progress)
    if groups is collected.groups:
        return collected, batch
    anew = place(context, batch_of(context, config, step, groups, bonus))
    rows = dataclasses.replace(
        anew.rows,
        old_logprobs=batch.rows.old_logprobs,
        ref_logprobs=batch.rows.ref_logprobs,
    )
    batch = dataclasses.replace(anew, rows=rows)
    return dataclasses.replace(collected, groups=groups), batch


def place(context: Context, batch: PolicyBatch) -> PolicyBatch:
    """Puts a batch on the devices."""
    rules = context.run.compute.rules
    return placement.place(batch, rules, jax.sharding.get_mesh())


def learn(
    loop: Loop,
    step: int,
    state: TrainState,
    batch: PolicyBatch,
    update: Callable,
    config: GRPO,
) -> tuple[TrainState, dict]:
    """Makes `updates_per_rollout` optimizer steps on one batch.

    Returns the new state, and the metrics of the last of them.
    """
    metrics = {}
    for _ in range(config.updates_per_rollout):
        with loop.timer("update"):
            state, metrics = update(state, batch)
            metrics = {key: float(x) for key, x in jax.device_get(metrics).items()}
        loop.check_finite(step, metrics, batch)
    return state, metrics


def sample_metrics(
    config: GRPO, step: int, collected: Collected, batch: PolicyBatch
) -> dict:
    """Returns rewards and lengths of a step's samples, and how full its batch is."""
    return {
        **statistics(collected.groups, config.token_limit(step)),
        **collected.counts,
        **{f"number/{name}": float(x) for name, x in batch.numbers.items()},
        "rows/busy": busy_rows(batch),
        "prompts/padded_length": padded_length(batch),
    }


def speed(timer, config: GRPO, collected: Collected) -> dict:
    """Returns sampled tokens a second, and the seconds waited for data.

    Off-policy the whole step counts: the devices sample during all of it.
    """
    # On-policy the devices sample in this step's rollout, and nowhere else.
    seconds = timer.values["time/rollout_s"]
    if config.off_policy_steps:
        seconds = sum(timer.values.values())
    sampled = collected.drawn
    if sampled is None:
        lengths = [group.completions.lengths for group in collected.groups]
        sampled = int(np.sum(lengths))
    return {
        "tokens_per_s": sampled / seconds,
        # The wait is for this step's rows, in whichever step they were read.
        "time/data_wait_s": collected.consumed.wait_s,
    }


def padded_length(batch: PolicyBatch) -> int:
    """Returns the tokens that the prompts of a batch are padded to."""
    return batch.prompts.tokens.shape[1]


def programs_ahead(name: str, config: GRPO, drafting: Drafting, step: int) -> set[str]:
    """Returns the programs that a step may call: a rollout and an update a padded length."""
    sizes = (*config.buckets, (config.max_prompt_tokens, config.tiles))
    # Off-policy it begins the rollout of the step behind it as well.
    steps = {step, step + config.off_policy_steps}
    guessed = {drafting.has_guesses(begun) for begun in steps}
    programs = set()
    for length, _ in sizes:
        programs.add(f"{name}/update/{length}")
        programs |= {rollout_name(name, length, has) for has in guessed}
    return programs


def rollout_name(name: str, length: int, has_guesses: bool) -> str:
    """Returns how the programs of a rollout are called; length: to which prompts are padded."""
    return f"{name}/rollout/{'with_guesses/' if has_guesses else ''}{length}"


def programs_of(
    name: str, collected: Collected, batch: PolicyBatch, metrics: dict
) -> list[str]:
    """Returns the programs that a step called: of `programs_ahead`, and the probe."""
    programs = [
        rollout_name(name, length, bool(metrics.get("drafts/used")))
        for length in collected.lengths
    ]
    ahead = collected.ahead
    if ahead is not None:
        has_guesses = ahead.info.drafter is not None
        programs.append(rollout_name(name, ahead.length, has_guesses))
    if "loss" in metrics:
        programs.append(f"{name}/update/{padded_length(batch)}")
    if "eval/accuracy" in metrics:
        programs.append(f"{name}/probe")
    return programs


def work(config: GRPO) -> StepWork:
    """Returns what a step of full size computes, for its FLOPs.

    A prompt is read once; its samples attend to it and, on average, to half of themselves.
    """
    prompt = config.max_prompt_tokens
    completion = config.max_completion_tokens
    sampled = config.prompts * config.group_size * completion
    return StepWork(
        learnt=(
            (config.prompts * prompt, prompt / 2),
            (sampled, prompt + completion / 2),
        ),
        updates=config.updates_per_rollout,
        new_tokens=sampled,
    )
