"""Makes the arms of a recipe with several seeds, and compares them on the same questions.

    python -m tools.arms --config=recipes/othink --workdir=runs/othink

The stages that all arms share are made once, in WORKDIR/start. From there each arm goes on with
each seed, in WORKDIR/ARM/seed_K, as runs of the launcher. The same command again makes what is
missing, goes on with what was killed, and prints the tables: accuracy, paired differences to the
arm that each is compared to, what each stage adds, the probe's curve, and means of other metrics.
They are also in WORKDIR/arms.json.
"""

import math
import signal
import sys
from pathlib import Path

from absl import flags

from r1v3_jax import cli
from r1v3_jax.arms import results, runs, tables
from r1v3_jax.arms.plan import (
    Comparison,
    baselines,
    shared_stages,
)
from r1v3_jax.config import load_arms
from r1v3_jax.config.smoke import cut_down

CONFIG = flags.DEFINE_string(
    "config", None, "A recipe, as recipes/othink.", required=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of all runs.", required=True)
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, ... of each arm.", lower_bound=1)
ARMS = flags.DEFINE_list(
    "arms", [], "Arms to make; default: all. The first is compared to."
)
PROCESSES = flags.DEFINE_integer("processes", 1, "Runs side by side.", lower_bound=1)
METRIC = flags.DEFINE_multi_string(
    "metric",
    [],
    "A metric to take means of, as reward or STAGE:reward; may be repeated.",
)
FIRST = flags.DEFINE_integer(
    "first", 0, "Steps that means of metrics go over; 0: all.", lower_bound=0
)
REACH = flags.DEFINE_string(
    "reach",
    None,
    "Print the samples that it takes to an accuracy on a set, as home:0.75.",
)
SMOKE = flags.DEFINE_bool(
    "smoke", False, "A few steps and questions: does every stage run?"
)


def main():
    reach = read_reach(REACH.value) if REACH.value else None

    # 1. The arms. Each must differ in one thing from what it is compared to, or the difference has
    #    no cause.
    whole = load_arms(CONFIG.value)
    unknown = [name for name in ARMS.value if name not in whole]
    if unknown:
        raise ValueError(
            f"{CONFIG.value} has no arm {unknown[0]!r}; it has {', '.join(whole)}"
        )
    chosen = {name: whole[name] for name in ARMS.value or whole}
    first = next(iter(chosen))
    differs = baselines(chosen)
    for arm, (_, fields) in differs.items():
        if len(fields) != 1:
            raise ValueError(
                f"{CONFIG.value}: an arm must differ from the first, {first}, or from the one "
                f"before it, in one field, and {arm} differs in {', '.join(fields) or 'none'}; "
                "--arms=... chooses among them"
            )
    cut = cut_down if SMOKE.value else lambda run: run
    arms = {name: cut(run) for name, run in chosen.items()}
    shared = shared_stages(whole)
    # An arm that is another's beginning would have nothing to do, and no accuracy of its own.
    idle = [name for name, run in chosen.items() if len(run.stages) == len(shared)]
    if idle:
        raise ValueError(
            f"{CONFIG.value}: every stage of {idle[0]} ({', '.join(shared)}) is the same in the "
            "other arms; arms must differ in a stage"
        )
    comparison = Comparison(
        config=CONFIG.value,
        arms=arms,
        shared=tuple(shared),
        seeds=tuple(range(SEEDS.value)),
        directory=Path(WORKDIR.value),
        flags=("--smoke",) if SMOKE.value else (),
    )
    for arm, (other, fields) in differs.items():
        print(f"{CONFIG.value}: {arm} differs from {other} in {fields[0]}", flush=True)

    # 2. The runs. Asked to end, this process asks the runs to, and they save where they are.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    runs.make_runs(
        comparison, PROCESSES.value, tell=lambda line: print(line, flush=True)
    )

    # 3. What came out.
    summary = results.compare(comparison, METRIC.value, FIRST.value, reach)
    results.write(comparison.directory / "arms.json", summary)
    print()
    print(tables.tables(summary))


def read_reach(text: str) -> tuple[str, float]:
    """Reads "home:0.75" as ("home", 0.75); ValueError for another form."""
    name, _, accuracy = text.rpartition(":")
    try:
        target = float(accuracy)
    except ValueError:
        target = math.nan
    if not name or not 0 < target < 1:
        raise ValueError(
            f"--reach={text}; wanted a set and an accuracy between 0 and 1, as home:0.75"
        )
    return name, target


if __name__ == "__main__":
    cli.run(main)
