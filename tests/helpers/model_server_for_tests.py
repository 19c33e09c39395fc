"""An OpenAI-compatible server that answers from a function, fails as it is told, and counts."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ModelServer:
    """What a test knows of the server: its address, and every request it was sent."""

    def __init__(self, answer: Callable[[dict, int], tuple[int, object]]):
        # answer(request, number of times that it was sent) -> status and body; a body that is a
        # text is sent as it is.
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
    choice = {"message": {"content": text, **message}, "finish_reason": reason}
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
            data = reply if isinstance(reply, str) else json.dumps(reply)
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(data.encode())))
                self.end_headers()
                self.wfile.write(data.encode())

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
