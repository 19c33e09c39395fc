"""An OpenAI-compatible server that answers from a function, fails as it is told, and counts."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAUSE_S = 0.05  # between the pieces of a body


class ModelServer:
    """What a test knows of the server: its address, and every request it was sent."""

    def __init__(self, answer: Callable[[dict, int], tuple[int, object]]):
        # answer(request, number of times that it was sent) -> status and body. A body that is a
        # text is sent as it is, a list of texts piece by piece, with a pause after each.
        self.answer = answer
        self.requests: list[dict] = []
        self.lock = threading.Lock()
        self.url = ""

    def count(self, request: dict) -> int:
        """Adds a request, and returns how often it has been sent."""
        with self.lock:
            self.requests.append(request)
            return self.requests.count(request)


def completion(text: str | None, tokens: int = 7, **message) -> dict:
    """Returns the body of a reply."""
    reason = message.pop("finish_reason", "stop")
    message = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"choices": [choice], "usage": {"completion_tokens": tokens}}


def text_of(request: dict) -> str:
    """Returns the texts of a request."""
    content = request["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


@contextlib.contextmanager
def model_server(answer) -> Iterator[ModelServer]:
    """Yields a running server."""
    model = ModelServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = json.loads(body)
            status, reply = model.answer(request, model.count(request))
            pieces = reply if isinstance(reply, list) else [reply]
            data = [x if isinstance(x, str) else json.dumps(x) for x in pieces]
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len("".join(data).encode())))
                self.end_headers()
                for piece in data:
                    self.wfile.write(piece.encode())
                    if len(data) > 1:
                        time.sleep(PAUSE_S)

        def log_message(self, *_):
            """Keeps silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    model.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
