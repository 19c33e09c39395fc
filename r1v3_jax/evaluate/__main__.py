"""Asks a checkpoint, or any server, the benchmarks of the report, and scores its answers.

python -m r1v3_jax.evaluate --checkpoint=DIR --benchmark=MMMU_DEV_VAL,MathVista_MINI \
    --data=LMUDATA --out=DIR [--judge_url=http://host:8000/v1 --judge_model=NAME]
python -m r1v3_jax.evaluate --endpoint=http://host:8000/v1 --model=NAME --benchmark=...
python -m r1v3_jax.evaluate --list

The same command again goes on where it was stopped. Whatever is wrong is said before anything is
sampled. See docs/evaluation.md.
"""

import contextlib
import dataclasses
import typing
from pathlib import Path

from absl import flags

from r1v3_jax import cli
from r1v3_jax.benchmarks import prompts, scoring, table, tsv
from r1v3_jax.benchmarks.scoring import Score
from r1v3_jax.evaluate import benchmark_numbers, benchmark_run, protocol
from r1v3_jax.evaluate.benchmark_run import Prepared, Reader, Scorer, percent
from r1v3_jax.evaluate.checkpoint_answers import CheckpointModel, Settings, Thinking
from r1v3_jax.evaluate.samples import Item
from r1v3_jax.evaluate.server_answers import ServerModel
from r1v3_jax.files import read_jsonl, write_json
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.verifiers.model import Judge


def _choices(literal) -> list[str]:
    return list(typing.get_args(literal))


# Who is asked.
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A checkpoint of ours, a directory."
)
ENDPOINT = flags.DEFINE_string(
    "endpoint", None, "Instead: an OpenAI-compatible server, as http://host:8000/v1."
)
MODEL = flags.DEFINE_string(
    "model", "r1v3", "The server's name of the model; names files of predictions too."
)
REQUESTS = flags.DEFINE_integer("requests", 32, "To the server, at a time.", 1)
TIMEOUT = flags.DEFINE_float("timeout", 3600.0, "Seconds for one answer.", 1.0)
# What is asked.
BENCHMARK = flags.DEFINE_list(
    "benchmark", [], "Names of --list, or NAME of a file NAME.tsv of your own."
)
DATA = flags.DEFINE_string(
    "data", None, "The folder of the files: VLMEvalKit's LMUData."
)
OUT = flags.DEFINE_string("out", None, "A folder for samples and results.")
MISSING = flags.DEFINE_enum(
    "missing",
    "exact",
    _choices(tsv.Missing),
    "Cells as written, or as pandas reads them.",
)
PLACEMENT = flags.DEFINE_enum(
    "placement",
    "front",
    _choices(prompts.Placement),
    "Images first, or at their markers.",
)
PROMPTS = flags.DEFINE_enum(
    "prompts",
    "own",
    _choices(benchmark_run.Wording),
    "Words of this program, or of an installed VLMEvalKit.",
)
ANY_MD5 = flags.DEFINE_bool(
    "any_md5", False, "Read files other than the published ones."
)
# How.
RUNS = flags.DEFINE_integer("runs", 5, "Answers to each question.", 1)
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Of the answers.", 0.0)
MAX_TOKENS = flags.DEFINE_integer("max_tokens", 16384, "Of an answer.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of the answers.")
THINKING = flags.DEFINE_enum(
    "thinking",
    "slow",
    _choices(Thinking),
    "As the template says; without <think>; with its end prefilled; without critical words.",
)
MAX_PROMPT = flags.DEFINE_integer(
    "max_prompt_tokens", 16384, "Longer ones count as wrong.", 1
)
BATCH = flags.DEFINE_integer("batch", 16, "Questions at a time, of a checkpoint.", 1)
SLOTS = flags.DEFINE_integer(
    "slots", 0, "Answers decoded at a time; 0: all of a batch.", 0
)
MESH = cli.define_mesh()
# How answers are scored.
READING = flags.DEFINE_enum(
    "reading",
    "box",
    _choices(scoring.Reading),
    r"What decides: the benchmark's rule alone, or also the last \boxed{}.",
)
JUDGE_URL = flags.DEFINE_string(
    "judge_url", "", "A server that judges what is left open."
)
JUDGE_MODEL = flags.DEFINE_string("judge_model", "", "Its model.")
UNJUDGED = flags.DEFINE_bool(
    "unjudged", False, "Leave open what only a judge can tell; it widens the interval."
)
PROCESSES = flags.DEFINE_integer(
    "processes", 0, "That compare mathematics; 0: one a core.", 0
)
COMPARE = flags.DEFINE_string(
    "compare", None, "The --out of another model, to compare question by question."
)
LIST = flags.DEFINE_bool("list", False, "Print the table of benchmarks and stop.")


def main() -> None:
    """Checks everything, samples, scores, and prints the table."""
    if LIST.value:
        print(list_benchmarks())
        return

    # 1. Whatever can be wrong.
    check_flags()
    data = Path(DATA.value)
    reader = Reader(data, MISSING.value, PLACEMENT.value, ANY_MD5.value, PROMPTS.value)
    prepared = [benchmark_run.prepare(name, reader) for name in BENCHMARK.value]
    check_judge(prepared)
    model, prepared, described = make_model(prepared)
    out = Path(OUT.value)
    scorer = make_scorer(model, out)
    for part in prepared:
        sampling = {**described, **part.described}
        settings = {"sampling": sampling, "scoring": scorer.protocol()}
        protocol.settle(out / part.benchmark.name / "protocol.json", settings)
        announce(part)

    # 2. Sample, then score: a judge that fails costs no sample.
    summaries = []
    with contextlib.nullcontext() if ENDPOINT.value else cli.set_mesh(MESH):
        for part in prepared:
            folder = out / part.benchmark.name
            benchmark_run.run(part, model, RUNS.value, folder, progress(part))
            benchmark_run.write_predictions(part, RUNS.value, folder, MODEL.value)
    for part in prepared:
        folder = out / part.benchmark.name
        summary = benchmark_run.summarise(part, RUNS.value, folder, scorer)
        if COMPARE.value:
            summary["compared"] = compare(part, folder, Path(COMPARE.value))
        summaries.append(summary)

    # 3. Tell.
    write_json(out / "summary.json", {s["benchmark"]: s for s in summaries})
    print(benchmark_run.write_table(out / "summary.md", summaries), end="")
    for summary in summaries:
        for line in notes(summary):
            print(line)


def check_flags() -> None:
    """ValueError for flags that are missing or do not go together."""
    if bool(CHECKPOINT.value) == bool(ENDPOINT.value):
        raise ValueError(
            "give either --checkpoint=DIR or --endpoint=http://host:8000/v1"
        )
    for flag in (DATA, OUT):
        if not flag.value:
            raise ValueError(f"--{flag.name}=DIR is missing")
    if not BENCHMARK.value:
        raise ValueError("--benchmark=NAME is missing; --list prints the names")
    if len(set(BENCHMARK.value)) < len(BENCHMARK.value):
        raise ValueError(
            f"--benchmark={','.join(BENCHMARK.value)}: a name is there twice"
        )
    if not Path(DATA.value).is_dir():
        raise ValueError(f"--data={DATA.value}: no such folder")
    if ENDPOINT.value and THINKING.value != "slow":
        raise ValueError(
            f"--thinking={THINKING.value} needs --checkpoint: a server's template decides how its "
            "model thinks"
        )
    if PROMPTS.value == "kit" and MISSING.value != "kit":
        raise ValueError(
            "--prompts=kit goes with --missing=kit: VLMEvalKit reads its files as pandas does"
        )
    if bool(JUDGE_URL.value) != bool(JUDGE_MODEL.value):
        raise ValueError("--judge_url and --judge_model go together; give both")
    if RUNS.value > 1 and TEMPERATURE.value == 0:
        raise ValueError(
            f"--runs={RUNS.value} at --temperature=0 are {RUNS.value} equal answers; give --runs=1 "
            "or --temperature=1"
        )


def check_judge(prepared: list[Prepared]) -> None:
    """ValueError if a benchmark is mostly judged and no judge is given."""
    judged = [
        part.benchmark.name for part in prepared if part.benchmark.judge == "most"
    ]
    if judged and not JUDGE_URL.value and not UNJUDGED.value:
        raise ValueError(
            f"{', '.join(judged)}: most answers need a judge; give --judge_url and --judge_model, "
            "or --unjudged to leave them open"
        )


def make_model(prepared: list[Prepared]):
    """Returns the model, the benchmarks with what it cannot be asked, and its protocol."""
    common = {
        "runs": RUNS.value,
        "temperature": TEMPERATURE.value,
        "max_tokens": MAX_TOKENS.value,
        "seed": SEED.value,
        "thinking": THINKING.value,
    }
    if ENDPOINT.value:
        server = ServerModel(
            url=ENDPOINT.value,
            name=MODEL.value,
            temperature=TEMPERATURE.value,
            max_tokens=MAX_TOKENS.value,
            seed=SEED.value,
            requests=REQUESTS.value,
            timeout_s=TIMEOUT.value,
        )
        return server, prepared, {"server": MODEL.value, **common}
    settings = Settings(
        temperature=TEMPERATURE.value,
        max_tokens=MAX_TOKENS.value,
        max_prompt_tokens=MAX_PROMPT.value,
        seed=SEED.value,
        batch=BATCH.value,
        thinking=THINKING.value,
        slots=SLOTS.value,
    )
    if SLOTS.value > BATCH.value * RUNS.value:
        raise ValueError(
            f"--slots={SLOTS.value}; at most --batch x --runs = {BATCH.value * RUNS.value}"
        )
    checkpoint = CheckpointModel(CHECKPOINT.value, settings)
    parts = [
        dataclasses.replace(part, items=checkpoint.encodable(part.items))
        for part in prepared
    ]
    described = {
        "weights": checkpoint.identity(),
        "batch": BATCH.value,
        "max_prompt_tokens": MAX_PROMPT.value,
        "tiles": "max_tiles for each image",
        "chat": dataclasses.asdict(checkpoint.tokenizer.chat),
        "critical_words_not_banned": checkpoint.not_banned(),
        **common,
    }
    return checkpoint, parts, described


def make_scorer(model, out: Path) -> Scorer:
    """Returns what scores; judgements are kept in the folder."""
    judge = None
    if JUDGE_URL.value:
        out.mkdir(parents=True, exist_ok=True)
        judge = Judge(
            JUDGE_URL.value,
            JUDGE_MODEL.value,
            timeout_s=120.0,
            retries=5,
            requests=REQUESTS.value,
            cache=str(out / "judgements.jsonl"),
            judging=scoring.JUDGING,
        )
    # What a server thinks is not known: an answer of its that was cut has none without </think>.
    thinking = model.thinks_first() if isinstance(model, CheckpointModel) else True
    return Scorer(READING.value, Verify(processes=PROCESSES.value), judge, thinking)


def announce(part: Prepared) -> None:
    """Says what will be asked, and what cannot be."""
    problems = [item for item in part.items if item.problem]
    print(
        f"{part.benchmark.name}: {len(part.items)} questions x {RUNS.value}", flush=True
    )
    for item in problems[:5]:
        print(f"  not asked, counts as wrong: {item.question.index}: {item.problem}")
    if len(problems) > 5:
        print(f"  and {len(problems) - 5} more, see not_asked in summary.json")
    if part.benchmark.judge == "rest" and not JUDGE_URL.value:
        print(
            "  no judge: what the rule leaves open is reported as not known", flush=True
        )


def progress(part: Prepared):
    """Returns a function that prints each tenth of the samples."""
    printed = set()

    def report(done: int, of: int) -> None:
        tenth = 10 * done // max(of, 1)
        if tenth not in printed:
            printed.add(tenth)
            print(f"{part.benchmark.name}: {done} of {of} answers", flush=True)

    return report


def compare(part: Prepared, folder: Path, other: Path) -> dict[str, float]:
    """Returns this model's score less that of the other folder, question by question."""
    theirs = other / part.benchmark.name / "scores.jsonl"
    if not theirs.is_file():
        raise ValueError(f"--compare={other}: no {theirs}; evaluate that model first")
    ours = scores_of(folder / "scores.jsonl", part.items)
    return benchmark_numbers.compare(
        part.benchmark, part.questions, scores_of(theirs, part.items), ours
    )


def scores_of(path: Path, items: list[Item]) -> list[list[Score]]:
    """Reads scores [Q][R] in the order of the items; ValueError if questions differ."""
    by_index: dict[str, list[Score]] = {}
    for row in read_jsonl(path):
        score = Score(row["right"], row["by"], row["extracted"])
        by_index.setdefault(row["index"], []).append(score)
    wanted = {item.question.index for item in items}
    if wanted != by_index.keys():
        raise ValueError(
            f"{path}: other questions than here; compare runs on the same file"
        )
    return [by_index[item.question.index] for item in items]


def notes(summary: dict) -> list[str]:
    """Returns what is worth a line below the table."""
    name = summary["benchmark"]
    lines = []
    if summary["budgets"]:
        parts = [f"{tokens}: {percent(x)}" for tokens, x in summary["budgets"].items()]
        lines.append(f"{name}: with fewer tokens {', '.join(parts)}")
    if len(summary["pass"]) > 1:
        k, share = list(summary["pass"].items())[-1]
        lines.append(f"{name}: pass@{k} {percent(share)}")
    if summary["not_asked"]:
        lines.append(f"{name}: {len(summary['not_asked'])} questions were not asked")
    if "compared" in summary:
        gap = {key: f"{100 * value:+.1f}" for key, value in summary["compared"].items()}
        ends = f"{gap['low']} to {gap['high']}"
        lines.append(f"{name}: {gap['difference']} points to {COMPARE.value} ({ends})")
    return lines


def list_benchmarks() -> str:
    """Returns the table of benchmarks."""
    rows = [("name", "file", "prompt", "rule", "then", "aggregate", "judge", "paper")]
    for row in table.TABLE:
        names = (
            row.prompt.__name__,
            row.rule.__name__,
            row.verifier,
            row.aggregate.__name__,
        )
        rows.append((row.name, row.file, *names, row.judge, f"{row.paper:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    cli.run(main)
