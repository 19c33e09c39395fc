"""Stages in order: `check` refuses what can be refused on the host, `run` does the rest."""

from r1v3_jax.pipeline.pipeline import run
from r1v3_jax.pipeline.preflight import check

__all__ = ["check", "run"]
