"""Our files of predictions scored by VLMEvalKit 0.2 itself: `bash tests/kits.sh` runs this.

The kit's number is ours: what its rules leave open is wrong there, and the lower end here.
"""

import random
import subprocess
import sys

import pandas
import pytest
from benchmark_files import base64_of, choices, png, write_tsv

from r1v3_jax.evaluate import benchmark_run, benchmark_summary, benchmark_tables
from r1v3_jax.evaluate.benchmark_run import Reader
from r1v3_jax.evaluate.benchmark_summary import Scorer
from r1v3_jax.evaluate.samples import Sample, SampleFile
from r1v3_jax.rewards.settings import Verify

pytest.importorskip("vlmeval", reason="needs VLMEvalKit: bash tests/kits.sh")

THOUGHTS = 'Is it A or B? \t"quoted"\nC? '
KINDS = "Quantitative Spatial Positional Attribute Stylistic".split()
# The kit divides by the number of rows of each.
VISULOGIC = [*(f"{kind} Reasoning" for kind in KINDS), "Other"]


def rows_of(name: str, rng) -> list[dict]:
    if name == "MMBench_DEV_EN_V11":
        rotated = []
        for turn in range(3):
            for i, row in enumerate(choices(20)):
                answer = "ABC"[(i + turn) % 3]
                index = turn * 1_000_000 + row["index"]
                rotated.append({**row, "index": index, "answer": answer})
        return rotated
    if name == "HallusionBench":
        return [
            {
                "index": f"a_b_c_{s}_{f}_{q}",
                "question": f"Is {s}{f}{q}?",
                "answer": rng.choice(["Yes", "No"]),
                "image": base64_of(png(s)),
                "category": "x",
                "l2-category": "y",
            }
            for s in range(8)
            for f in range(3)
            for q in range(3)
        ]
    rows = choices(60)
    if name == "VisuLogic":
        for row in rows:
            row["category"] = rng.choice(VISULOGIC)
    if name == "MMMU_DEV_VAL":
        rows = [
            {**r, "id": f"validation_{r['index']}", "split": "validation"} for r in rows
        ]
        for row in rows[::5]:  # an open question
            row |= {"A": "", "B": "", "C": "", "answer": f"{row['index']} cats"}
    return rows


def evaluated(name: str, rng, folder, data, *, characters: int = 0) -> dict:
    """Samples as a model might write them, scored by rule; returns our summary."""
    part = benchmark_run.prepare(name, Reader(data, "kit", "front", True))
    samples = []
    for question in part.questions:
        gold = question.answer
        others = ["Yes", "No"] if gold in ("Yes", "No") else ["A", "B", "C"]
        said = gold if rng.random() < 0.7 else rng.choice(others)
        forms = [
            rf"so it is \boxed{{{said}}}",
            f"The answer is {said}.",
            said,
            "no idea",
            "Z",
        ]
        thoughts = THOUGHTS * max(3, characters // len(THOUGHTS))
        text = f"{thoughts}</think>\n\n{rng.choice(forms)}"
        samples.append(Sample(0, question.index, text, tokens=5))
    SampleFile(folder / "samples.jsonl").add(samples)
    scorer = Scorer("rule", Verify(processes=1), None, thinking=True)
    summary = benchmark_summary.summarise(part, 1, folder, scorer)
    benchmark_tables.write_predictions(part, 1, folder, "r1v3", True)
    return summary


@pytest.fixture
def kit(monkeypatch, tmp_path):
    """The kit, which does not know the MD5 of the published files: it would fetch them."""
    from vlmeval import dataset

    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.setenv("PRED_FORMAT", "tsv")
    monkeypatch.setenv("EVAL_FORMAT", "json")
    for kind in dataset.DATASET_CLASSES:
        if getattr(kind, "DATASET_MD5", None):
            monkeypatch.setattr(kind, "DATASET_MD5", {})
    return dataset


def overall(result: pandas.DataFrame, name: str) -> float:
    """Returns the kit's number, 0 to 1."""
    first = {column: values.iloc[0] for column, values in result.items()}
    if name == "HallusionBench":
        return (first["aAcc"] + first["fAcc"] + first["qAcc"]) / 300
    if name == "VisuLogic":
        return first["acc"] / 100
    return first["Overall"]


@pytest.mark.parametrize(
    ("name", "characters"),
    [
        ("MMStar", 60_000),
        ("MMMU_DEV_VAL", 0),
        ("MMBench_DEV_EN_V11", 0),
        ("HallusionBench", 0),
        ("VisuLogic", 0),
    ],
)
def test_the_kit_finds_our_number_in_our_file(kit, name, characters, tmp_path):
    rng = random.Random(name)
    write_tsv(tmp_path / f"{name}.tsv", rows_of(name, rng))
    out = tmp_path / "out"
    out.mkdir()
    summary = evaluated(name, rng, out, tmp_path, characters=characters)
    path = out / "run1" / "r1v3" / f"r1v3_{name}.tsv"
    dataset = kit.build_dataset(name)
    result = dataset.evaluate(str(path), model="exact_matching", nproc=1)
    assert 0.05 < summary["lowest"] < 0.9
    found = overall(pandas.DataFrame(result), name)
    assert found == pytest.approx(summary["lowest"], abs=1e-12)
    if characters:
        assert summary["longer_than_an_xlsx_cell"] == 60


def test_the_kits_command_scores_a_set_of_ones_own(tmp_path, monkeypatch):
    """As docs/evaluation.md has it, for a file that the kit does not know."""
    rng = random.Random(0)
    write_tsv(tmp_path / "pets.tsv", choices(40))
    out = tmp_path / "out"
    out.mkdir()
    summary = evaluated("pets", rng, out, tmp_path)
    for name, value in (("LMUData", tmp_path), ("PRED_FORMAT", "tsv")):
        monkeypatch.setenv(name, str(value))
    command = (
        "-m vlmeval --mode eval --reuse --data pets --model r1v3 --judge exact_matching"
    )
    done = subprocess.run(
        [sys.executable, *command.split(), "--work-dir", str(out / "run1")],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = (out / "run1").rglob("r1v3_pets_acc.csv")
    assert pandas.read_csv(found)["Overall"][0] == pytest.approx(
        summary["lowest"], abs=1e-12
    )
