"""Flags of `python -m r1v3_jax.evaluate`, and what is made of them: a model, and what scores."""

import dataclasses
import typing
from pathlib import Path

from absl import flags

from r1v3_jax import cli
from r1v3_jax.benchmarks import letters, prompts, scoring, tsv
from r1v3_jax.evaluate import benchmark_run
from r1v3_jax.evaluate.benchmark_run import Prepared
from r1v3_jax.evaluate.benchmark_summary import Scorer
from r1v3_jax.evaluate.checkpoint_answers import (
    CheckpointModel,
    ControlTokens,
    Settings,
    Thinking,
)
from r1v3_jax.evaluate.server_answers import ServerModel
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
    "Words of this program, of an installed VLMEvalKit, or the question alone.",
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
CONTROL_TOKENS = flags.DEFINE_enum(
    "control_tokens",
    "text",
    _choices(ControlTokens),
    "Those in a question: characters, or the tokens that they look like.",
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
RULES = flags.DEFINE_enum(
    "rules",
    "vlmeval-0.2",
    list(letters.BY_VERSION),
    "How a letter is read: as VLMEvalKit does now, or as when Skywork-R1V3 was evaluated.",
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


def check() -> None:
    """ValueError for flags that are missing or do not go together."""
    if bool(CHECKPOINT.value) == bool(ENDPOINT.value):
        raise ValueError(
            "give either --checkpoint=DIR or --endpoint=http://host:8000/v1"
        )
    for flag in (DATA, OUT):
        if not flag.value:
            raise ValueError(f"--{flag.name}=DIR is missing")
    if (Path(OUT.value) / "run.json").exists():
        raise ValueError(
            f"--out={OUT.value} is the workdir of a run, whose summary.json would be replaced; "
            f"give a folder in it, as --out={OUT.value.rstrip('/')}/benchmark"
        )
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
    if ENDPOINT.value and CONTROL_TOKENS.value != "text":
        raise ValueError(
            f"--control_tokens={CONTROL_TOKENS.value} needs --checkpoint: a server encodes "
            "questions in its own way"
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
        control_tokens=CONTROL_TOKENS.value,
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
        "control_tokens": CONTROL_TOKENS.value,
        "chat": dataclasses.asdict(checkpoint.tokenizer.chat),
        "banned_spellings": checkpoint.banned_spellings(),
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
    verify = Verify(processes=PROCESSES.value)
    return Scorer(READING.value, verify, judge, thinking, RULES.value)
