"""Examples into arrays: packing, image places, labels, prompts."""

import contextlib
import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image
from tokenizers_for_tests import write_tiny_tokenizer

from r1v3_jax.config import SFT, TINY, Data
from r1v3_jax.data import packing, placement, prompts
from r1v3_jax.data.reader import TooManyDropped
from r1v3_jax.processing import chat, tiling
from r1v3_jax.processing.processor import Processor, Tiles
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.stages.kinds import open_reader
from r1v3_jax.types import DroppedRow, Example

CHAT = chat.ChatFormat(system=None, opening="<think>\n")


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(directory)
    tokenizer = load(directory, chat=CHAT)
    config = dataclasses.replace(
        TINY,
        image_token_id=tokenizer.image_token_id,
        end_token_id=tokenizer.end_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Processor(config, tokenizer)


def source(index: int) -> Example:
    """Examples of different lengths, every third with two images, every fourth with none."""
    count = 0 if index % 4 == 3 else 2 if index % 3 == 2 else 1
    picture = Image.fromarray(np.full((28, 28, 3), 10 * index % 256, np.uint8))
    chain = "x" * (index % 7) + "</think>" + str(index)
    return Example(
        str(index), (picture,) * count, f"question {index}", str(index), chain=chain
    )


CONFIG = SFT(train=source, rows=4, row_tokens=150, tiles=16)


def batches(processor, config=CONFIG, count=3, start=0, data=None):
    """The first batches from `start` on, each with the index of the first example not in it."""
    reader = open_reader(config, processor, data or Data(), start=start)
    with contextlib.closing(reader):
        packed = packing.packed_batches(reader, processor, config)
        return [
            (batch, consumed.cursor)
            for batch, consumed in itertools.islice(packed, count)
        ]


def segments(batch):
    """(tokens, labels, weights, image_index, micro-batch, positions) of every packed example."""
    for n, b in np.ndindex(batch.tokens.shape[:2]):
        ids = batch.segment_ids[n, b]
        for segment in range(1, ids.max() + 1):
            in_segment = ids == segment
            yield (
                batch.tokens[n, b, in_segment],
                batch.labels[n, b, in_segment],
                batch.loss_weights[n, b, in_segment],
                batch.image_index[n, b, in_segment],
                n,
                batch.positions[n, b, in_segment],
            )


def test_every_example_is_packed_once_and_whole(processor):
    packed = batches(processor)
    indices = []
    for batch, _ in packed:
        for ids, _, _, _, _, positions in segments(batch):
            text = processor.tokenizer.decode(ids, skip_special=True)
            index = int(text.rpartition("</think>")[2])
            expected = processor.supervised(source(index)).tokens
            np.testing.assert_array_equal(ids, expected)
            np.testing.assert_array_equal(positions, np.arange(len(ids)))
            indices.append(index)
    _, cursor = packed[-1]
    assert sorted(indices) == list(range(cursor))


def test_the_stream_goes_on_from_any_cursor(processor):
    packed = batches(processor, count=3)
    resumed = batches(processor, count=2, start=packed[0][1])
    for (a, i), (b, j) in zip(packed[1:], resumed, strict=True):
        assert i == j
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_array_equal(a.tiles, b.tiles)


def test_weights_are_a_mean_over_supervised_tokens(processor):
    batch, _ = batches(processor, count=1)[0]
    np.testing.assert_allclose(batch.loss_weights.sum(), 1, rtol=1e-5)
    assert len(np.unique(batch.loss_weights[batch.loss_weights > 0])) == 1
    for ids, _, weights, *_ in segments(batch):
        answer = processor.tokenizer.decode(ids[weights > 0], skip_special=False)
        assert answer.endswith("<|im_end|>") and "<think>" not in answer


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_image_index_points_at_the_examples_own_tiles(processor, accumulate):
    config = dataclasses.replace(CONFIG, accumulate=accumulate)
    per_tile = processor.config.image_tokens_per_tile
    for batch, _ in batches(processor, config):
        for ids, _, _, index, micro, _ in segments(batch):
            text = processor.tokenizer.decode(ids, skip_special=True)
            number = int(text.rpartition("</think>")[2])
            expected = processor.supervised(source(number)).tiles
            rows = index[index >= 0]
            assert len(rows) == len(expected) * per_tile
            slots = rows[::per_tile] // per_tile
            np.testing.assert_array_equal(
                np.asarray(batch.tiles)[micro, slots], expected
            )


def test_no_micro_batch_has_more_tiles_than_slots(processor):
    # Rows with room for all: by tokens alone the first micro-batch would get every tile.
    config = dataclasses.replace(CONFIG, rows=2, row_tokens=400, tiles=4, accumulate=2)
    per_tile = processor.config.image_tokens_per_tile
    for batch, _ in batches(processor, config):
        used = [(index >= 0).sum() // per_tile for index in batch.image_index]
        assert 1 <= min(used) and max(used) <= 2


def test_only_images_whose_tiles_are_wanted_are_cut():
    cut = []

    def image(name, count):
        pixels = np.full((count, 2, 2, 3), name, np.float32)
        pixels += np.arange(count)[:, None, None, None] / 10  # its tiles differ

        def write(out):
            cut.append(name)
            out[:] = pixels

        return Tiles([count], 2, write)

    # slots  [1 2 2.1  - -]   a process whose device holds the second and third asks for those
    #        [3 3.1 3.2 4 -]
    parts = [[image(1, 1), image(2, 2)], [image(3, 3), image(4, 1)]]
    slots = prompts.TileSlots(parts, 5, 2)
    share = slots[:, 1:3]
    assert share.shape == (2, 2, 2, 2, 3) and cut == [2, 3]
    np.testing.assert_allclose(share[:, :, 0, 0, 0], [[2, 2.1], [3.1, 3.2]])
    whole = np.asarray(slots)
    expected = [[1, 2, 2.1, 0, 0], [3, 3.1, 3.2, 4, 0]]
    np.testing.assert_allclose(whole[:, :, 0, 0, 0], expected)
    assert sorted(cut) == [1, 2, 2, 3, 4]  # what was wanted in part is kept
    with pytest.raises(ValueError, match="4 tiles for 3 slots"):
        prompts.TileSlots([[image(3, 3), image(4, 1)]], 3, 2)


def test_tiles_are_counted_without_pixels():
    for size in ((56, 56), (300, 90), (90, 300), (500, 500)):
        picture = Image.new("RGB", size)
        for several in ([picture], [picture, picture]):
            tiles, counts = tiling.tile_images(several, tile_size=28, max_tiles=6)
            assert tiling.count_tiles(several, tile_size=28, max_tiles=6) == counts
            assert sum(counts) == len(tiles)


def test_labels_behind_image_tokens(processor):
    per_tile = processor.config.image_tokens_per_tile
    labels = ("a", "b", "c", "d")[:per_tile]
    example = dataclasses.replace(source(0), image_labels=labels)
    encoded = processor.supervised(example)
    is_image = encoded.tokens == processor.config.image_token_id
    behind = np.flatnonzero(is_image) + 1
    named = processor.tokenizer.decode(encoded.labels[behind], skip_special=False)
    assert named == "".join(labels)
    assert encoded.loss_mask[behind].all()
    elsewhere = np.setdiff1d(np.arange(len(encoded.tokens)), behind)
    np.testing.assert_array_equal(encoded.labels[elsewhere], encoded.tokens[elsewhere])
    with pytest.raises(ValueError, match="5 tokens of image labels for 4 image tokens"):
        processor.supervised(dataclasses.replace(example, image_labels=tuple("abcde")))


def test_turns_before_the_question_are_read_and_the_assistants_learnt(processor):
    before = (("system", "short"), ("user", "<image> one"), ("assistant", "1</think>1"))
    example = dataclasses.replace(source(0), before=before)
    turns = [{"role": role, "content": content} for role, content in before]
    turns.append({"role": "user", "content": example.question})
    count = [processor.config.image_tokens_per_tile]
    prompt = processor.tokenizer.encode_prompt(turns, count)
    np.testing.assert_array_equal(processor.prompt(example).tokens, prompt)
    encoded = processor.supervised(example)
    np.testing.assert_array_equal(encoded.tokens[: len(prompt)], prompt)
    learnt_ids = encoded.tokens[encoded.loss_mask]
    learnt = processor.tokenizer.decode(learnt_ids, skip_special=False)
    assert learnt == f"1</think>1<|im_end|>{example.chain}<|im_end|>"
    # The cache tells them apart.
    assert processor.prompt(source(0)).tokens.tolist() != prompt


def test_a_row_that_only_teaches_is_no_prompt(processor):
    teaches = dataclasses.replace(source(1), answer="", source="set")
    assert processor.supervised(teaches).loss_mask.any()
    message = r"set, 1: a chain of thought alone \(no_answer\)"
    with pytest.raises(DroppedRow, match=message):
        processor.prompt(teaches)


@pytest.mark.parametrize(
    ("before", "chain"),
    [
        ("1</think>1", "A cat"),
        ("1</think>1", "It is \\boxed{5}."),
        ("1</think>1", "<think>It is \\boxed{5}."),
        ("1</think>1", "<THINK>why</THINK>5"),
        ("1</think>1", "<|begin_of_thought|>why<|end_of_thought|><answer>5</answer>"),
        ("A digit.", "1</think>1"),  # an earlier turn is learnt from as well
    ],
)
def test_a_reply_that_never_ends_its_thought_is_left_out(processor, before, chain):
    """Where the turn begins with <think>; a model that never thinks may learn such replies."""
    turns = (("user", "Which?"), ("assistant", before))
    example = dataclasses.replace(source(1), before=turns, chain=chain, source="set")
    with pytest.raises(DroppedRow, match=r"has no </think> \(open_thought\)"):
        processor.supervised(example)
    chat = dataclasses.replace(processor.tokenizer.chat, opening="")
    tokenizer = dataclasses.replace(processor.tokenizer, chat=chat)
    never_thinks = Processor(processor.config, tokenizer)
    assert never_thinks.supervised(example).loss_mask.any()
    processor.prompt(dataclasses.replace(example, answer="5"))  # a prompt has no reply


def test_prompts_are_padded_on_the_right(processor):
    examples = [source(i) for i in (0, 2, 3)]  # one image, two, none
    encoded = [processor.prompt(example) for example in examples]
    batch = prompts.prompt_batch(encoded, processor, max_prompt_tokens=120, tiles=5)
    assert batch.tiles.shape == (1, 5, 28, 28, 3)
    np.testing.assert_array_equal(batch.tiles[:, 1:3][0], encoded[1].tiles)
    for row, example in enumerate(examples):
        prompt = processor.prompt(example).tokens
        assert batch.lengths[row] == len(prompt)
        np.testing.assert_array_equal(batch.tokens[row, : len(prompt)], prompt)
        padding = batch.tokens[row, len(prompt) :]
        assert (padding == processor.tokenizer.pad_token_id).all()
    index = [sorted(set(row[row >= 0].tolist())) for row in batch.image_index]
    assert index == [list(range(4)), list(range(4, 12)), []]


def test_prompts_are_padded_to_the_first_bucket_they_fit(processor):
    """Lengths 48 and more, one tile; two tiles; none."""
    encoded = [processor.prompt(source(i)) for i in (0, 2, 3)]
    longest = max(len(prompt.tokens) for prompt in encoded)

    def batch_of(*buckets):
        return prompts.prompt_batch(
            encoded, processor, max_prompt_tokens=120, tiles=5, buckets=buckets
        )

    def padded(*buckets):
        batch = batch_of(*buckets)
        return batch.tokens.shape[1], batch.tiles.shape[1]

    assert padded((longest, 3), (110, 4)) == (longest, 3)
    assert padded((longest - 1, 3), (110, 4)) == (110, 4)
    assert padded((longest, 2), (110, 3)) == (110, 3)
    assert padded((longest, 2), (110, 2)) == (120, 5)
    small = batch_of((longest, 3))
    large = batch_of()
    np.testing.assert_array_equal(small.tokens, large.tokens[:, :longest])
    np.testing.assert_array_equal(small.image_index, large.image_index[:, :longest])
    np.testing.assert_array_equal(small.tiles[:, :3][0], large.tiles[:, :3][0])


def test_what_does_not_fit_is_refused(processor):
    none = Data(max_drop_fraction=0.0)
    with pytest.raises(TooManyDropped, match="1 too_long.* tokens, room for 10"):
        batches(processor, dataclasses.replace(CONFIG, row_tokens=10), data=none)
    with pytest.raises(TooManyDropped, match="1 too_many_tiles.*2 tiles, room for 1"):
        batches(processor, dataclasses.replace(CONFIG, tiles=1), data=none)
    one_image = [processor.prompt(source(0))]
    two_images = [processor.prompt(source(2))]
    with pytest.raises(ValueError, match="the limit is 20"):
        prompts.prompt_batch(one_image, processor, max_prompt_tokens=20, tiles=1)
    with pytest.raises(ValueError, match="2 tiles for 1 slots"):
        prompts.prompt_batch(two_images, processor, max_prompt_tokens=120, tiles=1)
    with pytest.raises(DroppedRow, match="no chain of thought"):
        processor.supervised(dataclasses.replace(source(0), chain=None))


def test_prefetch_keeps_order_and_raises():
    def numbers():
        yield from range(5)
        raise ValueError("torn")

    items = []
    with pytest.raises(ValueError, match="torn"):
        for number in placement.prefetch(numbers()):
            items.append(number)
    assert items == list(range(5))
