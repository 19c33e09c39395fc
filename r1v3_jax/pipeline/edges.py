"""Whether stages that read what other stages make come behind them, and read what they make."""

from r1v3_jax.config import Run
from r1v3_jax.config.run import Collect
from r1v3_jax.data.made import made_in

# What the held-out questions may bring: facts, but no answers to learn from.
ASKED = frozenset({"chains", "said", "rates"})


def check_edges(run: Run) -> None:
    """Raises ValueError for rows that no earlier stage makes, or that their reader cannot use."""
    earlier: list[str] = []
    for name, stage in run.stages.items():
        for made in made_in(stage):
            check_edge(run, name, made.stage, earlier, stage.READS)
        if getattr(stage, "evaluate_every", 0):
            for made in made_in(run.evaluate.probe):
                asked_by = f"evaluate.probe, asked by {name},"
                check_edge(run, asked_by, made.stage, earlier, ASKED)
        earlier.append(name)
        entry = run.evaluate.after_stage(name)
        if entry is None:
            continue
        for set_name, source in run.evaluate.asked(entry).sets:
            for made in made_in(source):
                asked_by = f"set {set_name!r}, asked after {name},"
                check_edge(run, asked_by, made.stage, earlier, ASKED)


def check_edge(
    run: Run, reader: str, maker: str, earlier: list[str], reads: frozenset[str]
) -> None:
    """Raises ValueError unless stage `maker` comes before its reader and makes what it reads.

    reader: who reads, for the message. earlier: the stages that are done by then.
    """
    collecting = [name for name in earlier if isinstance(run.stages[name], Collect)]
    if maker not in collecting:
        if maker not in run.stages:
            problem = "is no stage"
        elif maker in earlier:
            problem = "collects nothing"
        else:
            problem = "does not come before it"
        raise ValueError(
            f"{reader} reads Made({maker!r}), which {problem}; choose from "
            f"{', '.join(collecting) or 'none: add a stage Collect(...) before it'}"
        )
    keep = run.stages[maker].keep
    if keep.MAKES not in reads:
        raise ValueError(
            f"{reader} reads Made({maker!r}), whose keep, {type(keep).__name__}, makes "
            f"{keep.MAKES}; it can use {', '.join(sorted(reads))}: a stage of preferences takes "
            "Pairs(), any other one Shortest() or Best(...)"
        )
