"""An evaluation that is killed ends in the same bytes, and asks no judge again what it knows."""

import hashlib
import json
import random
import time

import commands
from benchmark_files import base64_of, png, write_tsv
from model_server_for_tests import completion, model_server, text_of

from r1v3_jax.benchmarks.scoring import JUDGING
from r1v3_jax.files import read_jsonl
from r1v3_jax.rewards.verifiers.model import name_reader

QUESTIONS = 30
RUNS = 3
REQUESTS = 2  # at a time
ANIMALS = "cat dog parrot horse".split()


def animal_of(number: int) -> str:
    return ANIMALS[number % len(ANIMALS)]


def policy(request, _):
    """Says one of four animals by question and seed, in words that only a judge can read."""
    time.sleep(0.01)
    number = int(text_of(request).split()[1][:-1])
    rng = random.Random(f"{number}/{request['seed']}")
    said = animal_of(number) if rng.random() < 0.6 else rng.choice(ANIMALS)
    return 200, completion(f"Hm.</think>It is that {said} of mine.")


def judge(request, _):
    time.sleep(0.01)
    text = text_of(request)
    data = json.JSONDecoder().raw_decode(text[text.find("{") :])[0]
    is_right = data["reference answer"] in data["student's final answer"]
    return 200, completion("CORRECT" if is_right else "INCORRECT")


def lines_of(path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def written(folder) -> dict[str, bytes]:
    """The files that say what came out, by name."""
    paths = [folder / "pets" / "summary.json", folder / "pets" / "scores.jsonl"]
    paths += [folder / "summary.md", *sorted(folder.rglob("r1v3_pets.tsv"))]
    assert len(paths) == 3 + RUNS
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def known_to(folder) -> set[str]:
    path = folder / "judgements.jsonl"
    return {row["key"] for row in read_jsonl(path)} if path.exists() else set()


def key_of(request: dict) -> str:
    """The name of a judgement: a digest of the request's bytes and of how its reply is read."""
    reader = name_reader(JUDGING.read)
    return hashlib.sha256(json.dumps(request).encode() + reader.encode()).hexdigest()


def test_killed_at_random_moments_it_ends_with_the_same_files(tmp_path, request):
    """--storm=20 kills twenty times; else four times. Moments are drawn over all that is asked."""
    kills = request.config.getoption("storm") or 4
    data = tmp_path / "data"
    data.mkdir()
    image = base64_of(png())
    rows = [
        {"index": i, "question": f"Question {i}?", "answer": animal_of(i), "image": image}
        for i in range(QUESTIONS)
    ]  # fmt: skip
    write_tsv(data / "pets.tsv", rows)

    with model_server(policy) as server, model_server(judge) as judging:

        def command(out):
            return (
                "-m", "r1v3_jax.evaluate", "--benchmark=pets", f"--data={data}", f"--out={out}",
                f"--endpoint={server.url}", f"--judge_url={judging.url}", "--judge_model=j",
                f"--runs={RUNS}", f"--requests={REQUESTS}", "--processes=1",
            )  # fmt: skip

        # 1. Undisturbed.
        whole = tmp_path / "whole"
        done = commands.run(*command(whole))
        assert done.returncode == 0, done.stderr
        asked = len(server.requests)
        judged = len(judging.requests)
        assert asked == QUESTIONS * RUNS
        assert {key_of(r) for r in judging.requests} == known_to(whole)

        # 2. Killed when so many lines of samples and judgements are there, or right behind them.
        out = tmp_path / "out"
        rng = random.Random(kills)
        again = []  # judgements that were known and asked for all the same
        killed = 0
        for moment in sorted(rng.choices(range(asked + judged + 1), k=kills)):
            process = commands.start(*command(out), output=tmp_path / "log")
            known = known_to(out)
            before = len(judging.requests)
            while process.poll() is None and moment > (
                lines_of(out / "pets" / "samples.jsonl")
                + lines_of(out / "judgements.jsonl")
            ):
                time.sleep(0.002)
            time.sleep(0.02 * rng.random())
            killed += process.poll() is None
            commands.kill([process])
            again += [r for r in judging.requests[before:] if key_of(r) in known]

        # 3. To the end, also behind a line that was not written whole.
        with (out / "pets" / "samples.jsonl").open("a") as file:
            file.write('{"run": 0, "ind')
        known = known_to(out)
        before = len(judging.requests)
        done = commands.run(*command(out))
        assert done.returncode == 0, done.stderr
        again += [r for r in judging.requests[before:] if key_of(r) in known]

    assert killed >= 0.75 * kills  # the others had ended
    assert written(out) == written(whole)
    assert again == []
    # Two at a time: at a kill two are under way, two more wait or are not written yet.
    assert len(server.requests) - 2 * asked <= 2 * REQUESTS * kills
    assert len(judging.requests) - 2 * judged <= REQUESTS * kills
