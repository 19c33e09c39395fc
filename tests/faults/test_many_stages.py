"""A run of many stages: what each reads of the others, and killed at any moment, the same bits.

Two collections, preferences, a supervised stage that goes on with another one's optimizer, and two
stages of GRPO.
"""

import hashlib
import json
import random
import shutil
import signal
import time

import commands
import pytest
import runs

from r1v3_jax.config import Optimizer, load_config
from r1v3_jax.pipeline import preflight
from r1v3_jax.train.optimizer import schedule

CONFIG = """
import dataclasses
from r1v3_jax.config import Collect, Optimizer, Preference, load_config
from r1v3_jax.data import Made
from r1v3_jax.distill.keeps import Pairs, Shortest

replace = dataclasses.replace
smoke = load_config("digits_smoke")
grpo = replace(
    smoke.stages["grpo"], steps=3, prompts=8, tiles=8, checkpoint_every=2, evaluate_every=0
)
adam = Optimizer(
    lr=4e-3, warmup_steps=5, schedule="cosine", weight_decay=0.05, schedule_steps=80
)
sft = replace(
    smoke.stages["cold_start"],
    steps=60,
    rows=6,
    tiles=30,
    validation=None,
    validate_every=0,
    checkpoint_every=20,
    optimizer=adam,
)
asked = Collect(
    grpo.train,
    Pairs(2),
    questions=30,
    samples=8,
    prompts=8,
    tiles=8,
    max_prompt_tokens=grpo.max_prompt_tokens,
    max_completion_tokens=grpo.max_completion_tokens,
    checkpoint_every=2,
)
config = replace(
    smoke,
    name="many",
    stages={
        "cold": sft,
        "first": grpo,
        "asked": asked,
        "preferred": Preference(
            Made("asked", grpo.train),
            steps=4,
            pairs=2,
            max_prompt_tokens=grpo.max_prompt_tokens,
            max_answer_tokens=80,
            tiles=4,
            checkpoint_every=2,
            optimizer=Optimizer(lr=1e-4),
        ),
        "chains": replace(asked, keep=Shortest(2)),
        "more": replace(
            sft,
            train=Made("chains", grpo.train),
            start="cold",
            carry="cold",
            steps=6,
            checkpoint_every=2,
        ),
        "second": grpo,
    },
    evaluate=replace(smoke.evaluate, sets=(), pooled=(), answer_prior=(), after=()),
)
"""
COLLECTIONS = ("asked", "chains")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("many")
    config = directory / "many.py"
    config.write_text(CONFIG)
    return runs.Place(directory, config)


@pytest.fixture(scope="module")
def whole(place):
    """The workdir of a run that nobody kills."""
    place.run(place.directory / "whole")
    return place.directory / "whole"


def fingerprint(workdir) -> dict:
    """What may not depend on when a run was killed: also the rows that stages have made."""
    rows = {
        name: hashlib.sha256((workdir / name / "rows/rows.jsonl").read_bytes())
        for name in COLLECTIONS
    }
    hashes = {name: digest.hexdigest() for name, digest in rows.items()}
    return runs.fingerprint(workdir) | hashes


def test_each_stage_reads_what_it_names(place, whole):
    account = json.loads((whole / "asked/account.json").read_text())["collected"]
    assert account["questions"] == 30
    assert sum(account["answers"].values()) == 30 * 8
    assert account["rows"] == account["answers"]["kept"] / 2 > 0
    rows = [json.loads(x) for x in (whole / "asked/rows/rows.jsonl").open()]
    assert len(rows) == account["rows"]
    indices = [row["index"] for row in rows]
    assert indices == sorted(indices) and max(indices) < 30
    for row in rows:
        assert row["chosen"] != row["rejected"]
    # Collections hand on no weights, and what comes behind them is the next stage's.
    assert not (whole / "asked/done/weights").exists()
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["compiles_after_warmup"] == 0
    assert summary["stages"]["chains"]["collected"]["rows"] > 0
    # Every stage logs under its own name.
    steps = {row["stage"] for row in runs.lines(whole)}
    assert steps == {*load_config(str(place.config)).stages}


def test_the_schedule_goes_on_where_the_carried_stage_left_it(whole):
    adam = Optimizer(
        lr=4e-3,
        warmup_steps=5,
        schedule="cosine",
        weight_decay=0.05,
        schedule_steps=80,
    )
    rate = schedule(adam, 60)
    logged = [row["lr"] for row in runs.lines(whole, "more")]
    assert logged == pytest.approx([float(rate(60 + k)) for k in range(6)])
    fresh = [row["lr"] for row in runs.lines(whole, "cold")]
    assert fresh[:6] == pytest.approx([float(rate(k)) for k in range(6)])


def wait_for(condition, process, workdir):
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, runs.said(workdir)[-4000:]
        assert time.monotonic() < end, runs.said(workdir)[-4000:]
        time.sleep(0.001)


def logged(workdir, stage: str, step: int) -> bool:
    return any(row["step"] >= step for row in runs.lines(workdir, stage))


MOMENTS = {
    "behind the first rows, which no state has yet": lambda w: logged(w, "asked", 0),
    # Mostly before the collection is done; a busy machine may see it only behind.
    "once a collection is sealed": lambda w: (w / "asked/rows").exists(),
    "among preferences": lambda w: logged(w, "preferred", 2),
    "among the last rows": lambda w: logged(w, "chains", 2),
    "with a carried optimizer, before its first state": lambda w: logged(w, "more", 0),
    "in the second GRPO": lambda w: logged(w, "second", 1),
}


def test_killed_at_six_moments(place, whole, shows):
    workdir = place.directory / "killed"
    for moment in MOMENTS.values():
        (process,) = place.start(workdir)
        wait_for(lambda moment=moment: moment(workdir), process, workdir)
        commands.kill([process])
        assert process.returncode == -signal.SIGKILL
    place.run(workdir, real=True)
    same = fingerprint(workdir) == fingerprint(whole)
    shows("1, 2 six kills of a run of many stages: the same bits", same, True, same)


def test_a_storm_of_kills_over_many_stages(place, whole, shows, request):
    kills = request.config.getoption("storm")
    if not kills:
        pytest.skip("random kills: run tests/run.sh --storm")
    seconds = place.run(place.directory / "again")
    wanted = fingerprint(whole)
    random_times = random.Random(0)
    storm = place.directory / "storm"
    killed = 0
    equal = []
    while killed < kills or storm.exists():
        (process,) = place.start(storm)
        wait = random_times.uniform(0, seconds / 3) if killed < kills else 600
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            commands.kill([process])
            killed += 1
            continue
        assert process.returncode == 0, runs.said(storm)[-4000:]
        equal.append(fingerprint(storm) == wanted)
        shutil.rmtree(storm)
    what = (
        f"1, 2 {killed} random kills over many stages: runs of {len(equal)} that differ"
    )
    shows(what, equal.count(False), 0, all(equal))


def test_two_processes_keep_what_one_keeps(place, whole, shows):
    """As two processes with a device each, against one with two."""
    found = []
    for processes in (1, 2):
        workdir = place.directory / f"of_{processes}"
        for name in ("cold", "first", "tokenizer"):
            shutil.copytree(whole / name, workdir / name)
        shutil.copy(whole / "run.json", workdir)
        flags = ["--config.mesh=(2,1,1)"]
        for stage in ("asked", "preferred", "chains", "more"):
            place.run(
                workdir,
                *flags,
                f"--config.stage={stage}",
                devices=2 // processes,
                processes=processes,
            )
        rows = [
            (workdir / name / "rows/rows.jsonl").read_text() for name in COLLECTIONS
        ]
        found.append((rows, [row["loss"] for row in runs.lines(workdir, "preferred")]))
    same = found[0][0] == found[1][0]
    shows("2 rows kept by two processes and by one: equal", same, True, same)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


def test_a_collection_that_keeps_nothing_says_what_became_of_the_answers(place, whole):
    """And the next start says it again at once: nothing that was done is lost."""
    workdir = place.directory / "nothing"
    for name in ("cold", "first", "tokenizer"):
        shutil.copytree(whole / name, workdir / name)
    shutil.copy(whole / "run.json", workdir)
    flags = ["--config.stage=chains", "--config.chains.keep.filter.max_tokens=1"]
    for _ in range(2):
        place.run(workdir, *flags, code=1)
        said = runs.said(workdir).strip().splitlines()[-1]
        assert (
            "chains asked 30 questions, and Shortest kept none of 240 answers: " in said
        )
        assert " too long" in said and "Traceback" not in runs.said(workdir)
    assert len(runs.lines(workdir, "chains")) == 4


def test_rows_that_are_not_there_are_refused_before_a_device_is_touched(place, whole):
    config = load_config(str(place.config))
    alone = load_config(str(place.config)).__class__(
        **{**vars(config), "stage": "preferred"}
    )
    with pytest.raises(
        FileNotFoundError,
        match="preferred reads the rows of stage 'asked', which are not",
    ):
        preflight.check(alone, place.directory / "empty")
    preflight.check(alone, whole)
