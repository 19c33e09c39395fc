"""Asks for 100 capitals, to see what training does to what a language model knew before.

    pip install countryinfo==1.0.1
    python tools/capitals.py --write=data/capitals.tsv

    python -m r1v3_jax.evaluate --checkpoint=RUN/STAGE/done --benchmark=capitals --data=data \
        --out=BEFORE --runs=1 --temperature=0 --thinking=no_think --prompts=plain --unjudged \
        --max_tokens=16 --max_prompt_tokens=128 --batch=100

    python tools/capitals.py --compare=BEFORE,AFTER,...

The questions are text alone, of the most populous countries in countryinfo (MIT), which has exact
answers. A free answer has no box for the evaluation's own rules to read: it is right here if it
names the capital, in any case and with or without accents. Printed is how often each folder's
answers are right, how many are the same strings as the first folder's, and the paired difference
to that in points, with its 95% interval by the bootstrap over questions.
"""

import importlib.util
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
from absl import flags

from r1v3_jax import cli
from r1v3_jax.benchmarks import own_file
from r1v3_jax.evaluate.statistics import clustered_interval, wilson
from r1v3_jax.files import read_jsonl
from r1v3_jax.types import Example

WRITE = flags.DEFINE_string("write", None, "A file NAME.tsv to write.")
COMPARE = flags.DEFINE_list(
    "compare", [], "Folders --out of the evaluation; the first is compared to."
)
BENCHMARK = flags.DEFINE_string("benchmark", "capitals", "Its name in the folders.")

COUNTRIES = 100
# No longer there, no country of its own, or its capital has another name or place by now.
LEFT_OUT = ("Serbia and Montenegro", "Hong Kong", "Kazakhstan", "Burundi", "Ukraine")


def questions(records: list[dict]) -> list[Example]:
    """Returns a question for each of the most populous countries, in the order of their names.

    records: of countryinfo, {"name", "capital", "population", ...}; those without are left out.
    """
    known = [
        record
        for record in records
        if record.get("capital")
        and record.get("population")
        and record["name"] not in LEFT_OUT
    ]
    known.sort(key=lambda record: (-record["population"], record["name"]))
    chosen = sorted(known[:COUNTRIES], key=lambda record: record["name"])
    return [
        Example(
            id=record["name"],
            images=(),
            question=f"What is the capital of {record['name']}?",
            answer=record["capital"],
            verifier="string",
        )
        for record in chosen
    ]


def names(text: str, capital: str) -> bool:
    """Whether a text names a capital, as whole words.

    ("It is Bogota.", "Bogotá") -> True; ("Limassol", "Lima") -> False.
    """
    pattern = rf"(?<!\w){re.escape(_plain(capital))}(?!\w)"
    return re.search(pattern, _plain(text)) is not None


def _plain(text: str) -> str:
    """Returns a text in small letters without accents, full stops and commas: D.C. is dc."""
    letters = unicodedata.normalize("NFD", text.casefold())
    return "".join(c for c in letters if not unicodedata.combining(c) and c not in ".,")


def compare(folders: list[str], benchmark: str) -> list[str]:
    """Returns a line for each folder; ValueError for folders that asked other questions."""
    answers = [read_answers(Path(folder) / benchmark) for folder in folders]
    first = answers[0]
    lines = []
    for folder, texts in zip(folders, answers, strict=True):
        if texts.keys() != first.keys():
            raise ValueError(
                f"{folder} has other questions than {folders[0]}; ask both the same file"
            )
        right = np.array([names(text, capital) for text, capital in texts.values()])
        before = np.array([names(*first[index]) for index in texts])
        same = sum(texts[index][0] == first[index][0] for index in texts)
        mean, low, high = wilson(int(right.sum()), len(right))
        line = f"{folder}: {percent(mean)}% ({percent(low)} to {percent(high)}) right, "
        line += f"{same} of {len(texts)} the same string"
        if texts is not first:
            gap, low, high = clustered_interval([right.astype(float) - before])
            line += f", {percent(gap, '+')} points ({percent(low, '+')} to {percent(high, '+')})"
        lines.append(line)
    return lines


def percent(share: float, sign: str = "") -> str:
    """Writes a share of 1 in per cent."""
    return f"{100 * share:{sign}.1f}"


def read_answers(folder: Path) -> dict[str, tuple[str, str]]:
    """Returns {index: (text, capital)} of the samples and scores of one benchmark."""
    texts = {row["index"]: row["text"] for row in read_jsonl(folder / "samples.jsonl")}
    capitals = {question.id: question.answer for question in questions(countries())}
    unknown = sorted(texts.keys() - capitals.keys())
    if unknown:
        raise ValueError(
            f"{folder}: {unknown[0]!r} is no country that --write asks for; write the file anew, "
            "and ask it"
        )
    return {index: (texts[index], capitals[index]) for index in sorted(texts)}


def countries() -> list[dict]:
    """Reads the records of countryinfo from its files."""
    folder = records_folder()
    return [
        json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))
    ]


def records_folder() -> Path:
    """Returns the folder of countryinfo's records."""
    found = importlib.util.find_spec("countryinfo")
    if found is None:
        raise ModuleNotFoundError(
            "the package countryinfo, which holds the capitals, is not installed: pip install "
            "countryinfo==1.0.1"
        )
    return Path(found.origin).parent / "data"


def main():
    """Writes the questions, or compares answers."""
    if bool(WRITE.value) == bool(COMPARE.value):
        raise ValueError("give either --write=NAME.tsv or --compare=OUT,OUT")
    if WRITE.value:
        asked = questions(countries())
        sets = [("capitals", asked.__getitem__)]
        count = own_file.write(Path(WRITE.value), sets, len(asked))
        print(f"{WRITE.value}: {count} questions")
    else:
        print("\n".join(compare(COMPARE.value, BENCHMARK.value)))


if __name__ == "__main__":
    cli.run(main)
