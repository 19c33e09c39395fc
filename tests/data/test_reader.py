"""Reading rows: order, positions, what is left out and written down, slow and failing sources."""

import contextlib
import dataclasses
import io
import itertools
import json
import random
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from r1v3_jax.config import SFT, Data, load_config
from r1v3_jax.data import packing, placement
from r1v3_jax.data.reader import Reader, TooManyDropped
from r1v3_jax.models import build
from r1v3_jax.pipeline import pipeline
from r1v3_jax.pipeline.start import make_processor
from r1v3_jax.processing import image_files
from r1v3_jax.processing.processor import Encoded, Tiles
from r1v3_jax.run import metrics
from r1v3_jax.stages import sft
from r1v3_jax.stages.kinds import open_reader
from r1v3_jax.stages.ledger import Ledger
from r1v3_jax.tasks import digits
from r1v3_jax.types import DroppedRow, Example


def picture(index: int) -> bytes:
    """A PNG; of every 37th row one that is cut short."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (index % 256, 0, 0)).save(file, "PNG")
    data = file.getvalue()
    return data[:45] if index % 37 == 36 else data


def source(index: int) -> Example:
    """Rows of two data sets, 1 to 7 tokens long; about one of 14 is bad, in one of four ways."""
    name = "ab"[index % 2]
    if index % 41 == 40:
        raise DroppedRow(name, f"{index}", "fields", "no question")
    image = image_files.StoredImage(picture(index))
    count = 20 if index % 53 == 52 else 1 + index % 7
    return Example(f"{index}", (image,), "x" * count, "", source=name)


def encode(example: Example) -> Encoded:
    if example.id.endswith("99"):
        raise ValueError("a control token")
    ids = np.full(len(example.question), int(example.id), np.int32)
    return Encoded(ids, ids, np.ones(len(ids), bool), Tiles([1], 1, lambda out: None))


REASONS = {"fields", "image_damaged", "too_long", "text"}


def reason(index: int) -> str | None:
    """Why a row is bad, by the same arithmetic."""
    if index % 41 == 40:
        return "fields"
    if index % 37 == 36:
        return "image_damaged"
    if index % 100 == 99:
        return "text"
    return "too_long" if index % 53 == 52 else None


LOOSE = Data(max_drop_fraction=0.5)


def reader(start=0, *, data=LOOSE, source=source, counts=None):
    rows = Reader(
        source, encode, tokens=10, tiles=1, data=data, start=start, counts=counts
    )
    return contextlib.closing(rows)


def test_every_good_row_comes_once_in_order_and_every_bad_one_is_named():
    with reader() as rows:
        items, consumed = rows.take(300)
    good = [index for index in range(consumed.cursor) if not reason(index)]
    assert [item.index for item in items] == good
    assert [int(item.encoded.tokens[0]) for item in items] == good
    assert items[0].example.images[0].getpixel((0, 0)) == (0, 0, 0)  # decoded
    assert [(drop["index"], drop["reason"]) for drop in consumed.drops] == [
        (index, reason(index)) for index in range(consumed.cursor) if reason(index)
    ]
    assert {drop["reason"] for drop in consumed.drops} == REASONS
    drop = consumed.drops[0]
    assert (drop["id"], drop["source"]) == ("36", "a")
    assert "intact image" in drop["detail"]
    with reader() as rows:  # the next ones follow
        items_1, consumed_1 = rows.take(150)
        items_2, consumed_2 = rows.take(150)
    assert [item.index for item in items_1 + items_2] == good
    assert consumed_1.followed_by(consumed_2).drops == consumed.drops


def test_images_are_converted_as_the_config_says():
    """By default a black picture that is wholly transparent is white, as it is served."""
    file = io.BytesIO()
    Image.new("RGBA", (8, 8)).save(file, "PNG")
    stored = image_files.StoredImage(file.getvalue())
    colours = []
    for conversion in ("served", "reference"):
        data = Data(image_conversion=conversion)
        transparent = Example("1", (stored,), "x", "")
        with reader(data=data, source=lambda _, example=transparent: example) as rows:
            colours.append(next(rows).example.images[0].getpixel((0, 0)))
    assert colours == [(255, 255, 255), (0, 0, 0)]
    with pytest.raises(ValueError, match="image_conversion"):
        Data(image_conversion="white")


def test_order_does_not_depend_on_threads_nor_on_what_is_made_ahead():
    """So all processes of a run plan the same, whatever their machines are."""
    outcomes = []
    for threads, ahead in ((1, 1), (3, 7), (16, 64)):
        data = dataclasses.replace(LOOSE, threads=threads, ahead=ahead)
        with reader(data=data) as rows:
            items, consumed = rows.take(120)
        indices = [item.index for item in items]
        outcomes.append((indices, consumed.cursor, consumed.drops))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_hosts_that_come_and_go_change_nothing(tmp_path):
    """Batches of one host, then of four, then of two: each plans the same by itself and cuts the
    tiles of its own devices; put together they are those of one host alone.
    """
    digits.write_tokenizer(tmp_path)
    processor = make_processor(load_config("digits_smoke"), tmp_path)
    questions = digits.Digits()

    def rows(index):
        if index % 9 == 4:
            raise DroppedRow("digits", f"{index}", "image_missing")
        return dataclasses.replace(questions.example(index), source="digits")

    config = SFT(train=rows, rows=4, row_tokens=160, tiles=16)

    def host_batches(host, count, start, counts):
        """The batches that one host plans; its threads differ from the other hosts'."""
        data = Data(max_drop_fraction=0.2, threads=1 + host, ahead=1 + 5 * host)
        rows = open_reader(config, processor, data, start=start, counts=counts)
        with contextlib.closing(rows):
            packed = packing.packed_batches(rows, processor, config)
            return list(itertools.islice(packed, count))

    def batches(count, start, counts, hosts):
        """Batches as their hosts make them, each slots k, k + hosts, ..."""
        planned = [host_batches(host, count, start, counts) for host in range(hosts)]
        for same_batch in zip(*planned, strict=True):
            batch_0, consumed_0 = same_batch[0]
            for batch, consumed in same_batch:
                np.testing.assert_array_equal(batch.tokens, batch_0.tokens)
                assert consumed.cursor == consumed_0.cursor
                assert consumed.drops == consumed_0.drops
            share = 16 // hosts
            tiles = [
                batch.tiles[:, host * share : (host + 1) * share]
                for host, (batch, _) in enumerate(same_batch)
            ]
            yield batch_0.tokens, np.concatenate(tiles, axis=1), consumed_0

    straight = list(batches(6, 0, {}, 1))
    changing = []
    start = 0
    counts = {}
    ledger = Ledger(tmp_path, "s")
    for hosts in (1, 4, 2):
        for tokens, tiles, consumed in batches(2, start, counts, hosts):
            changing.append((tokens, tiles, consumed))
            ledger.add(len(changing), consumed.drops)
        start = consumed.cursor
        counts = ledger.counts
    for (a, b, c), (d, e, f) in zip(straight, changing, strict=True):
        np.testing.assert_array_equal(a, d)
        np.testing.assert_array_equal(b, e)
        assert (c.cursor, c.drops) == (f.cursor, f.drops)
    dropped = [drop["index"] for _, _, consumed in straight for drop in consumed.drops]
    assert dropped == [4 + 9 * i for i in range(len(dropped))] and len(dropped) > 4


def test_a_run_cut_short_twenty_times_sees_what_an_uninterrupted_one_sees(tmp_path):
    """Stopped anywhere within a step, after a state of some steps before: rows, positions, counts
    and drops.jsonl as without a stop, byte by byte.
    """
    steps = 60

    def run(workdir, saved, die_at=None):
        return run_steps(workdir, saved, steps, die_at)

    start = {"step": 0, "cursor": 0, "counts": {}, "rows": {}}
    straight, metrics_straight = run(tmp_path / "straight", start)
    dice = random.Random(0)
    state = start
    for _ in range(20):
        die_at = dice.randrange(state["step"], steps)
        state, _ = run(tmp_path / "torn", state, die_at)
        if dice.random() < 0.5:  # killed while it wrote
            with (tmp_path / "torn/drops.jsonl").open("a") as file:
                file.write('{"stage": "s", "st')
    torn, metrics_torn = run(tmp_path / "torn", state)
    assert torn == straight and metrics_torn == metrics_straight
    lines = (tmp_path / "straight/drops.jsonl").read_bytes()
    assert (tmp_path / "torn/drops.jsonl").read_bytes() == lines
    listed = [json.loads(line) for line in lines.splitlines()]
    end = straight["rows"][steps - 1][-1]
    bad = [index for index in range(end) if reason(index)]
    assert [line["index"] for line in listed] == bad
    fields = {"stage", "step", "index", "source", "id", "reason", "detail"}
    assert listed[0].keys() == fields
    by_source = {
        f"dropped/{name}": sum(line["source"] == name for line in listed)
        for name in "ab"
    }
    assert metrics_straight == {"dropped": len(listed), **by_source}


def run_steps(workdir, saved, steps, die_at):
    """Takes 5 rows a step, from a saved state on, and saves a state every 4 steps.

    Returns the last saved state, with the rows of all steps so far, and the metrics.
    """
    rows = {
        step: indices for step, indices in saved["rows"].items() if step < saved["step"]
    }
    state = saved
    ledger = Ledger(workdir, "s", resume_step=state["step"], counts=state["counts"])
    with reader(state["cursor"], counts=state["counts"]) as good:
        for step in range(state["step"], steps):
            items, consumed = good.take(5)
            ledger.add(step, consumed.drops)
            rows[step] = [item.index for item in items]
            if step == die_at:
                break
            if (step + 1) % 4 == 0:
                state = {
                    "step": step + 1,
                    "cursor": consumed.cursor,
                    "counts": json.loads(json.dumps(ledger.counts)),
                }
    return {**state, "rows": rows}, ledger.metrics()


def test_too_many_bad_rows_stop_the_run_and_are_listed(tmp_path):
    ledger = Ledger(tmp_path, "grpo")
    rows = reader(data=Data(max_drop_fraction=0.02))
    with rows as good, pytest.raises(ValueError) as stopped:
        for step in range(100):
            with ledger.reading(step):
                _, consumed = good.take(10)
            ledger.add(step, consumed.drops)
    lines = (tmp_path / "drops.jsonl").read_text().splitlines()
    listed = [json.loads(line)["index"] for line in lines]
    bad = [index for index in range(2000) if reason(index)]
    # Of the rows read and 1,000 more, two in a hundred may be bad.
    counts_over = (
        n for n, index in enumerate(bad, start=1) if n > 0.02 * (index + 1 + 1000)
    )
    count = next(counts_over)
    assert count > 20 and listed == bad[:count]
    message = str(stopped.value)
    assert f"got {count} bad rows among the first {bad[count - 1] + 1} (" in message
    without_fields = sum(reason(index) == "fields" for index in bad[:count])
    assert f"{without_fields} fields" in message
    assert "wanted at most max_drop_fraction = 0.02" in message
    assert message.endswith(
        f"raise data.max_drop_fraction; {tmp_path}/drops.jsonl lists them"
    )


class Rows:
    """`count` rows over and over, those in `bad` bad."""

    def __init__(self, count, bad):
        self.count, self.bad = count, bad

    def __len__(self):
        return self.count

    def __call__(self, index):
        if index % self.count in self.bad:
            raise DroppedRow("rows", str(index % self.count), "json")
        return source(0)


@pytest.mark.parametrize(
    ("count", "bad", "stops"),
    [
        (10**6, {0}, False),  # one bad row of a million, the first
        (10**6, set(range(10)), False),  # of 1,000 rows 10 may be bad
        (10**6, set(range(11)), True),
        (100, {0}, False),  # the fifth pass begins with its fifth bad row
        (99, {0}, True),  # more than one in a hundred
        (10**6, set(range(10**6)), True),  # nothing to train on: it ends
    ],
)
def test_a_bad_row_early_does_not_stop_a_run(count, bad, stops):
    outcome = pytest.raises(TooManyDropped) if stops else contextlib.nullcontext()
    with reader(source=Rows(count, bad), data=Data()) as rows, outcome:
        rows.take(500)


def test_counts_of_before_count():
    """A resumed run stops where an uninterrupted one would have stopped."""
    counts = {"rows": {"json": 17}}
    million = Rows(10**6, {700})
    with reader(600, source=million, data=Data(), counts=counts) as rows:
        with pytest.raises(TooManyDropped, match="got 18 bad rows among the first 701"):
            rows.take(200)


def test_a_slow_source_is_waited_for_and_loses_nothing(shows):
    def slow(index):
        time.sleep(0.02)
        return source(index)

    data = dataclasses.replace(LOOSE, threads=2, ahead=4)
    indices = []
    waits = []
    for rows_of in (source, slow):
        with reader(data=data, source=rows_of) as rows:
            items, consumed = rows.take(60)
        indices.append([item.index for item in items])
        waits.append(consumed.wait_s)
    are_equal = indices[0] == indices[1]
    shows("22 a slow source: the same rows", are_equal, True, are_equal)
    # 60 rows of 20 ms by two threads take 0.6 s.
    passed = waits[1] > 0.4 > 0.2 > waits[0]
    waited = f"{waits[0]:.2f}, {waits[1]:.2f}"
    bar = "under 0.2, over 0.4"
    shows("22 a fast and a slow source: data wait, s", waited, bar, passed)


def test_an_error_in_a_thread_ends_the_run_with_that_error(shows):
    """In packed batches made ahead, as the supervised stages read them; nothing hangs. (Rows are
    made by threads: there is no process of theirs that could be killed alone.)
    """

    def failing(index):
        if index == 30:
            raise OSError("the disk is gone")
        time.sleep(0.001)
        return source(index)

    config = SFT(train=failing, rows=2, row_tokens=10, tiles=4)
    vision = SimpleNamespace(image_size=8)
    model = SimpleNamespace(vision=vision, image_token_id=-1, image_tokens_per_tile=1)
    processor = SimpleNamespace(config=model, tokenizer=SimpleNamespace(pad_token_id=0))
    began = time.perf_counter()
    gone = pytest.raises(OSError, match="the disk is gone")
    with reader(source=failing) as rows, gone:
        batches = packing.packed_batches(rows, processor, config)
        with contextlib.closing(placement.prefetch(batches)) as batches:
            for _ in batches:
                pass
    took = time.perf_counter() - began
    shows("22 a source that fails: seconds to its error", f"{took:.1f}", 5, took < 5)


def test_closing_does_not_wait_for_a_source_that_hangs():
    def hanging(index):
        time.sleep(3 if index else 0)
        return source(index)

    with reader(source=hanging) as rows:
        next(rows)
        began = time.perf_counter()
    assert time.perf_counter() - began < 1


def test_a_stage_lists_what_it_leaves_out_and_goes_on_from_a_stop(tmp_path):
    """The whole stage, of a model in small: stopped between two states and started again; every
    seventh row is bad.
    """
    config = load_config("digits_smoke")
    narrow = {"layers": 1, "embed": 16, "mlp": 16}
    text = dataclasses.replace(config.model.text, **narrow)
    vision = dataclasses.replace(config.model.vision, **narrow)
    model = dataclasses.replace(config.model, text=text, vision=vision)
    good = config.stages["base"].train

    def spoilt(index):
        if index % 7 == 3:
            raise DroppedRow("digits", str(index), "answer", "it is none")
        return dataclasses.replace(good(index), source="digits")

    base = dataclasses.replace(
        config.stages["base"], train=spoilt, checkpoint_every=2, steps=4
    )
    config = dataclasses.replace(
        config.with_stages(base=base),
        model=model,
        stage="base",
        data=dataclasses.replace(LOOSE, ahead=4),
    )

    start = build.init(config.model, config.compute)

    def run(config):
        context = pipeline.prepare(config, tmp_path, True, accept_changes=True)
        sft.run(context, "base", config.stages["base"], jax.tree.map(jnp.copy, start))

    def stopping(index):
        if index > 33:
            raise KeyError("stop")
        return spoilt(index)

    torn = config.with_stages(base=dataclasses.replace(base, train=stopping))
    with pytest.raises(KeyError, match="stop"):
        run(torn)
    assert len(metrics.read(tmp_path)) == 3  # the state of step 2 is the last
    before = (tmp_path / "drops.jsonl").read_text().splitlines()
    run(config)
    after = (tmp_path / "drops.jsonl").read_text().splitlines()
    assert after[: len(before)] == before and 3 < len(before) < len(after)
    lines = [json.loads(line) for line in after]
    assert [line["index"] for line in lines] == [3 + 7 * i for i in range(len(lines))]
    for step, line in enumerate(metrics.read(tmp_path)):
        assert line["step"] == step
        dropped = sum(drop["step"] <= step for drop in lines)
        assert line["dropped"] == line["dropped/digits"] == dropped
        assert 0 <= line["time/data_wait_s"] <= line["time/step_s"]
