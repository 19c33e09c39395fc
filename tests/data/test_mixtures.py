"""Mixtures, curricula and pass rates: exact shares, own orders, and what is refused."""

import dataclasses
import random

import numpy as np
import pytest

from r1v3_jax.data import ByPassRate, Curriculum, Mixture, Phase
from r1v3_jax.data.mixtures import schedule
from r1v3_jax.files import write_jsonl
from r1v3_jax.types import DroppedRow, Example


@dataclasses.dataclass(frozen=True)
class Named:
    """Examples name/0, name/1, ...; a pass has `rows`. Every fifth is hard, and `bad` are bad."""

    name: str
    rows: int = 10
    bad: tuple[int, ...] = ()

    def __len__(self):
        return self.rows

    def __call__(self, index):
        row = index % self.rows
        if row in self.bad:
            raise DroppedRow(self.name, f"{row}", "fields")
        level = "hard" if row % 5 == 4 else "easy"
        metadata = {"difficulty": row / 10} if row else {}
        return Example(
            f"{self.name}/{index}",
            (),
            "q",
            "a",
            level=level,
            source=self.name,
            metadata=metadata,
        )


A = Named("a")
B = Named("b")
C = Named("c")


def ids(source, count, start=0):
    return [source(index).id for index in range(start, start + count)]


def test_a_mixture_written_out():
    mixture = Mixture(((2, A), (1, B)))
    assert ids(mixture, 7) == ["a/0", "a/1", "b/0", "a/2", "a/3", "b/1", "a/4"]
    assert ids(Mixture(((0.2, A), (0.1, B))), 7) == ids(mixture, 7)
    twice = Mixture(((1, A), (1, B), (1, A)))
    assert ids(twice, 6) == ["a/0", "b/0", "a/0", "a/1", "b/1", "a/1"]
    assert mixture(3_000_002).id == "b/1000000" and mixture(2).source == "b"


def test_shares_are_exact_from_the_first_example_on():
    """Of the first n examples a part has n times its share, rounded up or down, for any weights."""
    dice = random.Random(0)
    for _ in range(300):
        weights = tuple(dice.randint(1, 30) for _ in range(dice.randint(1, 6)))
        turns, counts = schedule(weights)
        whole = np.array(weights)
        n = np.arange(len(counts))[:, None]
        # |count - n * share| < 1, multiplied by the sum of the weights.
        difference = counts * whole.sum() - n * whole
        assert (np.abs(difference) < whole.sum()).all(), weights
        is_turn = turns[:, None] == np.arange(len(weights))
        assert (np.diff(counts, axis=0) == is_turn).all()
        np.testing.assert_array_equal(counts[-1] * whole.sum(), len(turns) * whole)


def test_each_part_keeps_its_own_order():
    mixture = Mixture(((0.55, A), (0.25, B), (0.2, C)))
    ids_of_part = {name: [] for name in "abc"}
    for index in range(500):
        example = mixture(index)
        ids_of_part[example.source].append(example.id)
    for name, part_ids in ids_of_part.items():
        assert part_ids == [f"{name}/{i}" for i in range(len(part_ids))]
    assert [len(part_ids) for part_ids in ids_of_part.values()] == [275, 125, 100]


@pytest.mark.parametrize("weights", [(), (1, 0), (1, -1), (1, float("nan")), (1, "x")])
def test_senseless_weights_are_refused(weights):
    with pytest.raises(ValueError, match="wanted positive numbers"):
        Mixture(tuple((weight, A) for weight in weights))


def test_weights_of_many_digits_are_refused():
    message = "wanted at most 100000; give them fewer digits"
    with pytest.raises(ValueError, match=message):
        Mixture(((0.1234567, A), (1, B)))


def test_a_mixture_checks_its_parts():
    class Missing:
        def check(self):
            raise FileNotFoundError("no such file")

    with pytest.raises(FileNotFoundError):
        Mixture(((1, A), (1, Missing()))).check()
    Mixture(((1, A), (1, B))).check()


def test_a_curriculum_by_level():
    source = Named("a", rows=20)
    phases = (Phase(0, levels=("easy",)), Phase(32, levels=("hard",)))
    lessons = Curriculum(source, phases)
    lessons.check()
    easy = {f"a/{i}" for i in range(20) if i % 5 != 4}
    hard = {f"a/{i}" for i in range(20)} - easy
    # Two passes through the easy rows, in different orders.
    easy_passes = ids(lessons, 16), ids(lessons, 16, start=16)
    assert set(easy_passes[0]) == set(easy_passes[1]) == easy
    assert easy_passes[0] != easy_passes[1]
    hard_passes = ids(lessons, 8, start=32)
    assert sorted(hard_passes[:4]) == sorted(hard_passes[4:]) == sorted(hard)
    assert ids(Curriculum(source, phases), 32) == easy_passes[0] + easy_passes[1]
    assert ids(Curriculum(source, phases, seed=1), 16) != easy_passes[0]
    assert len(lessons) == 20


def test_a_curriculum_wants_an_end():
    lessons = Curriculum(Mixture(((1, A), (1, A))), (Phase(),))
    message = "of Mixture, which has no end: .* its own curriculum"
    with pytest.raises(ValueError, match=message):
        lessons.check()


def test_a_curriculum_by_a_number():
    """Row 0 has no difficulty: no phase that asks for one wants it."""
    easiest = Phase(0, by="difficulty", high=0.3)
    lessons = Curriculum(A, (easiest, Phase(6), Phase(16, ("hard",))))
    assert sorted(ids(lessons, 3)) == ["a/1", "a/2", "a/3"]
    assert sorted(ids(lessons, 3, start=3)) == ["a/1", "a/2", "a/3"]
    assert sorted(ids(lessons, 10, start=6)) == sorted(ids(A, 10))
    assert sorted(ids(lessons, 2, start=16)) == ["a/4", "a/9"]


def test_bad_rows_have_their_share_in_every_phase():
    """Two of ten rows are bad: of the phase of six good rows two in eight, of that of two none."""
    source = Named("a", bad=(0, 7))
    lessons = Curriculum(source, (Phase(0, ("easy",)), Phase(16, ("hard",))))
    good = []
    dropped = 0
    for index in range(16):
        try:
            good.append(lessons(index).id)
        except DroppedRow:
            dropped += 1
    assert len(good) == 12 and dropped == 4 and len(set(good)) == 6
    assert sorted(ids(lessons, 2, start=16)) == ["a/4", "a/9"]


def test_phases_that_make_no_sense_are_refused():
    for starts in ((), (1,), (0, 5, 5), (0, 5, 3)):
        with pytest.raises(ValueError, match="wanted the first at 0 and each later"):
            Curriculum(A, tuple(Phase(start) for start in starts))
    message = r"no row is wanted by Phase\(start=0, levels=\('easi'"
    with pytest.raises(ValueError, match=message):
        Curriculum(A, (Phase(0, levels=("easi",)),)).check()


def rates(path, *values):
    rows = [
        {"index": i, "id": f"a/{i}", "source": "a", "pass_rate": value, "samples": 8}
        for i, value in enumerate(values)
    ]
    write_jsonl(path, rows)
    return str(path)


def test_what_is_always_or_never_solved_is_left_out(tmp_path):
    path = rates(tmp_path / "rates.jsonl", 0.0, 0.125, 1.0, 0.5, None, 0.875)
    source = ByPassRate(A, path)
    source.check()
    assert len(source) == 3
    passes = [ids(source, 3, start=3 * p) for p in range(6)]
    assert {tuple(sorted(row_ids)) for row_ids in passes} == {("a/1", "a/3", "a/5")}
    assert len({tuple(row_ids) for row_ids in passes}) > 1
    examples = [source(i) for i in range(3)]
    measured = {example.id: example.metadata["pass_rate"] for example in examples}
    assert measured == {"a/1": 0.125, "a/3": 0.5, "a/5": 0.875}
    assert source(0).metadata.keys() == {"difficulty", "pass_rate"}
    assert ids(ByPassRate(A, path, low=0.2, high=0.6), 2) == ["a/3", "a/3"]
    # From easy to hard, by what was measured.
    lessons = Curriculum(source, (Phase(0, by="pass_rate", low=0.5), Phase(2)))
    assert sorted(ids(lessons, 2)) == ["a/3", "a/5"]


def test_pass_rates_of_another_source_are_refused(tmp_path):
    path = rates(tmp_path / "rates.jsonl", 0.5)
    with pytest.raises(ValueError, match="example 0 is 'b/0' here and was 'a/0'"):
        ByPassRate(B, path)(0)
    message = "no pass rate between 0.5 and 1.0 among 1 rows"
    with pytest.raises(ValueError, match=message):
        ByPassRate(A, path, low=0.5).check()
    with pytest.raises(FileNotFoundError, match=r"tools/pass_rates.py makes one"):
        ByPassRate(A, str(tmp_path / "none.jsonl")).check()
    for number, text in enumerate(('{"index": 5}', "[1]", "<html>")):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(text + "\n")
        with pytest.raises(ValueError, match="not a file of tools/pass_rates.py"):
            ByPassRate(A, str(path)).check()


def test_every_index_of_every_source_is_a_pure_function(tmp_path):
    """Asked in any order, an index has the same example: what makes a position one integer."""
    path = rates(tmp_path / "rates.jsonl", *[i / 10 for i in range(10)])
    composed = (
        Mixture(((3, A), (2, B))),
        Curriculum(A, (Phase(0, ("easy",)), Phase(30))),
        ByPassRate(A, path),
        Mixture(((1, ByPassRate(A, path)), (1, Curriculum(B, (Phase(),))))),
    )
    for source in composed:
        straight = ids(source, 60)
        order = random.Random(1).sample(range(60), 60)
        shuffled = {index: source(index).id for index in order}
        assert [shuffled[index] for index in range(60)] == straight
