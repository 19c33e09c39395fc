"""A judge that fails in every way: each question is judged once, and nothing is guessed."""

import json
import random
import threading
import time

import pytest
from benchmark_files import write_tsv
from model_server_for_tests import completion, model_server, text_of

from r1v3_jax.benchmarks import scoring
from r1v3_jax.evaluate import benchmark_run, benchmark_summary
from r1v3_jax.evaluate.benchmark_run import Reader
from r1v3_jax.evaluate.benchmark_summary import Scorer
from r1v3_jax.evaluate.samples import Sample, SampleFile
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.verifiers import model as judge_model
from r1v3_jax.rewards.verifiers.model import Judge

QUESTIONS = 200
NEVER = {7, 70, 170}  # questions to which the judge never gives a clear reply
TIMEOUT_S = 5.0


class FaultyJudge:
    """Fails three times in ten: 500, 429, no reply in time, no JSON, no verdict, byte by byte."""

    def __init__(self):
        self.is_mended = False
        self.lock = threading.Lock()
        self.clear: list[int] = []  # numbers of the questions that it has answered

    def __call__(self, request: dict, times: int):
        text = text_of(request)
        data = json.JSONDecoder().raw_decode(text[text.find("{") :])[0]
        number = int(data["question"].split()[1])
        if number in NEVER and not self.is_mended:
            return 200, completion("I would rather not say")
        rng = random.Random(f"{number}/{times}")
        if rng.random() < 0.3:
            return self.fault(rng)
        with self.lock:
            self.clear.append(number)
        is_right = data["reference answer"] in data["student's final answer"]
        return 200, completion("CORRECT" if is_right else "INCORRECT")

    def fault(self, rng: random.Random):
        quick = [(500, "no"), (429, "busy"), (200, "{]"), (200, {"choices": []})]
        kind = rng.randrange(10)
        if kind == 0:
            time.sleep(TIMEOUT_S + 1)
            return 200, completion("CORRECT")
        if kind == 1:
            return 200, ["{"] + [" "] * 200  # for ten seconds
        return rng.choice(quick)


@pytest.fixture
def prepared(tmp_path):
    """Questions of which every second one is answered rightly, in words."""
    rows = [
        {"index": i, "question": f"Question {i} ?", "answer": f"animal {i}."}
        for i in range(QUESTIONS)
    ]
    write_tsv(tmp_path / "words.tsv", rows)
    part = benchmark_run.prepare("words", Reader(tmp_path, "exact", "front"))
    samples = [
        Sample(0, str(i), f"</think>I say animal {i if i % 2 else -1}.", tokens=9)
        for i in range(QUESTIONS)
    ]
    SampleFile(tmp_path / "samples.jsonl").add(samples)
    return part


def test_each_question_is_judged_once_and_the_rest_widens_the_result(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(judge_model, "BACKOFF_S", 0.001)
    faulty = FaultyJudge()

    def score() -> dict:
        judge = Judge(
            server.url,
            "j",
            timeout_s=TIMEOUT_S,
            retries=8,
            requests=16,
            cache=str(tmp_path / "judgements.jsonl"),
            judging=scoring.JUDGING,
        )
        scorer = Scorer("box", Verify(processes=1), judge, thinking=True)
        return benchmark_summary.summarise(prepared, 1, tmp_path, scorer)

    with model_server(faulty) as server:
        first = score()
        asked = len(server.requests)
        scorings = [first, score(), score()]
        later = server.requests[asked:]
        # 1. Three scorings: every question has been answered once, and only those that have no
        # clear reply are asked again.
        assert sorted(faulty.clear) == sorted(set(range(QUESTIONS)) - NEVER)
        assert {json.dumps(r) for r in later} == {
            json.dumps(r) for r in server.requests if server.requests.count(r) >= 9
        }
        assert len({json.dumps(r) for r in later}) == len(NEVER)

        # 2. What has no verdict is neither right nor wrong: 7 would be right, 70 and 170 wrong.
        for summary in scorings:
            assert summary["accuracy"] is None
            assert summary["decided_by"]["nobody"] == len(NEVER) / QUESTIONS
            assert summary["lowest"] == pytest.approx(99 / QUESTIONS)
            assert summary["highest"] == pytest.approx(102 / QUESTIONS)

        # 3. Another day the judge is well: the three are asked, and the result is narrower.
        faulty.is_mended = True
        whole = score()
    assert whole["accuracy"] == pytest.approx(100 / QUESTIONS)
    assert whole["decided_by"] == {"judge": 1.0}
    assert first["low"] < whole["low"] < whole["high"] < first["high"]
