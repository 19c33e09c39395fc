"""Images at addresses, fetched once, when data is converted: training downloads nothing.

A row is a stranger's, and an address in it may lead into one's own network. So only hosts are asked
that the user has named, also by a redirect.
"""

import dataclasses
import http.client
import string
import time
import urllib.error
import urllib.parse
import urllib.request

from r1v3_jax.processing.image_files import MAX_BYTES, ImageError

TRIES = 3
TIMEOUT_S = 20  # without a byte
DEADLINE_S = 120  # of a whole file


def is_address(name: str) -> bool:
    return name[:8].lower().startswith(("http://", "https://"))


@dataclasses.dataclass(frozen=True)
class Downloads:
    """What may be fetched. hosts: as they stand in addresses, without a port.

    ValueError for a host that is no name of one.
    """

    hosts: tuple[str, ...]

    def __post_init__(self):
        for host in self.hosts:
            if not host or urllib.parse.urlsplit(f"//{host}").hostname != host:
                raise ValueError(
                    f"{host!r} is no host; give names such as images.example.com, in lower case, "
                    "without scheme, port or path"
                )

    def fetch(self, address: str) -> bytes:
        """The file at an address, at most MAX_BYTES of it. ImageError if it is not to be had:
        "image_path" for another host, "image_size", "image_missing".
        """
        address = urllib.parse.quote(
            address, safe=string.punctuation
        )  # a space, an umlaut
        self.check(address)
        opener = urllib.request.build_opener(_Redirects(self))
        request = urllib.request.Request(address, headers={"User-Agent": "r1v3_jax"})
        for tried in range(1, TRIES + 1):
            try:
                with opener.open(request, timeout=TIMEOUT_S) as answer:
                    return _read(answer, address)
            except ImageError:
                raise
            except (
                Exception
            ) as error:  # of the network, or of a server that speaks no HTTP
                final = isinstance(error, (ValueError, http.client.InvalidURL))
                if isinstance(error, urllib.error.HTTPError):
                    final = 400 <= error.code < 500 and error.code not in (408, 429)
                if tried == TRIES or final:
                    text = (
                        f"{address[:200]!r}: got {error!r}, wanted a file; drop the row"
                    )
                    raise ImageError(text, "image_missing") from error
                time.sleep(2.0 ** (tried - 1))

    def check(self, address: str) -> None:
        """ImageError if an address may not be asked."""
        try:
            parts = urllib.parse.urlsplit(address)
            host = parts.hostname if parts.scheme in ("http", "https") else None
        except ValueError:
            host = None
        if host not in self.hosts:
            text = (
                f"{address[:200]!r}: got the host {host!r}, wanted one of {', '.join(self.hosts)}; "
                "allow it if you trust it"
            )
            raise ImageError(text, "image_path")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows an answer to hosts that are allowed."""

    def __init__(self, downloads: Downloads):
        self.downloads = downloads

    def redirect_request(self, request, file, code, message, headers, address):
        self.downloads.check(address)
        file.close()  # or urllib reads what comes with it, however much
        return super().redirect_request(request, file, code, message, headers, address)


def _read(answer, address: str) -> bytes:
    end, data = time.monotonic() + DEADLINE_S, bytearray()
    while part := answer.read1(1 << 16):
        data += part
        if len(data) > MAX_BYTES:
            text = f"{address[:200]!r}: got more than {MAX_BYTES:,} bytes, wanted at most that many"
            raise ImageError(f"{text}; drop the row", "image_size")
        if time.monotonic() > end:
            raise TimeoutError(f"not there after {DEADLINE_S} s")
    if answer.length:  # what the server has promised and not sent
        raise ConnectionError(f"{answer.length} bytes are missing")
    return bytes(data)
