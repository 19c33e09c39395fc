"""Requests to a server as a client sends them, over the standard library and over sockets."""

import base64
import http.client
import json
import socket
import urllib.parse

MESSAGES = [{"role": "user", "content": "hi there"}]


def data_uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def body(**given) -> dict:
    """Returns a chat completion's body; `messages` and all other fields may be given."""
    return {"model": "r1v3", "messages": MESSAGES, **given}


def ask(
    url: str,
    request=None,
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    headers: dict | None = None,
    timeout: float = 60,
):
    """Sends one request; returns (status, the JSON of the reply, its headers).

    request: an object, or bytes that are sent as they are.
    """
    data = (
        request if isinstance(request, bytes | None) else json.dumps(request).encode()
    )
    connection = connect(url, timeout)
    try:
        kind = {"Content-Type": "application/json"} if data is not None else {}
        connection.request(method, path, data, kind | (headers or {}))
        reply = connection.getresponse()
        text = reply.read()
        is_json = reply.headers.get("Content-Type", "").startswith("application/json")
        return (
            reply.status,
            json.loads(text) if is_json else text.decode(),
            reply.headers,
        )
    finally:
        connection.close()


def get(url: str, path: str, **options):
    return ask(url, method="GET", path=path, **options)


def connect(url: str, timeout: float = 60) -> http.client.HTTPConnection:
    address = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(address.hostname, address.port, timeout=timeout)


def open_socket(url: str, timeout: float = 60) -> socket.socket:
    address = urllib.parse.urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout)


def raw(request, path: str = "/v1/chat/completions", headers: str = "") -> bytes:
    """Returns a request as the bytes of a connection."""
    data = request if isinstance(request, bytes) else json.dumps(request).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n{headers}\r\n"
    )
    return head.encode() + data


def receive(client: socket.socket) -> tuple[int, dict]:
    """Returns status and JSON of the reply on a connection, in however many pieces it comes."""
    reply = http.client.HTTPResponse(client)
    reply.begin()
    return reply.status, json.loads(reply.read())


def events(stream: bytes) -> list:
    """Returns the events of a stream; the last one is "[DONE]"."""
    found = []
    for block in stream.decode().split("\n\n"):
        if block.startswith("data: "):
            text = block.removeprefix("data: ")
            found.append(text if text == "[DONE]" else json.loads(text))
    return found


def wait_until(condition, seconds: float = 10) -> bool:
    """Returns whether a condition came true in time."""
    import time

    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
