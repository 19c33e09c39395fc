"""Clients that leave, come too many at once, or do not read: slots are free, nothing is lost."""

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from images_for_tests import PNG
from requests_for_tests import (
    ask,
    body,
    connect,
    data_uri,
    get,
    open_socket,
    raw,
    wait_until,
)
from scripted_engine import ScriptedEngine, serving, words

from r1v3_jax.serve import bodies, completions


def long_answer(_):
    return words("word " * 90)


def is_idle(engine) -> bool:
    numbers = engine.numbers()
    return numbers.running == numbers.waiting == 0


def test_500_clients_that_leave_leave_nothing_running():
    """Streaming or not, at random times: before the body's end, in the queue, in a slot."""
    rng = random.Random(0)
    engine = ScriptedEngine(long_answer, pace=0.003, slots=8, queue=1000)
    with serving(engine) as served:
        expected = ask(served.url, body(max_tokens=5))[1]["choices"]

        def leave(number: int) -> None:
            request = raw(body(stream=number % 2 == 0, n=1 + number % 3))
            with open_socket(served.url) as client:
                part = rng.random()
                client.sendall(
                    request[: int(len(request) * part)] if part < 0.2 else request
                )
                time.sleep(rng.random() * 0.05)

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(leave, range(500)))
        assert wait_until(lambda: is_idle(engine), 5)
        assert ask(served.url, body(max_tokens=5))[1]["choices"] == expected
        assert engine.numbers().cancelled > 250
        # A client has its answer a moment before the server has put the request away.
        assert wait_until(lambda: not served.app.completions.active, 5)
        text = get(served.url, "/metrics")[1]
    aborted = next(
        x for x in text.splitlines() if x.startswith("r1v3_requests_aborted_total ")
    )
    assert int(aborted.split()[1]) > 250


def test_a_slot_is_free_soon_after_its_client_left():
    engine = ScriptedEngine(long_answer, pace=0.05, slots=1)
    with serving(engine) as served:
        for stream in (True, False):
            client = open_socket(served.url)
            client.sendall(raw(body(stream=stream)))
            assert wait_until(lambda: engine.numbers().running == 1)
            client.close()
            assert wait_until(lambda: is_idle(engine), 0.5)


def test_1000_at_once_are_refused_or_answered_and_none_is_lost(monkeypatch):
    """Whoever is refused comes again after Retry-After; each is answered exactly once."""
    engine = ScriptedEngine(pace=0.001, slots=32, queue=64)
    refused = threading.Semaphore(0)

    def insist(served, number: int):
        messages = [{"role": "user", "content": f"request {number}"}]
        for attempt in range(200):
            status, reply, headers = ask(served.url, body(messages=messages))
            if status == 200:
                return attempt, reply["choices"][0]["message"]["content"]
            assert status == 429, reply
            assert 1 <= int(headers["Retry-After"]) <= 60
            assert reply["error"]["type"] == "rate_limit_error"
            refused.release()
            time.sleep(int(headers["Retry-After"]) * random.random())
        raise AssertionError("never answered")

    with serving(engine) as served:
        with ThreadPoolExecutor(200) as threads:
            replies = list(threads.map(lambda i: insist(served, i), range(1000)))
        assert refused.acquire(blocking=False)
        assert [text for _, text in replies] == [
            f"I see.\n</think>\n\nYou said: request {i}" for i in range(1000)
        ]
        asked = [request.turns[-1].parts[0] for request in engine.requests]
        assert sorted(asked) == sorted(f"request {i}" for i in range(1000))


def test_a_client_that_does_not_read_holds_no_slot(monkeypatch):
    """Its stream is ended after a while; the engine never waits for it."""
    monkeypatch.setattr(completions, "STALL_S", 0.5)
    engine = ScriptedEngine(lambda _: ["x" * 200_000] * 90, slots=1)
    with serving(engine) as served:
        client = open_socket(served.url)
        client.sendall(raw(body(stream=True)))
        assert wait_until(
            lambda: is_idle(engine) and engine.numbers().requests == 1, 10
        )
        assert wait_until(lambda: not served.app.completions.active, 10)
        client.close()


def test_a_stream_in_the_queue_gives_signs_of_life(monkeypatch):
    monkeypatch.setattr(completions, "KEEP_ALIVE_S", 0.1)
    engine = ScriptedEngine(pace=0.5)
    with serving(engine) as served:
        connection = connect(served.url)
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body(stream=True)),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        text = connection.getresponse().read().decode()
        connection.close()
    assert text.count(": waiting\n\n") >= 3
    assert text.endswith("data: [DONE]\n\n")


def test_images_of_requests_that_wait_are_bounded(monkeypatch):
    """Two images are kept; a third request comes again when one of them has its answer."""
    uri = data_uri(PNG)
    monkeypatch.setattr(bodies, "IMAGES", 2 * len(PNG))
    part = {"type": "image_url", "image_url": {"url": uri}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "hi"}]}]
    engine = ScriptedEngine(lambda _: words("word " * 20), pace=0.05, slots=1)
    with serving(engine) as served, ThreadPoolExecutor(2) as threads:
        first = [
            threads.submit(ask, served.url, body(messages=messages)) for _ in range(2)
        ]
        kept = served.app.completions.bodies
        assert wait_until(lambda: kept.kept == 2 * len(PNG))
        status, reply, headers = ask(served.url, body(messages=messages))
        assert (status, reply["error"]["code"]) == (429, "overloaded")
        assert int(headers["Retry-After"]) >= 1
        # A request without images takes none of it.
        assert ask(served.url, body(max_tokens=1))[0] == 200
        assert [answer.result()[0] for answer in first] == [200, 200]
        assert ask(served.url, body(messages=messages, max_tokens=1))[0] == 200
    assert kept.kept == kept.held == 0
