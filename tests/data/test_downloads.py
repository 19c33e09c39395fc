"""Images at addresses: from hosts that are named, of bounded size, and never by training."""

import contextlib
import http.server
import json
import threading

import pytest
from test_schemas import digit
from tools_for_tests import run_tool

from r1v3_jax.data import Rows, downloads
from r1v3_jax.data.downloads import Downloads
from r1v3_jax.processing import image_files
from r1v3_jax.processing.image_files import ImageError
from r1v3_jax.types import DroppedRow

HERE = Downloads(("127.0.0.1",))


@pytest.fixture
def server():
    """(its address, the paths it was asked for)."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            with contextlib.suppress(ConnectionError):
                self.reply()

        def reply(self):
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/7.png")
                self.send_header(
                    "Content-Length", "1000"
                )  # and none of them: nobody waits for it
            elif self.path == "/elsewhere":  # the same machine under another name
                self.send_response(302)
                self.send_header(
                    "Location", f"http://localhost:{self.server.server_port}/7.png"
                )
            elif self.path == "/busy" and asked.count("/busy") < 3:
                self.send_response(503)
            elif self.path in (
                "/7.png",
                "/7%20%C3%BC.png",
                "/busy",
                "/short",
                "/large",
            ):
                data = (
                    digit(7)
                    if self.path != "/large"
                    else bytes(image_files.MAX_BYTES + 1)
                )
                self.send_response(200)
                self.send_header(
                    "Content-Length", str(len(data) + (self.path == "/short"))
                )
                self.end_headers()
                self.wfile.write(data)
                return
            else:
                self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as here:
        threading.Thread(target=here.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{here.server_port}", asked
        here.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(downloads.time, "sleep", lambda _: None)


def test_a_file_is_fetched_also_where_it_has_moved_to_and_from_a_busy_server(server):
    address, asked = server
    for path in ("/7.png", "/7 ü.png", "/moved", "/busy"):
        assert HERE.fetch(address + path) == digit(7)
    assert asked == [
        "/7.png",
        "/7%20%C3%BC.png",
        "/moved",
        "/7.png",
        "/busy",
        "/busy",
        "/busy",
    ]


@pytest.mark.parametrize(
    "path, reason, tries",
    [("/none", "image_missing", 1), ("/short", "image_missing", 3), ("/large", "image_size", 1),
     ("/elsewhere", "image_path", 1)],
)  # fmt: skip
def test_what_is_not_to_be_had_says_why(server, path, reason, tries):
    address, asked = server
    with pytest.raises(ImageError) as error:
        HERE.fetch(address + path)
    assert error.value.reason == reason and asked == [path] * tries


@pytest.mark.parametrize(
    "address",
    ["http://169.254.169.254/a.png", "http://localhost/a.png", "https://127.0.0.1.evil.org/a.png",
     "http://127.0.0.1@evil.org/", "file:///etc/passwd", "ftp://127.0.0.1/a", "http://[::1",
     "http:"],
)  # fmt: skip
def test_hosts_that_are_not_named_are_not_asked(address, monkeypatch):
    def nobody(*_, **__):
        raise AssertionError("asked")

    monkeypatch.setattr(downloads.urllib.request, "build_opener", nobody)
    with pytest.raises(ImageError) as error:
        HERE.fetch(address)
    assert error.value.reason == "image_path"


def test_a_host_is_a_name():
    for host in ("", "http://a.org", "a.org:80", "a.org/b", "A.org"):
        with pytest.raises(ValueError, match="is no host"):
            Downloads((host,))


def test_only_converting_downloads(server, tmp_path):
    address, asked = server
    names = ["7.png", "none", "elsewhere", "7.png "]
    lines = [
        {
            "id": str(i),
            "question": "Which?",
            "answer": "7",
            "images": [f"{address}/{name}"],
        }
        for i, name in enumerate(names)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DroppedRow) as error:
        Rows(str(tmp_path / "rows.jsonl")).row(0)
    assert error.value.reason == "image_path" and "--download=HOST" in str(error.value)
    assert not asked
    done = run_tool(
        "convert_data", f"--data={tmp_path}/rows.jsonl", "--to=parquet", f"--out={tmp_path}/out",
        "--download=127.0.0.1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    drops = [
        json.loads(line)
        for line in (tmp_path / "out/drops.jsonl").read_text().splitlines()
    ]
    assert [(drop["row"], drop["reason"]) for drop in drops] == [
        (1, "image_missing"), (2, "image_path"),
    ]  # fmt: skip
    after = Rows(f"{tmp_path}/out", cache=str(tmp_path / "cache"))
    assert [after.row(i).id for i in range(2)] == ["0", "3"]
    assert after.row(0).images[0].read() == digit(7)
