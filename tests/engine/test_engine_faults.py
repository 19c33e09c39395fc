"""What goes wrong with a request, with a listener, or with the engine: nobody waits for ever."""

import dataclasses
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_cases import Listener, answer, ask, submit
from PIL import Image

from r1v3_jax.engine.engine import Engine
from r1v3_jax.engine.requests import (
    BadRequest,
    EngineStopped,
    QueueFull,
    Request,
    Turn,
)
from r1v3_jax.engine.sizes import EngineSettings
from r1v3_jax.processing.image_files import StoredImage

PICTURE = Image.new("RGB", (28, 28))
NAN = float("nan")


@pytest.fixture
def own_engine(source):
    """Makes engines of a test alone, and ends them."""
    made = []

    def make(**settings) -> Engine:
        settings = {"slots": 2, "max_prompt_tokens": 128, "max_tokens": 300, **settings}
        engine = Engine(source, EngineSettings(**settings))
        made.append(engine)
        engine.start()
        engine.wait_until_ready()
        return engine

    yield make
    for engine in made:
        engine.stop()


# -------------------------------------------------------------------------------------------------
# requests

BAD_SETTINGS = {
    "max_tokens": 0,
    "temperature": -0.1,
    "top_p": 0.0,
    "top_k": -1,
    "repetition_penalty": 0.0,
    "thinking_tokens": -1,
    "n": 9,
    "top_logprobs": 21,
    "stop": ("",),
    "stop_token_ids": (277,),
    "bad_words": ("",),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_bad_setting_is_named(engine, name):
    with pytest.raises(BadRequest, match=name) as raised:
        engine.prepare(ask("Hi", **{name: BAD_SETTINGS[name]}))
    assert raised.value.param == name


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(engine, name, value):
    with pytest.raises(BadRequest, match=name):
        engine.prepare(ask("Hi", **{name: value}))


USER = Turn("user", ("Hi",))
BAD_CHATS = {
    "no messages": ((), "no messages"),
    "the assistant's last": ((USER, Turn("assistant", ("a",))), "last message"),
    "system in the middle": ((USER, Turn("system", ("a",)), USER), "message 1"),
    "another role": ((Turn("tool", ("a",)),), "role 'tool'"),
    "an image that is not there": ((Turn("user", (0, "a")),), "images"),
    "half a character": ((Turn("user", ("\ud83d",)),), "surrogate"),
    "too long": ((Turn("user", ("word " * 200,)),), "tokens"),
    "much too long": ((Turn("user", ("x" * 1_000_000,)),), "characters"),
}


@pytest.mark.parametrize("name", BAD_CHATS)
def test_a_bad_chat_is_one_sentence(engine, name):
    turns, words = BAD_CHATS[name]
    with pytest.raises(BadRequest, match=words) as raised:
        engine.prepare(Request(turns, ask("").settings))
    assert raised.value.param == "messages"
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "images, words",
    [
        ([StoredImage(b"no image at all")], "image"),
        ([PICTURE] * 61, "61 images"),
        ([Image.new("RGB", (500, 300))] * 5, "tiles"),
    ],
)
def test_bad_images(engine, images, words):
    with pytest.raises(BadRequest, match=words) as raised:
        engine.prepare(ask("Look", images=images))
    assert raised.value.param == "messages"


def test_more_tokens_than_there_is_room_for_is_the_room(engine):
    assert engine.prepare(ask("Hi", max_tokens=10**9)).max_tokens == 300


def test_extreme_settings_sample(engine):
    """The coldest is greedy, the smallest nucleus has one token, and no logit overflows."""
    greedy = answer(engine, ask("Hi", temperature=0.0))[0].ids
    for settings in (
        {"temperature": 1e-300},
        {"temperature": 1.0, "top_p": 1e-300},
        {"temperature": 1e300, "top_k": 1},
        {"top_k": 1},
    ):
        assert answer(engine, ask("Hi", **settings))[0].ids == greedy
    for settings in (
        {"repetition_penalty": 1e300},
        {"repetition_penalty": 1e-300},
        {"seed": -1},
        {"seed": 2**70},
    ):
        (sample,) = answer(engine, ask("Hi", **{"seed": 1, **settings}))
        is_whole = len(sample.ids) == 16 and sample.finish_reason == "length"
        assert is_whole or sample.finish_reason == "stop"


# -------------------------------------------------------------------------------------------------
# how answers end


def test_a_stop_token_ends_an_answer_without_its_text(engine):
    (whole,) = answer(engine, ask("Hi", seed=4))
    stop = whole.ids[5]
    (cut,) = answer(engine, ask("Hi", seed=4, stop_token_ids=(stop,)))
    end = whole.ids.index(stop) + 1
    assert cut.numbers == whole.numbers[:end]
    assert cut.finish_reason == "stop"
    assert cut.text == engine.tokenizer.decode(whole.ids[: end - 1], skip_special=True)


def test_a_stop_string_ends_an_answer_wherever_runs_end(engine):
    """Of 20 answers each ends before a text of its own, and has the tokens up to its end."""
    for seed in range(20):
        (whole,) = answer(engine, ask("Hi", seed=seed, max_tokens=30))
        stop = whole.text[7:10]
        (cut,) = answer(engine, ask("Hi", seed=seed, max_tokens=30, stop=(stop,)))
        assert cut.text == whole.text[: whole.text.find(stop)]
        assert cut.finish_reason == "stop"
        assert cut.numbers == whole.numbers[: len(cut.tokens)]


def test_an_answer_that_is_cut_has_the_text_of_its_tokens(engine):
    (whole,) = answer(engine, ask("Hi", seed=2))
    assert whole.finish_reason == "length"
    assert whole.text == engine.tokenizer.decode(whole.ids, skip_special=True)


def test_a_banned_word_never_comes(engine):
    """What was sampled is banned, until little is left: one token, or two that go together."""
    (whole,) = answer(engine, ask("Hi", seed=2, max_tokens=8))
    letters = {text for t in whole.tokens if (text := t.text).isascii()}
    (other,) = answer(engine, ask("Hi", seed=2, max_tokens=8, bad_words=tuple(letters)))
    assert letters
    assert not letters & {token.text for token in other.tokens}


def test_log_probabilities_are_those_of_the_model(engine):
    """The top ones are sorted, at temperature 1 whatever was asked, and hold the greedy token."""
    (sample,) = answer(engine, ask("Hi", temperature=0.0, top_logprobs=20))
    for token in sample.tokens:
        ids, logprobs = zip(*token.top, strict=True)
        assert len(ids) == 20
        assert list(logprobs) == sorted(logprobs, reverse=True)
        assert np.exp(logprobs).sum() < 1
        at = ids.index(token.id)
        assert abs(logprobs[at] - token.logprob) < 1e-5


# -------------------------------------------------------------------------------------------------
# faults


def has_finite_keys(engine) -> bool:
    """Whether all keys in the engine's cache are finite.

    Its thread may still be at a last run, to which the state is donated: then it is read again.
    """
    for _ in range(1000):
        keys = engine._devices.state.decode.cache.k
        try:
            return bool(jnp.isfinite(keys).all())
        except RuntimeError as error:
            assert "deleted" in str(error)
            time.sleep(0.01)
    raise AssertionError("the engine never rests")


def test_a_number_that_is_not_finite_ends_one_request(engine, monkeypatch):
    """Its neighbour goes on, and what it left in the caches is removed before the next."""
    request = ask("Hi", seed=3, max_tokens=300)
    (expected,) = answer(engine, request)
    run = engine._devices._run
    poisoned = threading.Event()

    def run_with_nan(model, state, *bounds):
        state, sampled = run(model, state, *bounds)
        victim = next(
            (
                b
                for b, x in enumerate(engine._slots.samples)
                if x and x.ticket.left == 2
            ),
            None,
        )
        if victim is not None and not poisoned.is_set():
            poisoned.set()
            cache = state.decode.cache
            cache = dataclasses.replace(cache, k=cache.k.at[:, victim].set(jnp.nan))
            decode = dataclasses.replace(state.decode, cache=cache)
            state = dataclasses.replace(state, decode=decode)
            logprobs = np.array(sampled.logprobs)
            logprobs[victim] = np.nan
            sampled = dataclasses.replace(sampled, logprobs=logprobs)
        return state, sampled

    monkeypatch.setattr(engine._devices, "_run", run_with_nan)
    neighbour = submit(engine, request)
    victim = submit(engine, ask("Hello", n=2, max_tokens=300))
    with pytest.raises(FloatingPointError, match="not finite"):
        victim.wait()
    assert neighbour.wait()[0].tokens == expected.tokens
    assert has_finite_keys(engine)
    # Through all slots once more.
    listeners = [submit(engine, request) for _ in range(16)]
    for listener in listeners:
        assert listener.wait()[0].tokens == expected.tokens
    assert engine.numbers().failed == 1


def test_a_listener_that_fails_disturbs_nobody(engine):
    request = ask("Hi", seed=3)
    (expected,) = answer(engine, request)

    def fail(event):
        raise RuntimeError("the client has left")

    engine.submit(engine.prepare(ask("Hi")), fail)
    assert answer(engine, request)[0].tokens == expected.tokens
    assert engine.numbers().running == 0


def test_a_full_queue_refuses_and_loses_nothing(own_engine):
    engine = own_engine(queue=3)
    listeners = []
    refused = 0
    for _ in range(50):
        prepared = engine.prepare(ask("Hi", max_tokens=30))
        listener = Listener(1)
        try:
            engine.submit(prepared, listener)
            listeners.append(listener)
        except QueueFull:
            refused += 1
    assert refused
    for listener in listeners:
        (answer,) = listener.wait()
        # Seeds are fresh, so that one or the other ends by itself.
        assert len(answer.ids) == 30 or answer.finish_reason == "stop"
    assert engine.numbers().finished == len(listeners)


def test_an_engine_that_fails_tells_everybody(own_engine):
    """Those that run and those that wait; no new ones are taken, and nothing hangs."""
    engine = own_engine()
    listeners = [submit(engine, ask("Hi", max_tokens=300)) for _ in range(5)]
    while not listeners[0].answers[0].tokens:
        time.sleep(0.001)

    def break_down(*arguments):
        raise RuntimeError("a chip is lost")

    engine._devices._run = break_down
    for listener in listeners:
        with pytest.raises(RuntimeError, match="a chip is lost"):
            listener.wait()
    assert "a chip is lost" in str(engine.failed)
    assert not engine.ready
    with pytest.raises(EngineStopped, match="a chip is lost"):
        submit(engine, ask("Hi"))
    assert not engine.drain(1)


def test_draining_ends_what_runs_and_takes_no_more(own_engine):
    engine = own_engine()
    listeners = [submit(engine, ask("Hi", max_tokens=40)) for _ in range(6)]
    assert engine.drain(60)
    assert all(listener.ended.is_set() for listener in listeners)
    with pytest.raises(EngineStopped):
        submit(engine, ask("Hi"))


def test_stopping_tells_those_that_have_not_ended(own_engine):
    engine = own_engine()
    listeners = [submit(engine, ask("Hi", max_tokens=300)) for _ in range(6)]
    assert not engine.drain(0)
    engine.stop()
    for listener in listeners:
        assert listener.ended.is_set()
        with pytest.raises(EngineStopped):
            listener.wait()


def test_a_checkpoint_that_cannot_be_read_is_what_failed(source):
    def read(compute):
        raise ValueError("weights and model.json disagree")

    broken = dataclasses.replace(source, read=read)
    engine = Engine(broken, EngineSettings(2, 128, 32))
    engine.start()
    with pytest.raises(ValueError, match="disagree"):
        engine.wait_until_ready()
    engine.stop()


# -------------------------------------------------------------------------------------------------
# sizes


def test_slots_that_do_not_fit_are_refused_before_weights_are_read(source, monkeypatch):
    from r1v3_jax.engine import engine as module

    settings = EngineSettings(64, 200, 300)
    mesh = jax.sharding.get_mesh()
    counted = module.memory_of(source.config, source.compute, settings, mesh)
    room = counted.weights + counted.beside + counted.working + 58 * counted.a_slot
    monkeypatch.setattr(module, "device_bytes", lambda: room)
    read = []
    unread = dataclasses.replace(source, read=read.append)
    with pytest.raises(ValueError, match="58 slots fit, 64 do not.*--slots=58"):
        Engine(unread, settings)
    Engine(unread, EngineSettings(58, 200, 300))
    monkeypatch.setattr(module, "device_bytes", lambda: counted.weights)
    with pytest.raises(ValueError, match="no slot fits"):
        Engine(unread, settings)
    assert not read


@pytest.mark.parametrize(
    "settings, words",
    [
        (EngineSettings(0, 128, 32), "slots 0"),
        (EngineSettings(2, 128, 0), "max_tokens 0"),
        (EngineSettings(2, 400, 200), "exceed the model's 512 positions"),
    ],
)
def test_impossible_sizes(source, settings, words):
    with pytest.raises(ValueError, match=words):
        Engine(source, settings)
