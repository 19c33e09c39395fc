"""Two processes of one device each answer over HTTP what one process of two devices answers."""

import socket

import commands
import pytest
from images_for_tests import encoded, noise
from requests_for_tests import ask, body, data_uri, get, wait_until
from server_process import Server, served, write_checkpoint

FLAGS = ("--mesh=2,1,1", "--slots=2", "--max_prompt_tokens=128", "--max_tokens=16")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def requests() -> list[dict]:
    image = {
        "type": "image_url",
        "image_url": {"url": data_uri(encoded(noise(40, 30), "PNG"))},
    }
    seen = [{"role": "user", "content": [image, {"type": "text", "text": "What?"}]}]
    texts = [[{"role": "user", "content": f"question {i}"}] for i in range(3)]
    settings = {"seed": 5, "n": 2, "max_tokens": 16}
    return [body(messages=messages, **settings) for messages in (seen, *texts)]


def answers(url: str, asked: list[dict]) -> list:
    replies = [ask(url, request, timeout=300) for request in asked]
    assert [status for status, _, _ in replies] == [200] * len(replies)
    return [
        [c["message"]["content"] for c in reply["choices"]] for _, reply, _ in replies
    ]


def test_two_processes_answer_as_one_does(checkpoint, tmp_path):
    """Token for token; SIGTERM to both lets the first drain, and both end with code 0."""
    asked = requests()
    with served(checkpoint, tmp_path / "one", *FLAGS, devices=2) as server:
        expected = answers(server.url, asked)
        assert server.end() == 0

    coordinator = f"localhost:{free_port()}"
    port = free_port()
    logs = [tmp_path / f"process{i}" for i in range(2)]
    processes = [
        commands.start(
            "-m", "r1v3_jax.serve", f"--checkpoint={checkpoint}", f"--port={port}", *FLAGS,
            f"--coordinator={coordinator}", "--num_processes=2", f"--process_id={i}",
            output=logs[i], env=commands.environment(1),
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        server = Server(processes[0], logs[0], f"http://127.0.0.1:{port}")

        def is_ready() -> bool:
            assert all(process.poll() is None for process in processes), logs[
                0
            ].read_text()
            try:
                return get(server.url, "/health")[0] == 200
            except OSError:  # it does not listen yet
                return False

        assert wait_until(is_ready, 600)
        assert answers(server.url, asked) == expected
        for process in processes:
            process.send_signal(15)
        assert [process.wait(60) for process in processes] == [0, 0]
    finally:
        commands.kill(processes)
