"""Every program of a run in one table: a jitted function with the shapes and shardings it is given.

A run calls these functions; `--dry_run` compiles them for a slice that is not there; a test holds a
run to what stands here. Nothing is allocated: arguments are `jax.ShapeDtypeStruct`s on a mesh.

    for program in programs.of_stage(config, "grpo", mesh, tokenizer.banned_token_ids):
        program.lower().compile()
"""

import jax

from r1v3_jax.config import GRPO, Run
from r1v3_jax.run.program import Program
from r1v3_jax.stages.grpo import _of_grpo
from r1v3_jax.stages.sft import _of_sft


def of_stage(config: Run, stage: str, mesh, banned: tuple[int, ...]) -> list[Program]:
    """The programs of one step of a stage, in the order in which they run.

    banned: `Tokenizer.banned_token_ids`, which the sampler is compiled with.
    """
    with jax.set_mesh(mesh):
        stage_config = getattr(config, stage)
        if isinstance(stage_config, GRPO):
            return _of_grpo(config, stage_config, mesh, banned)
        return _of_sft(config, stage_config, mesh)
