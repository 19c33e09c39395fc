"""The rows of a collecting stage as a source: bound to a run, sealed, never at another question."""

import dataclasses
import shutil

import pytest

from r1v3_jax import checksums
from r1v3_jax.config import SFT, TINY, Run
from r1v3_jax.data import Made, Mixture, Reworded
from r1v3_jax.data.made import ROWS, bind, made_in, not_made
from r1v3_jax.data.mixtures import Curriculum, Phase
from r1v3_jax.data.reworded import told
from r1v3_jax.files import write_jsonl
from r1v3_jax.types import Example


def source(index: int) -> Example:
    return Example(f"q{index}", (), f"question {index}", str(index), chain="its own")


def write(workdir, stage: str, rows: list[dict]) -> None:
    path = workdir / stage / ROWS
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    write_jsonl(path, rows)
    checksums.write_sums(path.parent)


CHAINS = [{"index": i, "id": f"q{i}", "chain": f"chain {i}"} for i in (2, 5, 7)]


@pytest.fixture
def made(tmp_path):
    write(tmp_path, "chains", CHAINS)
    return bind(Made("chains", source), tmp_path)


def test_the_rows_of_a_stage(made):
    """Each pass has all of them once, in an order of its own."""
    assert len(made) == 3
    passes = [[made(i).chain for i in range(k, k + 3)] for k in (0, 3, 6, 9)]
    for one in passes:
        assert sorted(one) == ["chain 2", "chain 5", "chain 7"]
    assert len({tuple(one) for one in passes}) > 1
    assert {made(i).id for i in range(3)} == {"q2", "q5", "q7"}
    assert made(0).question == f"question {made(0).answer}"
    made.check()


def test_what_a_row_brings(tmp_path):
    """Answers to learn from stand in their fields, facts in the metadata."""
    pair = {"index": 1, "id": "q1", "chosen": "a", "rejected": "b"}
    said = {"index": 1, "id": "q1", "said": "a", "right": False}
    rate = {"index": 1, "id": "q1", "pass_rate": 0.25, "reward_std": 0.1, "samples": 4}
    for stage, row in {"pair": pair, "said": said, "rate": rate}.items():
        write(tmp_path, stage, [row])
    one = bind(Made("pair", source), tmp_path)(0)
    assert (one.chosen, one.rejected, one.chain) == ("a", "b", "its own")
    one = bind(Made("said", source), tmp_path)(0)
    assert one.metadata == {"said": "a", "right": False} and one.chain == "its own"
    rates = bind(Made("rate", source), tmp_path)
    assert rates(0).metadata == {"pass_rate": 0.25, "reward_std": 0.1, "samples": 4}
    # The selective sample buffer: the questions that still teach something.
    phase = Phase(by="pass_rate", low=0.01, high=0.99)
    assert Curriculum(rates, (phase,))(0).id == "q1"


def test_before_the_rows_are_there(tmp_path):
    """It has no length and no fingerprint yet, and says who makes them."""
    unbound = Made("chains", source)
    bound = bind(unbound, tmp_path)
    for made in (unbound, bound):
        assert not hasattr(made, "__len__")
        assert made.fingerprint() == ""
        assert not_made(made) == ["chains"]
        made.check()
    with pytest.raises(
        ValueError, match="is bound to no run; the sources around it must"
    ):
        unbound(0)
    with pytest.raises(
        ValueError, match="not there; stage 'chains' makes it, run that"
    ):
        bound(0)


def test_another_question_is_refused(tmp_path, made):
    def renamed(index):
        return dataclasses.replace(source(index), id=f"other{index}")

    other = bind(Made("chains", renamed), tmp_path)
    with pytest.raises(
        ValueError, match=r"question \d is 'other\d' here and was 'q\d'"
    ):
        other.check()


def test_changed_rows_are_found(tmp_path, made):
    """By the seal before they are read, and by whoever goes on with them."""
    before = made.fingerprint()
    assert before.startswith("3 rows, ")
    path = tmp_path / "chains" / ROWS
    path.write_text(path.read_text().replace("chain 5", "chain 6"))
    with pytest.raises(ValueError, match="rows.jsonl has changed since it was sealed"):
        made.check()
    assert made.fingerprint() != before


def test_it_is_bound_wherever_it_stands(tmp_path, made):
    """In mixtures, rewordings, stages and sets; what holds none stays the same object."""
    inner = Made("chains", source)
    outer = Mixture(((1, source), (2, Reworded(inner, told("Be brief.")))))
    run = Run("x", TINY, {"sft": SFT(outer)}, init_from="x")
    bound = bind(run, tmp_path)
    (found,) = made_in(bound)
    assert found.is_there and found == inner  # where it is is no part of what it is
    turns = {bound.stages["sft"].train(i).before for i in range(3)}
    assert turns == {(), (("system", "Be brief."),)}
    assert bound.identity("sft") != run.identity("sft")  # its rows are known now
    plain = Run("x", TINY, {"sft": SFT(source)}, init_from="x")
    assert bind(plain, tmp_path) is plain
    assert not [name for name in run.identity("sft") if "workdir" in name]
