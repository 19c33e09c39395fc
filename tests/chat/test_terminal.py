"""The chat on a terminal, with an engine and with a server that say what a test wrote."""

import io
import json
import signal
import threading
import time

import pytest
from images_for_tests import PNG
from scripted_engine import ScriptedEngine, serving, text_of, words

from r1v3_jax.chat.conversation import Conversation
from r1v3_jax.chat.models import LocalModel, RemoteModel, Sampling
from r1v3_jax.chat.terminal import DIM, PLAIN, Terminal, printable

SAMPLING = Sampling(max_tokens=50)


class Screen(io.StringIO):
    def isatty(self):
        return True


def chat(engine, lines, *, screen=None, model=None, sampling=SAMPLING):
    """Types the lines into a chat; returns what is printed and the conversation."""
    if not engine.ready:
        engine.start()
        engine.wait_until_ready()
    screen = screen or io.StringIO()
    conversation = Conversation()
    terminal = Terminal(model or LocalModel(engine), sampling, conversation, screen)
    for line in lines:
        terminal.handle(line)
    return screen.getvalue(), conversation


def test_an_answer_is_printed_with_its_thoughts_dimmed():
    text, _ = chat(ScriptedEngine(), ["hi"], screen=Screen())
    assert (
        text.replace(PLAIN + DIM, "") == f"{DIM}I see.{PLAIN}\n\nYou said: hi{PLAIN}\n"
    )
    text, _ = chat(ScriptedEngine(), ["hi"])
    assert text == "I see.\n\nYou said: hi\n"


def test_a_server_is_chatted_with_as_an_engine_is():
    with serving() as served:
        model = RemoteModel(f"{served.url}/v1", "r1v3", 60.0)
        text, conversation = chat(served.engine, ["hi", "and now?"], model=model)
        asked = [text_of(request) for request in served.engine.requests]
    assert text == "I see.\n\nYou said: hi\nI see.\n\nYou said: and now?\n"
    # Thoughts are kept, and not sent back.
    assert asked[1] == "user: hi\nassistant: You said: hi\nuser: and now?"
    assert conversation.thoughts == ["I see.", "I see."]


def test_pictures_go_with_the_next_question(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.txt").write_text("no picture")
    lines = [
        f"/image {tmp_path / 'a.png'}",
        f"/image {tmp_path / 'b.txt'}",
        "What?",
        "And now?",
    ]
    with serving() as served:
        remote = RemoteModel(f"{served.url}/v1", "r1v3", 60.0)
        for model in (LocalModel(served.engine), remote):
            served.engine.requests.clear()
            text, _ = chat(served.engine, lines, model=model)
            assert "60 x 40, goes with the next question" in text
            assert "(no picture: " in text
            first, second = served.engine.requests
            assert text_of(first) == "user: [0]What?"
            assert first.images[0].read() == PNG
            assert text_of(second).startswith(
                "user: [0]What?\nassistant: You said: [0]What?"
            )
            assert text_of(second).endswith("\nuser: And now?")
            assert len(second.images) == 1


def test_commands_change_the_chat_and_say_what_is_wrong():
    engine = ScriptedEngine()
    lines = [
        "/think off", "hi", "/think maybe", "/new", "/think on", "hi", "/image", "/save", "/foo",
        "/help", "//etc is a folder", "", "   ",
    ]  # fmt: skip
    text, conversation = chat(engine, lines)
    thinking = [request.thinking for request in engine.requests]
    assert thinking == [False, True, True]
    assert [text_of(request) for request in engine.requests][:2] == [
        "user: hi",
        "user: hi",
    ]
    assert text_of(engine.requests[2]).endswith("user: /etc is a folder")
    for said in ("(/think wants off or on", "(/image wants FILE", "(/save wants FILE"):
        assert said in text
    assert "(no command /foo" in text and "/quit" in text
    assert len(conversation.turns) == 4


def test_a_chat_is_saved_and_nothing_is_replaced(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    path = tmp_path / "chat.jsonl"
    lines = [f"/image {tmp_path / 'a.png'}", "What?", f"/save {path}", f"/save {path}"]
    text, _ = chat(ScriptedEngine(), lines)
    assert json.loads(path.read_text()) == {
        "messages": [
            {"role": "user", "content": "<image>\nWhat?"},
            {
                "role": "assistant",
                "content": "You said: [0]What?",
                "reasoning": "I see.",
            },
        ],
        "images": [str(tmp_path / "a.png")],
    }
    assert "is there already" in text


def test_what_cannot_be_asked_is_said_and_the_chat_goes_on():
    text, conversation = chat(ScriptedEngine(), ["word " * 300, "hi"])
    assert "(no answer: a prompt of 301 tokens; at most 200)" in text
    assert text.endswith("You said: hi\n")
    assert len(conversation.turns) == 2


def test_an_answer_that_was_cut_says_so():
    text, _ = chat(ScriptedEngine(), ["hi"], sampling=Sampling(max_tokens=2))
    assert text.endswith("(cut after 2 tokens; --max_tokens)\n")


def test_a_server_counts_the_tokens():
    """Those without a text, as halves of letters, are in no event of the stream."""
    engine = ScriptedEngine(lambda request: ["a", "", "", "b", "c"])
    with serving(engine) as served:
        model = RemoteModel(f"{served.url}/v1", "r1v3", 60.0)
        text, _ = chat(engine, ["hi"], model=model, sampling=Sampling(max_tokens=4))
    assert text == "ab\n(cut after 4 tokens; --max_tokens)\n"


def test_an_address_without_a_port_that_could_be_is_refused():
    with pytest.raises(ValueError, match="--endpoint=http://host:port/v1: .*wanted"):
        RemoteModel("http://host:port/v1", "r1v3", 60.0)


def test_a_server_that_is_gone_is_one_sentence():
    text, conversation = chat(
        ScriptedEngine(),
        ["hi"],
        model=RemoteModel("http://127.0.0.1:1/v1", "r1v3", 1.0),
    )
    assert text.startswith("(no answer: 127.0.0.1:1 does not answer: ")
    assert not conversation.turns
    with pytest.raises(ValueError, match="wanted an address"):
        RemoteModel("127.0.0.1:8000", "r1v3", 1.0)


@pytest.mark.parametrize("remote", [False, True])
def test_ctrl_c_stops_an_answer_and_not_the_chat(remote):
    """The signal comes while tokens do; the slot is free, and what came is part of the chat."""
    import _thread

    # Tests that were started in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    engine = ScriptedEngine(lambda _: words("</think>word" + " word" * 800), pace=0.02)
    with serving(engine) as served:
        model = (
            RemoteModel(f"{served.url}/v1", "r1v3", 60.0)
            if remote
            else LocalModel(engine)
        )
        threading.Timer(0.5, _thread.interrupt_main).start()
        start = time.monotonic()
        try:
            text, conversation = chat(engine, ["hi"], model=model)
        finally:
            signal.signal(signal.SIGINT, before)
        # The whole answer would take 16 s.
        assert 0.4 < time.monotonic() - start < 8
        assert text.startswith("word word") and text.endswith(" (stopped)\n")
        for _ in range(100):
            if engine.numbers().running == 0:
                break
            time.sleep(0.02)
        assert engine.numbers().running == 0
        assert conversation.turns[1].parts[0].startswith("word word")


def test_a_model_cannot_steer_the_terminal():
    assert (
        printable("a\x1b[2Jb\rc\x07\x9b1m\u202egnp\n\té🐈") == "a�[2Jb�c��1m�gnp\n\té🐈"
    )
    text, _ = chat(ScriptedEngine(lambda _: ["\x1b]0;title\x07"]), ["hi"])
    assert "\x1b" not in text
