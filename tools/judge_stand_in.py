"""Stands in for a language model that judges descriptions: it counts facts, and knows no language.

    python tools/judge_stand_in.py [--port=8377] [--unclear=0.1]

Serves /v1/chat/completions of an OpenAI-compatible endpoint on this machine, so that a run with a
judge (`Verify.model_url`) can be tried without one. Question, reference and answer are read from
the JSON object in the prompt. Of the reference "four seven over three eight", the share of words
that the answer has in the same place is the grade; a row with another number of words has none of
them. The reply is one of the words that the last line of the prompt offers, in capitals, the best
first. A language model behind the same address is asked in the same way.
"""

import argparse
import hashlib
import json
import math
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 8377  # as in configs/digit_types.py
WELCOME = "a stand-in for a language model: it counts facts, and knows no language"
# Keys of the object that `rewards.verifiers.model` sends.
REFERENCE = "reference answer"
ANSWER = "student's final answer"
ROWS = " over "  # stands between the rows of a description


def share_of_facts(reference: str, answer: str) -> float:
    """Returns the share of the reference's words that the answer has in the same place.

    "four seven over three eight", "four one over three eight two" -> 0.25: of the first row one of
    two, of the second none, since it has three words.
    """
    wanted = [row.split() for row in reference.lower().split(ROWS)]
    given = [row.split() for row in answer.lower().split(ROWS)]
    if len(given) != len(wanted):
        return 0.0
    hits = 0
    for words, others in zip(wanted, given, strict=True):
        if len(words) == len(others):
            hits += sum(a == b for a, b in zip(words, others, strict=True))
    return hits / sum(map(len, wanted))


def tier(words: list[str], share: float) -> str:
    """Returns the word for a share of facts; `words` are the best first, and evenly spaced.

    ALL MOST HALF SOME NONE: 1 -> ALL, 0.75 -> MOST, 0.7 -> HALF.    CORRECT INCORRECT: 0.75 -> the
    second. A share between two words gets the worse one.
    """
    return words[math.ceil((1 - share) * (len(words) - 1))]


def reply(prompt: str, unclear: float = 0.0) -> str:
    """Returns the judge's reply to a prompt. ValueError for one that it cannot read."""
    offered = re.findall(r"\b[A-Z]{2,}\b", prompt.strip().splitlines()[-1])
    start = prompt.find("{")
    if start < 0 or len(offered) < 2:
        raise ValueError(
            "wanted a JSON object, and a last line that offers words in capitals, as "
            f"'CORRECT or INCORRECT'; got {prompt[-80:]!r}"
        )
    data, _ = json.JSONDecoder().raw_decode(prompt[start:])
    # The same question is unclear each time, as to a model at temperature 0.
    digest = hashlib.sha256(prompt.encode()).digest()
    if int.from_bytes(digest[:4], "big") < unclear * 2**32:
        return "That is hard to say."
    return tier(offered, share_of_facts(data[REFERENCE], data[ANSWER]))


class Handler(BaseHTTPRequestHandler):
    """Answers chat completions."""

    unclear = 0.0

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            request = json.loads(body)
            content = reply(request["messages"][-1]["content"], self.unclear)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._send(400, {"error": {"message": str(error)}})
            return
        message = {"role": "assistant", "content": content}
        self._send(200, {"model": "stand-in", "choices": [{"message": message}]})

    def log_message(self, *_):
        """Keeps silent: there are thousands of requests."""

    def _send(self, status: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Takes many connections at once."""

    request_queue_size = 128
    daemon_threads = True


def serve(port: int, unclear: float = 0.0) -> Server:
    """Returns a server on 127.0.0.1, still to be started; port 0 takes a free one."""
    handler = type("JudgeHandler", (Handler,), {"unclear": unclear})
    return Server(("127.0.0.1", port), handler)


def main():
    parser = argparse.ArgumentParser(description=WELCOME)
    parser.add_argument("--port", type=int, default=PORT, help="of 127.0.0.1")
    parser.add_argument(
        "--unclear",
        type=float,
        default=0.0,
        help="share of questions that it answers unclearly, always the same ones",
    )
    arguments = parser.parse_args()
    if not 0 <= arguments.unclear <= 1:
        parser.error(f"--unclear is {arguments.unclear}; it must be a share, as 0.1")
    try:
        server = serve(arguments.port, arguments.unclear)
    except (OSError, OverflowError) as error:
        parser.error(f"port {arguments.port}: {error}; --port=0 takes a free one")
    with server:
        port = server.server_address[1]
        print(f"http://127.0.0.1:{port}/v1 is {WELCOME}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
