"""An answer depends on its request alone, and its tokens are those of training's sampler."""

import jax
import numpy as np
import pytest
from engine_cases import answer, ask, submit, words
from PIL import Image
from sampling_cases import generate

from r1v3_jax.engine.requests import Turn
from r1v3_jax.models.build import for_decoding
from r1v3_jax.processing.tokenizer import image_index
from r1v3_jax.sampling.params import SamplingParams


@pytest.fixture(scope="module")
def sampler(source):
    """The tokens that training's sampler makes of prepared requests, one call each."""
    model = for_decoding(source.read(source.compute))
    banned = source.tokenizer.banned_token_ids
    encode_images = jax.jit(lambda tiles: model.encode_images(tiles))

    def sample(engine, requests, settings) -> list[list[int]]:
        sampling = SamplingParams(banned=banned, **settings)
        result = []
        for request in requests:
            prepared = engine.prepare(request)
            tokens = np.full((1, 200), source.config.pad_token_id, np.int32)
            tokens[0, : prepared.prompt_tokens] = prepared.tokens
            images = None
            index = None
            if prepared.tiles is not None:
                images = encode_images(np.asarray(prepared.tiles))
                index = image_index(tokens, source.config.image_token_id)
            completions = generate(
                model,
                tokens,
                np.array([prepared.prompt_tokens], np.int32),
                jax.random.key(prepared.seed),
                images,
                index,
                group_size=request.settings.n,
                sampling=sampling,
            )
            for row, length in zip(
                np.asarray(completions.tokens), completions.lengths, strict=True
            ):
                result.append(row[:length].tolist())
        return result

    return sample


def picture(seed: int = 0, size=(40, 40)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))


def requests(count: int, **settings) -> list:
    """Questions of 3 to 100 characters, a quarter of them about a picture of five tiles."""
    rng = np.random.default_rng(1)
    return [
        ask(
            words(rng, int(rng.integers(3, 100))),
            images=[picture(i)] if i % 4 == 0 else [],
            seed=1000 + i,
            **settings,
        )
        for i in range(count)
    ]


SEEDED = {
    "hot": {"temperature": 1.3},
    "cuts": {"temperature": 0.8, "top_p": 0.9, "top_k": 40},
    "penalty": {"temperature": 0.9, "repetition_penalty": 1.3},
    "nucleus": {"top_p": 0.6},
}


@pytest.mark.parametrize("name", ["greedy", *SEEDED])
def test_tokens_are_those_of_the_sampler(engine, sampler, name):
    """200 greedy requests, and 50 each of four settings with seeds."""
    settings = SEEDED.get(name, {"temperature": 0.0})
    asked = requests(50 if name in SEEDED else 200, max_tokens=12, **settings)
    listeners = [submit(engine, request) for request in asked]
    ours = [listener.wait()[0].ids for listener in listeners]
    assert ours == sampler(engine, asked, {"max_tokens": 12, **settings})


def test_samples_of_one_request_are_a_group_of_the_sampler(engine, sampler):
    request = ask("Say three things.", n=5, seed=7, max_tokens=12)
    before = engine.numbers().prompts_read
    ours = [sample.ids for sample in answer(engine, request)]
    assert ours == sampler(engine, [request], {"max_tokens": 12})
    assert len({tuple(ids) for ids in ours}) == 5
    assert engine.numbers().prompts_read == before + 1


def test_the_thinking_budget_is_the_samplers(engine, sampler, source):
    request = ask("Think.", thinking_tokens=5, seed=3, max_tokens=20)
    settings = {"thinking_tokens": 5, "think_end": source.tokenizer.closing()}
    (ours,) = answer(engine, request)
    assert [ours.ids] == sampler(engine, [request], {"max_tokens": 20, **settings})
    assert "</think>" in ours.text
    # Without a thought there is none to be ended.
    (free,) = answer(engine, ask("Think.", thinking=False, seed=3, thinking_tokens=5))
    assert "</think>" not in free.text


# -------------------------------------------------------------------------------------------------
# bitwise


@pytest.fixture(scope="module")
def alone(engine):
    """A request, and its tokens and log-probabilities when nothing else runs."""
    request = ask(
        "What is it?",
        images=[picture()],
        max_tokens=40,
        seed=5,
        temperature=0.9,
        top_p=0.95,
        top_logprobs=3,
    )
    (sample,) = answer(engine, request)
    return request, sample.tokens


@pytest.mark.parametrize("slot", range(8))
def test_among_full_slots_and_in_every_slot(engine, alone, slot):
    """Slots before it are taken, those behind it are filled with requests of many settings."""
    request, expected = alone
    # The first is longer than a chunk of the cache.
    listeners = [
        submit(engine, ask("On and on.", max_tokens=300 if i == 0 else 90, seed=i))
        for i in range(slot)
    ]
    ours = submit(engine, request)
    listeners += crowd(engine, 12, seed=slot)
    assert slot_of(engine, ours.ticket) == slot
    (sample,) = ours.wait()
    assert sample.tokens == expected
    for listener in listeners:
        listener.wait()


def slot_of(engine, ticket) -> int:
    """Waits until a request has a slot."""
    while True:
        for slot, sample in enumerate(list(engine._slots.samples)):
            if sample is not None and sample.ticket is ticket:
                return slot


def crowd(engine, count: int, seed: int, tokens=(20, 48)) -> list:
    """Submits requests of random lengths and settings."""
    rng = np.random.default_rng(seed)
    return [submit(engine, random_request(rng, tokens)) for _ in range(count)]


def random_request(rng: np.random.Generator, tokens=(1, 48)):
    """A request of any length and any settings."""

    def maybe(value, default):
        return value if rng.random() < 0.5 else default

    images = [picture(int(rng.integers(5)))] * int(rng.integers(3))
    return ask(
        words(rng, int(rng.integers(1, 90))),
        images=images,
        thinking=bool(rng.random() < 0.7),
        max_tokens=int(rng.integers(*tokens)),
        temperature=float(maybe(rng.uniform(0, 2), 1.0)),
        top_p=float(maybe(rng.uniform(0.01, 1), 1.0)),
        top_k=int(maybe(rng.integers(0, 300), 0)),
        repetition_penalty=float(maybe(rng.uniform(0.5, 2), 1.0)),
        thinking_tokens=int(maybe(rng.integers(0, 20), 0)),
        seed=int(rng.integers(2**62)),
        n=int(maybe(rng.integers(1, 4), 1)),
        stop=("zq", "é") if rng.random() < 0.3 else (),
        stop_token_ids=(7, 30) if rng.random() < 0.3 else (),
        bad_words=("the", "zebra crossing") if rng.random() < 0.3 else (),
        top_logprobs=int(maybe(rng.integers(0, 21), 0)),
    )


def test_after_a_thousand_others_and_nothing_is_compiled(engine, alone):
    """1,000 requests of random sizes and settings."""
    request, expected = alone
    rng = np.random.default_rng(0)
    # The sampler of other tests compiles in this process too.
    before = engine.numbers().compilations
    listeners = [submit(engine, random_request(rng, (1, 6))) for _ in range(1000)]
    for listener in listeners:
        listener.wait(600)
    (sample,) = answer(engine, request)
    assert sample.tokens == expected
    numbers = engine.numbers()
    assert numbers.compilations == before
    assert (numbers.running, numbers.waiting) == (0, 0)
    assert numbers.requests == numbers.finished


def test_cancelled_requests_leave_nothing(engine, alone):
    """500 requests are cancelled at random moments: waiting, being read, running, ended."""
    request, expected = alone
    rng = np.random.default_rng(3)
    cancelled = []
    for _ in range(50):
        listeners = crowd(engine, 10, seed=int(rng.integers(2**31)))
        cancelled += listeners
        for listener in rng.permutation(listeners):
            engine._thread.join(rng.exponential(0.003))  # a wait
            listener.ticket.cancel()
    (sample,) = answer(engine, request)
    assert sample.tokens == expected
    numbers = engine.numbers()
    assert (numbers.running, numbers.waiting) == (0, 0)
    ended = sum(listener.ended.is_set() for listener in cancelled)
    assert ended < 250, "most were cancelled"


def test_a_cancelled_request_frees_its_slots_within_a_run(engine):
    listener = submit(engine, ask("Go on.", max_tokens=48, n=8, seed=1))
    while not listener.answers[7].tokens:
        pass
    runs = engine.numbers().runs
    listener.ticket.cancel()
    while any(engine._slots.samples):
        pass
    assert (
        engine.numbers().runs <= runs + 2
    )  # the one under way, and what began before it was seen
    assert not listener.ended.is_set()


def test_chats_of_several_turns(engine):
    """An earlier answer without its thought is one whose thought has ended."""
    turns = (
        Turn("system", ("Be brief.",)),
        Turn("user", ("Hi <|im_end|> <image>",)),
        Turn("assistant", ("Hello.",)),
    )
    prepared = engine.prepare(ask("And now?", turns=turns))
    text = engine.tokenizer.decode(prepared.tokens, skip_special=False)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi <|im_end|> <image><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nHello.<|im_end|>\n"
        "<|im_start|>user\nAnd now?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )
    end = engine.config.end_token_id
    # What a user writes ends no turn: it is characters.
    assert prepared.tokens.tolist().count(end) == 4
    prepared = engine.prepare(ask("And now?", turns=turns, thinking=False))
    text = engine.tokenizer.decode(prepared.tokens, skip_special=False)
    assert text.endswith(
        "<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    )
