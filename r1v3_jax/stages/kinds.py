"""The kinds of stages, by the type of their config.

A new kind is a config with the methods and constants of `SFT` (`check_fit`, `may_change`,
`depends_on`, `IS_REWARDED`, `HAS_WEIGHTS`, `READS`), its type in `config.run.Stage`, a line in
KINDS, and a module with these names:

    run(context, name, config, model)    -> (model, account)
    reader(config, processor, data, *, source=None, **position)
                                         -> the rows that it learns from
    check(run, config)                      refuses what can be refused on the host
    programs(run, config, mesh, banned)  -> what one step calls, for the dry run and its test
    work(config)                         -> what one step computes, for its FLOPs

This table is the only place that asks for the kind of a stage.
"""

from types import ModuleType

import jax

from r1v3_jax.config import GRPO, SFT, Collect, Preference, Run
from r1v3_jax.config.run import Stage
from r1v3_jax.data.reader import Reader
from r1v3_jax.run.program import Program
from r1v3_jax.stages import collect, grpo, preference, sft

# The type of a stage's config -> its module.
KINDS = {SFT: sft, GRPO: grpo, Preference: preference, Collect: collect}


def kind_of(config: Stage) -> ModuleType:
    """Returns the module that runs a stage with this config."""
    return KINDS[type(config)]


def open_reader(config: Stage, *args, **position) -> Reader:
    """Returns the reader of a stage; the other arguments are those of its kind's `reader`."""
    return kind_of(config).reader(config, *args, **position)


def stage_programs(
    config: Run, name: str, mesh, banned: tuple[int, ...]
) -> list[Program]:
    """Returns the programs of one step of a stage, in the order in which they are called.

    Nothing is allocated: their arguments are `jax.ShapeDtypeStruct`s on `mesh`. banned:
    `Tokenizer.banned_token_ids`, which the sampler is compiled with.

        for program in stage_programs(config, "grpo", mesh, tokenizer.banned_token_ids):
            program.lower().compile()
    """
    stage = config.stages[name]
    with jax.set_mesh(mesh):
        return kind_of(stage).programs(config, stage, mesh, banned)
