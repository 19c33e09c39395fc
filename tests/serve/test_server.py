"""The server over HTTP, with an engine of scripted answers: replies, streams, keys, numbers."""

import json
import types

import openai
import pytest
from images_for_tests import PNG
from requests_for_tests import ask, body, connect, data_uri, events, get, wait_until
from scripted_engine import ScriptedEngine, serving, text_of, words

from r1v3_jax.serve import running


def client(served, **options) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{served.url}/v1", api_key="none", max_retries=0, **options
    )


ANSWER = "I see.\n</think>\n\nYou said: hi there"
TOKENS = ["I", " see.\n</think>\n\nYou", " said:", " hi", " there"]


def test_the_openai_client_with_every_field():
    """Fields of the API, and those of vLLM and SGLang as further ones of the body."""
    with serving() as served:
        reply = client(served).chat.completions.create(
            model="r1v3",
            messages=[{"role": "user", "content": "hi there"}],
            max_completion_tokens=50,
            temperature=0.5,
            top_p=0.9,
            seed=7,
            n=2,
            stop=["never"],
            logprobs=True,
            top_logprobs=2,
            extra_body={
                "top_k": 5,
                "repetition_penalty": 1.1,
                "stop_token_ids": [1],
                "bad_words": ["Wait"],
                "thinking_token_budget": 9,
                "chat_template_kwargs": {"enable_thinking": True},
                "separate_reasoning": True,
                "metadata_of_mine": 5,
            },
        )
        settings = served.engine.requests[0].settings
        text = get(served.url, "/metrics")[1]
    assert [choice.index for choice in reply.choices] == [0, 1]
    for choice in reply.choices:
        assert choice.message.content == "You said: hi there"
        assert choice.message.reasoning == "I see."
        assert choice.message.reasoning_content == "I see."
        assert choice.finish_reason == "stop"
        entries = choice.logprobs.content
        assert [entry.token for entry in entries] == TOKENS
        assert bytes(entries[0].bytes) == b"I"
        assert [top.logprob for top in entries[0].top_logprobs] == [-0.5, -1.5]
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 10)
    assert reply.usage.completion_tokens_details.reasoning_tokens == 4
    assert (settings.top_k, settings.seed, settings.bad_words) == (5, 7, ("Wait",))
    assert 'r1v3_unknown_fields_total{field="metadata_of_mine"} 1' in text


def test_the_bytes_of_half_a_character_are_not_those_of_its_replacement():
    with serving(ScriptedEngine(lambda request: ["\ufffd", "好"])) as served:
        reply = client(served).chat.completions.create(
            model="r1v3", messages=body()["messages"], logprobs=True
        )
    entries = reply.choices[0].logprobs.content
    assert [entry.bytes for entry in entries] == [None, list("好".encode())]


def test_an_address_of_ipv6_is_one_of_a_url():
    def listening(*name):
        return running.address_of(types.SimpleNamespace(getsockname=lambda: name))

    assert listening("127.0.0.1", 8000) == "127.0.0.1:8000"
    assert listening("::1", 8000, 0, 0) == "[::1]:8000"


@pytest.mark.parametrize("split", [False, True])
def test_a_stream_says_what_the_whole_reply_says(split):
    asked = {"extra_body": {"separate_reasoning": split}, "logprobs": True, "n": 2}
    messages = [{"role": "user", "content": "hi there"}]
    with serving() as served:
        create = client(served).chat.completions.create
        whole = create(model="r1v3", messages=messages, **asked)
        options = {"include_usage": True}
        chunks = list(
            create(
                model="r1v3",
                messages=messages,
                stream=True,
                stream_options=options,
                **asked,
            )
        )
    *chunks, last = chunks
    assert last.usage == whole.usage
    assert not last.choices
    for index, choice in enumerate(whole.choices):
        mine = [c.choices[0] for c in chunks if c.choices[0].index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(c.delta.content for c in mine) == choice.message.content
        thoughts = "".join(getattr(c.delta, "reasoning", None) or "" for c in mine)
        assert thoughts == (choice.message.reasoning if split else "")
        assert [c.finish_reason for c in mine if c.finish_reason] == ["stop"]
        logprobs = [entry for c in mine if c.logprobs for entry in c.logprobs.content]
        assert logprobs == choice.logprobs.content


def test_the_answer_is_sent_while_it_is_sampled():
    engine = ScriptedEngine(pace=0.2)
    with serving(engine) as served:
        stream = client(served).chat.completions.create(
            model="r1v3", messages=body()["messages"], stream=True
        )
        next(stream)
        assert next(stream).choices[0].delta.content == "I"
        assert engine.numbers().running == 1
        stream.close()


def test_content_is_a_text_whatever_comes():
    """An answer that is cut among its thoughts has none; kits take null for a failure."""
    with serving() as served:
        for more in ({}, {"separate_reasoning": True}, {"include_reasoning": False}):
            status, reply, _ = ask(served.url, body(max_tokens=1, **more))
            choice = reply["choices"][0]
            assert (status, choice["finish_reason"]) == (200, "length")
            assert choice["message"]["content"] == ("" if more else "I")
            assert choice["message"].get("reasoning", "I") == "I"
    with serving(ScriptedEngine(script=lambda _: [""])) as served:
        assert ask(served.url, body())[1]["choices"][0]["message"]["content"] == ""


def test_images_and_other_scripts_arrive_whole():
    script = "看 🐈\u200d⬛ \u2028 é"
    content = [
        {"type": "image_url", "image_url": {"url": data_uri(PNG), "detail": "auto"}},
        {"type": "text", "text": script},
    ]
    with serving() as served:
        status, reply, _ = ask(
            served.url, body(messages=[{"role": "user", "content": content}])
        )
        request = served.engine.requests[0]
    assert status == 200
    assert reply["choices"][0]["message"]["content"].endswith(f"You said: [0]{script}")
    assert request.images[0].read() == PNG
    assert text_of(request) == f"user: [0]{script}"


def test_what_the_engine_refuses_is_the_clients_mistake():
    with serving() as served:
        long = [{"role": "user", "content": "word " * 300}]
        status, reply, _ = ask(served.url, body(messages=long))
    assert status == 400
    assert reply["error"]["message"] == "a prompt of 301 tokens; at most 200"
    assert reply["error"]["param"] == "messages"


def test_models_are_listed_by_all_their_names():
    with serving() as served:
        api = client(served)
        listed = list(api.models.list())
        assert [model.id for model in listed] == ["r1v3", "gpt-4o-mini"]
        assert listed[0].max_model_len == 300
        assert api.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"
        assert ask(served.url, body(model="gpt-4o-mini"))[1]["model"] == "r1v3"
        with pytest.raises(openai.NotFoundError, match="there is r1v3, gpt-4o-mini"):
            api.models.retrieve("gpt-5")
        with pytest.raises(openai.NotFoundError) as caught:
            api.chat.completions.create(model="gpt-5", messages=body()["messages"])
        assert caught.value.code == "model_not_found"


def test_whoever_has_no_key_gets_no_further():
    with serving(key="secret-1") as served:
        for key in (
            None,
            "Bearer",
            "Bearer ",
            "Bearer secret-2",
            "Basic secret-1",
            "secret-1",
        ):
            headers = {"Authorization": key} if key else {}
            status, reply, told = ask(served.url, body(), headers=headers)
            assert (status, reply["error"]["code"]) == (401, "invalid_api_key")
            assert told["WWW-Authenticate"] == "Bearer"
            assert get(served.url, "/v1/models", headers=headers)[0] == 401
        for key in ("Bearer secret-1", "bearer secret-1"):
            assert ask(served.url, body(), headers={"Authorization": key})[0] == 200
        # What a balancer and Prometheus ask for says nothing about anybody.
        assert get(served.url, "/health")[0] == 200
        assert get(served.url, "/metrics")[0] == 200
        with pytest.raises(openai.AuthenticationError):
            client(served).models.list()


def test_a_wrong_key_costs_no_body():
    """100 MB are promised and never sent: the refusal comes at once."""
    with serving(key="secret-1") as served:
        connection = connect(served.url)
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Content-Length", str(100 << 20))
        connection.endheaders()
        assert connection.getresponse().status == 401
        connection.close()


def test_health_says_when_a_request_would_be_taken():
    with serving(ScriptedEngine(loading=0.5)) as served:
        status, reply, headers = get(served.url, "/health")
        assert (status, reply["error"]["code"]) == (503, "loading")
        assert headers["Retry-After"] == "5"
        assert ask(served.url, body())[0] == 503
        assert wait_until(lambda: get(served.url, "/health")[0] == 200)
        assert ask(served.url, body())[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/v1/completions", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/../../etc/passwd", 404),
    ],
)
def test_a_wrong_address_is_answered_as_the_api_does(method, path, status):
    with serving() as served:
        got, reply, _ = ask(served.url, method=method, path=path)
    assert got == status
    assert {"message", "type", "param", "code"} == reply["error"].keys()


def test_a_body_that_is_not_called_json_is_refused():
    """A page elsewhere makes a browser send text/plain without asking; JSON it has to ask for."""
    with serving() as served:
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            status, reply, _ = ask(served.url, body(), headers={"Content-Type": kind})
            assert status == 415
            assert "Content-Type: application/json" in reply["error"]["message"]
        kind = {"Content-Type": "Application/JSON; charset=utf-8"}
        assert ask(served.url, body(), headers=kind)[0] == 200


def test_an_engine_that_fails_ends_requests_with_an_error():
    engine = ScriptedEngine(pace=0.05, script=lambda _: words("a " * 90))
    with serving(engine) as served:
        stream = connect(served.url)
        stream.request(
            "POST", "/v1/chat/completions", json.dumps(body(stream=True)),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        reply = stream.getresponse()
        assert wait_until(lambda: engine.numbers().running == 1)
        engine.fail_with = RuntimeError("secrets of the machine")
        *_, error, done = events(reply.read())
        assert error["error"] == {
            "message": "the engine failed",
            "type": "server_error",
            "param": None,
            "code": "engine_failed",
        }
        assert done == "[DONE]"
        stream.close()
        assert get(served.url, "/health")[0] == 503
        assert ask(served.url, body())[0] == 503


def test_numbers_are_those_of_prometheus():
    with serving() as served:
        for _ in range(3):
            ask(served.url, body())
        ask(served.url, b"{")
        _, text, headers = get(served.url, "/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            samples[name] = float(value)
    assert samples['r1v3_replies_total{status="200"}'] == 3
    assert samples['r1v3_replies_total{status="400"}'] == 1
    assert samples["r1v3_generated_tokens_total"] == 3 * len(TOKENS)
    assert samples["r1v3_time_to_first_token_seconds_count"] == 3
    assert samples['r1v3_time_to_first_token_seconds_bucket{le="+Inf"}'] == 3
    assert samples["r1v3_time_per_token_seconds_count"] == 3
    assert samples["r1v3_samples_running"] == samples["r1v3_samples_waiting"] == 0
