"""Images at addresses: from hosts that are named, of bounded size, and never by training."""

import contextlib
import http.server
import json
import threading

import pytest
from rows_for_tests import digit
from tools_for_tests import run_tool

from r1v3_jax.data import Rows, downloads
from r1v3_jax.data.downloads import Downloads
from r1v3_jax.processing import image_files
from r1v3_jax.processing.image_files import ImageError
from r1v3_jax.types import DroppedRow

LOCAL = Downloads(("127.0.0.1",))


class Handler(http.server.BaseHTTPRequestHandler):
    """A server of pictures, some of which are elsewhere, late, cut short or too large."""

    def do_GET(self):
        self.server.requested.append(self.path)
        with contextlib.suppress(ConnectionError):
            self.reply()

    def reply(self):
        port = self.server.server_port
        is_busy = self.server.requested.count("/busy") < 3
        if self.path == "/moved":
            # Content that never comes: nobody waits for it.
            self.send_headers(302, {"Location": "/7.png", "Content-Length": "1000"})
        elif self.path == "/elsewhere":  # the same machine under another name
            self.send_headers(302, {"Location": f"http://localhost:{port}/7.png"})
        elif self.path == "/busy" and is_busy:
            self.send_headers(503)
        elif self.path == "/large":
            self.send_file(bytes(image_files.MAX_BYTES + 1))
        elif self.path == "/short":
            self.send_file(digit(7), missing=1)
        elif self.path in ("/7.png", "/7%20%C3%BC.png", "/busy"):
            self.send_file(digit(7))
        else:
            self.send_headers(404)

    def send_headers(self, code, headers=None):
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def send_file(self, data, missing=0):
        self.send_headers(200, {"Content-Length": str(len(data) + missing)})
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """(its address, the paths that were requested)."""
    local = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    local.requested = []
    with local:
        threading.Thread(target=local.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{local.server_port}", local.requested
        local.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(downloads.time, "sleep", lambda _: None)


def test_a_file_is_fetched_also_where_it_has_moved_to_and_from_a_busy_server(server):
    address, requested = server
    for path in ("/7.png", "/7 ü.png", "/moved", "/busy"):
        assert LOCAL.fetch(address + path) == digit(7)
    expected = ["/7.png", "/7%20%C3%BC.png", "/moved", "/7.png", *["/busy"] * 3]
    assert requested == expected


@pytest.mark.parametrize(
    "path, reason, tries",
    [
        ("/none", "image_missing", 1),
        ("/short", "image_missing", 3),
        ("/large", "image_size", 1),
        ("/elsewhere", "image_path", 1),
    ],
)
def test_what_is_not_to_be_had_says_why(server, path, reason, tries):
    address, requested = server
    with pytest.raises(ImageError) as error:
        LOCAL.fetch(address + path)
    assert error.value.reason == reason and requested == [path] * tries


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/a.png",
        "http://localhost/a.png",
        "https://127.0.0.1.evil.org/a.png",
        "http://127.0.0.1@evil.org/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "http://[::1",
        "http:",
    ],
)
def test_hosts_that_are_not_named_are_not_asked(address, monkeypatch):
    def nobody(*_, **__):
        raise AssertionError("asked")

    monkeypatch.setattr(downloads.urllib.request, "build_opener", nobody)
    with pytest.raises(ImageError) as error:
        LOCAL.fetch(address)
    assert error.value.reason == "image_path"


def test_a_host_is_a_name():
    for host in ("", "http://a.org", "a.org:80", "a.org/b", "A.org"):
        with pytest.raises(ValueError, match="is no host"):
            Downloads((host,))


def test_only_converting_downloads(server, tmp_path):
    address, requested = server
    names = ["7.png", "none", "elsewhere", "7.png "]
    lines = []
    for i, name in enumerate(names):
        images = [f"{address}/{name}"]
        row = {"id": str(i), "question": "Which?", "answer": "7", "images": images}
        lines.append(json.dumps(row))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(DroppedRow) as error:
        Rows(str(tmp_path / "rows.jsonl")).row(0)
    assert error.value.reason == "image_path" and "--download=HOST" in str(error.value)
    assert not requested
    process = run_tool(
        "convert_data",
        f"--data={tmp_path}/rows.jsonl",
        "--to=parquet",
        f"--out={tmp_path}/out",
        "--download=127.0.0.1",
    )
    assert process.returncode == 0, process.stderr
    lines = (tmp_path / "out/drops.jsonl").read_text().splitlines()
    drops = [json.loads(line) for line in lines]
    reasons = [(drop["row"], drop["reason"]) for drop in drops]
    assert reasons == [(1, "image_missing"), (2, "image_path")]
    after = Rows(f"{tmp_path}/out", cache=str(tmp_path / "cache"))
    assert [after.row(i).id for i in range(2)] == ["0", "3"]
    assert after.row(0).images[0].read() == digit(7)
