"""The command as it is typed, over a random model: what holds over HTTP, and what it costs.

One server for all; numbers of bars are printed at the end of the run.
"""

import json
import os
import random
import re
import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import commands
import openai
import pytest
from images_for_tests import PNG, encoded, linux_only, noise
from requests_for_tests import (
    ask,
    body,
    data_uri,
    events,
    get,
    open_socket,
    raw,
    wait_until,
)
from server_process import served, write_checkpoint

from r1v3_jax.processing.image_files import StoredImage

SLOTS = 8
TOKENS = 48
PROMPT = 200
QUEUE = 64
KIND = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    # Every client of 1,000 has a socket, and so has the server.
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2
    )
    flags = (
        f"--slots={SLOTS}", f"--max_prompt_tokens={PROMPT}", f"--max_tokens={TOKENS}",
        f"--queue={QUEUE}", "--alias=gpt-4o-mini",
    )  # fmt: skip
    with served(
        checkpoint, tmp_path_factory.mktemp("server") / "log", *flags
    ) as server:
        yield server
        assert server.number("r1v3_compilations_total") == 0
        assert server.end() == 0


def text(content: str) -> list[dict]:
    return [{"role": "user", "content": content}]


def picture(content: str, side: int) -> list[dict]:
    image = {
        "type": "image_url",
        "image_url": {"url": data_uri(encoded(noise(side, side), "PNG"))},
    }
    return [{"role": "user", "content": [image, {"type": "text", "text": content}]}]


def choices_of(server, request: dict) -> list:
    status, reply, _ = ask(server.url, request)
    assert status == 200, reply
    return reply["choices"]


def streamed(server, request: dict) -> list[dict]:
    """Returns the choices of a stream, put together as those of a whole reply."""
    with open_socket(server.url) as client:
        client.sendall(
            raw({**request, "stream": True}, headers="Connection: close\r\n")
        )
        with client.makefile("rb") as file:
            _, _, data = file.read().partition(b"\r\n\r\n")
    # Pieces have their length in front.
    data = re.sub(rb"(?:^|\r\n)[0-9a-f]+\r\n", b"", data)
    count = request.get("n", 1)
    parts = [[] for _ in range(count)]
    for event in events(data)[:-1]:
        [choice] = event["choices"]
        parts[choice["index"]].append(choice)
    choices = []
    for index, mine in enumerate(parts):
        [reason] = [x["finish_reason"] for x in mine if x["finish_reason"]]
        logprobs = [
            entry for x in mine if x["logprobs"] for entry in x["logprobs"]["content"]
        ]
        message = {
            "role": "assistant",
            "content": "".join(x["delta"].get("content", "") for x in mine),
            "refusal": None,
        }
        choices.append({
            "index": index, "message": message, "logprobs": {"content": logprobs},
            "finish_reason": reason,
        })  # fmt: skip
    return choices


def test_streamed_text_is_the_whole_text(server, shows):
    """200 requests, eight at a time; the model says halves of letters, and meets stop texts."""
    rng = random.Random(0)
    letters = "abc 看图说话 🐈⬛ éß"
    requests = []
    for number in range(200):
        content = "".join(rng.choice(letters) for _ in range(rng.randrange(1, 20)))
        stops = [
            rng.choice("abcdefgh") + rng.choice("abcdefgh ") for _ in range(number % 5)
        ]
        requests.append(
            body(
                messages=picture(content, 20 + number) if number % 4 == 0 else text(content),
                seed=number, n=1 + number % 3, logprobs=True, top_logprobs=number % 3,
                max_tokens=1 + number % TOKENS, stop=stops, temperature=number % 2,
            )
        )  # fmt: skip
    with ThreadPoolExecutor(8) as threads:
        whole = list(threads.map(lambda r: choices_of(server, r), requests))
        parts = list(threads.map(lambda r: streamed(server, r), requests))
    different = sum(a != b for a, b in zip(whole, parts, strict=True))
    stopped = sum(c["finish_reason"] == "stop" for choices in whole for c in choices)
    everything = "".join(c["message"]["content"] for choices in whole for c in choices)
    assert "\ufffd" in everything and stopped > 5
    for request, choices in zip(requests, whole, strict=True):
        assert not any(
            s in c["message"]["content"] for s in request["stop"] for c in choices
        )
    shows(
        "2, of 200 requests: stream and whole differ in text, token or log-probability",
        different,
        0,
        different == 0,
    )


def test_the_openai_client_uses_every_field(server):
    """Proves: they reach the real engine, which honours what can be seen from outside."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    asked = {
        "model": "gpt-4o-mini", "messages": text("hello"), "max_completion_tokens": 20, "seed": 1,
        "temperature": 0.7, "top_p": 0.9, "n": 3, "stop": ["zz"], "logprobs": True,
        "top_logprobs": 5,
        "extra_body": {
            "top_k": 40, "repetition_penalty": 1.05, "stop_token_ids": [3], "bad_words": ["abc"],
            "thinking_token_budget": 5, "chat_template_kwargs": {"enable_thinking": True},
            "separate_reasoning": True,
        },
    }  # fmt: skip
    reply = client.chat.completions.create(**asked)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    for choice in reply.choices:
        entries = choice.logprobs.content
        assert len(entries) <= 20
        assert all(len(entry.top_logprobs) == 5 for entry in entries)
        # After five tokens </think> is forced.
        assert len(choice.message.reasoning.encode()) <= 5 * 20
        assert "</think>" in "".join(entry.token for entry in entries)
    again = client.chat.completions.create(**asked)
    assert again.choices == reply.choices
    other = client.chat.completions.create(**{**asked, "seed": 2})
    assert other.choices != reply.choices
    assert reply.usage.completion_tokens_details.reasoning_tokens > 0


def random_request(rng: random.Random, number: int) -> dict:
    """A request of a random size and random settings."""
    content = "word " * rng.randrange(1, 15)
    messages = text(content)
    if rng.random() < 0.3:
        messages = picture(content[:20], rng.randrange(10, 120))
    return body(
        messages=messages,
        max_tokens=rng.randrange(1, TOKENS + 20),
        temperature=rng.choice([0, 0.3, 1, 2]),
        top_p=rng.choice([0.1, 0.9, 1]),
        top_k=rng.choice([0, 1, 50, -1]),
        repetition_penalty=rng.choice([1, 1.2, 0.9]),
        n=rng.choice([1, 1, 2, SLOTS]),
        seed=rng.choice([None, number]),
        stop=rng.choice([None, "ab", ["a", "zz"]]),
        stop_token_ids=rng.choice([None, [5, 6]]),
        bad_words=rng.choice([None, ["th", "Wait"]]),
        thinking_token_budget=rng.choice([None, 1, 10]),
        logprobs=rng.choice([True, False]),
        stream=rng.choice([True, False]),
    )


def test_500_random_requests_compile_nothing(server, shows):
    rng = random.Random(1)
    requests = [random_request(rng, number) for number in range(500)]
    before = server.number("r1v3_compilations_total")
    with ThreadPoolExecutor(12) as threads:
        statuses = list(threads.map(lambda r: ask(server.url, r)[0], requests))
    assert statuses == [200] * 500
    compiled = server.number("r1v3_compilations_total") - before
    shows("5, compilations over 500 random requests", f"{compiled:g}", 0, compiled == 0)


def test_500_clients_that_leave(server, shows):
    """Streaming or not, alone or with samples; the answer afterwards is bitwise that of before."""
    rng = random.Random(2)
    reference = body(messages=text("hello"), seed=3, logprobs=True, max_tokens=TOKENS)
    before = choices_of(server, reference)

    def leave(number: int) -> None:
        request = raw(
            body(messages=text("x" * 50), stream=number % 2 == 0, n=1 + number % 3)
        )
        with open_socket(server.url) as client:
            client.sendall(
                request[: rng.randrange(len(request))] if number % 7 == 0 else request
            )
            time.sleep(rng.random() * 0.1)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(leave, range(500)))
    is_idle = wait_until(server.is_idle, 10)
    same = choices_of(server, reference) == before
    aborted = server.number("r1v3_requests_aborted_total")
    shows(
        "6, running and waiting after 500 clients left; the next answer",
        f"{'0' if is_idle else 'some'} ({aborted:g} seen to leave); {'equal' if same else 'other'}",
        "0; equal",
        is_idle and same and aborted > 100,
    )


def memory_mb(server, name: str) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def cpu_seconds(server) -> float:
    fields = (
        Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    )
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@linux_only
def test_1000_hostile_requests(server, shows, canary):
    """Each is refused in the API's words; neighbours, memory and a port nobody may ask are watched.

    The time is that of a request alone; then all come eight at a time, beside good ones.
    """
    from test_hostile_requests import hostile
    from test_image_files import hostile_images

    port, asked = canary
    cases = hostile(port)
    for name, (data, wanted) in hostile_images().items():
        if isinstance(wanted, str) or isinstance(wanted[0], str):
            part = {"type": "image_url", "image_url": {"url": data_uri(data)}}
            cases[name] = body(messages=[{"role": "user", "content": [part]}])
    # As bytes: what this process takes to write them is not the server's.
    cases = {
        name: case if isinstance(case, bytes) else json.dumps(case).encode()
        for name, case in cases.items()
    }
    reference = body(messages=text("hello"), seed=3, logprobs=True)
    before = choices_of(server, reference)
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    resident = memory_mb(server, "VmRSS")
    statuses = []
    seconds = {}
    work = {}
    for name, case in cases.items():
        start = time.monotonic()
        worked = cpu_seconds(server)
        status, reply, _ = ask(server.url, case)
        seconds[name] = time.monotonic() - start
        work[name] = cpu_seconds(server) - worked
        assert {"message", "type", "param", "code"} == reply["error"].keys()
        statuses.append(status)
    cheap = [case for case in cases.values() if len(case) < 1 << 20]
    many = [cheap[i % len(cheap)] for i in range(1000 - len(cases))]
    with ThreadPoolExecutor(8) as threads:
        neighbours = threads.map(lambda _: choices_of(server, reference), range(20))
        statuses += threads.map(lambda case: ask(server.url, case)[0], many)
        same = all(choices == before for choices in neighbours)
    grown = memory_mb(server, "VmHWM") - resident
    refused = sum(400 <= status < 500 for status in statuses)
    shows(
        "7, hostile requests refused with 4xx",
        f"{refused} of 1000",
        1000,
        refused == 1000,
    )
    # The machine may be busy with other things: the bar is held against the server's own work.
    slowest = max(seconds, key=seconds.get)
    hardest = max(work, key=work.get)
    shows(
        "7, slowest refusal alone, s; most work for one, CPU s",
        f"{seconds[slowest]:.2f} ({slowest}); {work[hardest]:.2f} ({hardest})",
        "1; 1",
        work[hardest] < 1,
    )
    shows("7, memory above the start, MB", f"{grown:.0f}", 200, grown <= 200)
    shows("7, connections to a port that requests name", len(asked), 0, not asked)
    shows("7, neighbours' answers", "equal" if same else "other", "equal", same)


def test_1000_at_once(server, shows):
    """Whoever is refused comes again after Retry-After; each gets the answer to its own seed."""
    refused = []

    def insist(number: int):
        request = body(messages=text("hello"), seed=number % 50, max_tokens=8)
        for _ in range(500):
            status, reply, headers = ask(server.url, request, timeout=600)
            if status == 200:
                return reply["choices"]
            assert status == 429, reply
            refused.append(number)
            time.sleep(int(headers["Retry-After"]) * random.random())
        return None

    before = server.number("r1v3_requests_finished_total")
    with ThreadPoolExecutor(1000) as threads:
        answers = list(threads.map(insist, range(1000)))
    lost = answers.count(None)
    mixed = sum(answers[i] != answers[i % 50] for i in range(1000))
    finished = server.number("r1v3_requests_finished_total") - before
    shows(
        "8, of 1000 at once: refused with 429, lost, another's answer, answered by the engine",
        f"{len(refused)}, {lost}, {mixed}, {finished:g}",
        "some, 0, 0, 1000",
        bool(refused) and not lost and not mixed and finished == 1000,
    )


def test_a_key_is_wanted_and_never_printed(checkpoint, tmp_path, shows):
    key = tmp_path / "key"
    key.write_text("sk-very-secret\n")
    key.chmod(0o600)
    flags = (
        f"--api_key_file={key}",
        "--slots=1",
        "--max_tokens=8",
        "--max_prompt_tokens=128",
    )
    with served(checkpoint, tmp_path / "log", *flags) as server:
        wrong = [ask(server.url, body(), headers={"Authorization": f"Bearer {word}"})[0]
                 for word in ("", "x", "sk-very-secre", "sk-very-secret2")]  # fmt: skip
        right = ask(
            server.url, body(), headers={"Authorization": "Bearer sk-very-secret"}
        )[0]
        assert server.end() == 0
        log = server.log.read_text()
    assert "sk-very" not in log
    passed = wrong == [401] * 4 and right == 200
    shows(
        "10, status with wrong keys, with the key",
        f"{wrong}, {right}",
        "401, 200",
        passed,
    )


MISTAKES = [
    ([], "give either --checkpoint=DIR or --hf=DIR"),
    (["--checkpoint=nowhere"], "nowhere/model.json: no such file"),
    (["--hf=nowhere"], "nowhere"),
    (["--checkpoint={checkpoint}", "--hf=nowhere"], "give either"),
    (["--checkpoint={checkpoint}", "--max_tokens=600"], "512"),
    (
        ["--checkpoint={checkpoint}", "--port={port}"],
        "the port cannot be had, it is in use",
    ),
    (
        ["--checkpoint={checkpoint}", "--host=no.such.host.invalid"],
        "the port cannot be had",
    ),
    (
        ["--checkpoint={checkpoint}", "--api_key_file={empty}"],
        "0 words, wanted one key",
    ),
    (["--checkpoint={checkpoint}", "--api_key_file={open}"], "others can read it"),
    (["--checkpoint={checkpoint}", "--api_key_file={work}/none"], "it cannot be read"),
    (["--checkpoint={checkpoint}", "--alias=r1v3"], "wanted different names"),
    (
        ["--checkpoint={checkpoint}", "--mesh=2,1"],
        "three positive sizes (data, fsdp, tensor)",
    ),
    (["--checkpoint={checkpoint}", "--mesh=2,x,1"], "--mesh=2,x,1: wanted three whole"),
    (["--checkpoint={checkpoint}", "--dry_run"], "give one, as --topology=v5p:2x2x1"),
    (["--checkpoint={checkpoint}", "--slots=0"], "slots"),
    (["--checkpoint={checkpoint}", "--thinking=fast"], "thinking"),
    (["--checkpoint={checkpoint}", "--slot=5"], "Unknown command line flag 'slot'"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_a_mistake_is_one_sentence_before_weights_are_read(
    checkpoint, tmp_path, arguments, said, request
):
    (tmp_path / "empty").touch(0o600)
    (tmp_path / "open").write_text("key")
    (tmp_path / "open").chmod(0o644)
    port = 0
    if any("{port}" in argument for argument in arguments):
        port = request.getfixturevalue("server").url.rpartition(":")[2]
    names = {
        "checkpoint": checkpoint, "work": tmp_path, "empty": tmp_path / "empty",
        "open": tmp_path / "open", "port": port,
    }  # fmt: skip
    done = commands.run("-m", "r1v3_jax.serve", *(x.format(**names) for x in arguments))
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr and "loading" not in done.stdout


def test_weights_that_changed_are_one_sentence(checkpoint, tmp_path):
    """They are read when the port is open already: the port closes, and the code is 1."""
    damaged = tmp_path / "damaged"
    shutil.copytree(checkpoint, damaged)
    files = [path for path in (damaged / "weights").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes() + b"x")
    room = ("--slots=1", "--max_prompt_tokens=128", "--max_tokens=8", "--port=0")
    done = commands.run("-m", "r1v3_jax.serve", f"--checkpoint={damaged}", *room)
    assert done.returncode == 1
    assert "error: " in done.stderr and "is damaged" in done.stderr
    assert "Traceback" not in done.stderr and "ready" not in done.stdout


def test_images_reach_the_model_as_they_are(server):
    """JPEG of the same picture is another picture; a number of tiles is a number of tokens."""
    usage = []
    for patches in (1, 4):
        image = {
            "url": data_uri(encoded(noise(60, 60), "PNG")),
            "max_dynamic_patch": patches,
        }
        messages = [
            {"role": "user", "content": [{"type": "image_url", "image_url": image}]}
        ]
        status, reply, _ = ask(server.url, body(messages=messages, max_tokens=1))
        assert status == 200, reply
        usage.append(reply["usage"]["prompt_tokens"])
    # 1 tile; 2 x 2 and a thumbnail: 4 more of 4 tokens each.
    assert usage[1] - usage[0] == 4 * 4
    assert StoredImage(PNG).size == (60, 40)
    many = [{"type": "image_url", "image_url": {"url": data_uri(PNG)}}] * 30
    status, reply, _ = ask(
        server.url, body(messages=[{"role": "user", "content": many}])
    )
    assert status == 400 and reply["error"]["param"] == "messages"


def test_models_name_the_room(server):
    assert (
        get(server.url, "/v1/models")[1]["data"][0]["max_model_len"] == PROMPT + TOKENS
    )
    assert json.dumps(get(server.url, "/health")[1]) == '{"status": "ok"}'
