"""SIGTERM lets answers end; a failed engine ends the process. With scripted answers."""

import json
import threading
import time

import pytest
from requests_for_tests import ask, body, connect, events, get, wait_until
from server_process import started

PROGRAM = "tests/helpers/serve_scripted.py"
KIND = {"Content-Type": "application/json"}


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def ask_in_thread(url: str, **given) -> list:
    """Asks; the list gets the reply when it comes."""
    replies = []
    threading.Thread(
        target=lambda: replies.append(ask(url, body(**given))), daemon=True
    ).start()
    return replies


def open_stream(url: str, **given):
    connection = connect(url)
    request = json.dumps(body(stream=True, **given))
    connection.request("POST", "/v1/chat/completions", request, KIND)
    return connection.getresponse()


def test_sigterm_takes_no_new_requests_and_lets_running_ones_end(log):
    """An answer of 2 s ends whole; one of 200 s gets an error after 10 s; the code is 0."""
    with started(log, PROGRAM) as server:
        assert wait_until(lambda: get(server.url, "/health")[0] == 200)
        short = ask_in_thread(server.url, max_tokens=100)
        long = ask_in_thread(server.url, max_tokens=10_000)
        stream = open_stream(server.url, max_tokens=10_000)
        assert wait_until(lambda: server.number("r1v3_samples_running") == 3)
        start = time.monotonic()
        server.process.send_signal(15)
        assert wait_until(lambda: get(server.url, "/health")[0] == 503, 2)
        status, reply, _ = ask(server.url, body())
        assert (status, reply["error"]["code"]) == (503, "shutting_down")
        assert wait_until(lambda: short, 8)
        status, reply, _ = short[0]
        assert (status, reply["usage"]["completion_tokens"]) == (200, 100)
        assert not long
        *_, error, done = events(stream.read())
        assert (error["error"]["code"], done) == ("shutting_down", "[DONE]")
        assert wait_until(lambda: long, 2)
        assert long[0][0] == 503
        assert server.process.wait(10) == 0
        assert 9 < time.monotonic() - start < 16


def test_sigterm_ends_an_idle_server_at_once(log):
    with started(log, PROGRAM) as server:
        assert wait_until(lambda: get(server.url, "/health")[0] == 200)
        start = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - start < 5


def test_an_engine_that_fails_ends_the_process_and_tells_its_clients(log):
    with started(log, PROGRAM, "3") as server:
        assert wait_until(lambda: get(server.url, "/health")[0] == 200)
        whole = ask_in_thread(server.url, max_tokens=10_000)
        stream = open_stream(server.url, max_tokens=10_000)
        *_, error, done = events(stream.read())
        assert (error["error"]["code"], done) == ("engine_failed", "[DONE]")
        assert wait_until(lambda: whole)
        assert whole[0][0] == 500
        assert server.process.wait(10) == 1
    assert (
        "error: the engine failed: RuntimeError('the device is gone')"
        in log.read_text()
    )
