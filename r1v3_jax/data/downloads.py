"""Images at addresses, fetched once, when data is converted: training downloads nothing.

A row is a stranger's, and an address in it may lead into one's own network. So requests go only to
hosts that the user has named, also after a redirect.
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
READ_BYTES = 1 << 16  # at a time
# Status codes of the 400s that may pass: request timeout, too many requests.
RETRIED_CODES = (408, 429)


def is_address(name: str) -> bool:
    """Whether an image is named by an address on the web and not by a path."""
    return name[:8].lower().startswith(("http://", "https://"))


@dataclasses.dataclass(frozen=True)
class Downloads:
    """What may be fetched: files at addresses with one of these hosts.

    ValueError for a host that is no name of one.
    """

    hosts: tuple[
        str, ...
    ]  # as they are in addresses, without a port: "images.example.com"

    def __post_init__(self):
        for host in self.hosts:
            # A host that is read back as another one would never match an address: "A.org" is
            # a.org there, and "a.org:80" is a host with a port.
            if not host or urllib.parse.urlsplit(f"//{host}").hostname != host:
                raise ValueError(
                    f"{host!r} is no host; give names such as images.example.com, in lower case, "
                    "without scheme, port or path"
                )

    def fetch(self, address: str) -> bytes:
        """Fetches the file at an address, at most MAX_BYTES of it.

        ImageError if it is not available: "image_path" for a host that is not allowed,
        "image_size" for a file that is too large, "image_missing" for any other reason.
        """
        # Rows have addresses as people write them, with spaces and umlauts.
        address = urllib.parse.quote(address, safe=string.punctuation)
        self.check(address)
        opener = urllib.request.build_opener(_Redirects(self))
        request = urllib.request.Request(address, headers={"User-Agent": "r1v3_jax"})
        for attempt in range(1, TRIES + 1):
            try:
                with opener.open(request, timeout=TIMEOUT_S) as response:
                    return _read(response, address)
            except ImageError:
                raise  # a refusal of ours: another attempt would end the same
            except Exception as error:
                # The network fails in many ways, and a server may answer what is no HTTP at all.
                if attempt == TRIES or _is_final(error):
                    text = (
                        f"{address[:200]!r}: got {error!r}, wanted a file; drop the row"
                    )
                    raise ImageError(text, "image_missing") from error
                time.sleep(2.0 ** (attempt - 1))  # 1 s, then 2 s

    def check(self, address: str) -> None:
        """ImageError if the host of an address is not allowed."""
        try:
            parts = urllib.parse.urlsplit(address)
            host = parts.hostname if parts.scheme in ("http", "https") else None
        except ValueError:
            host = None
        # `hostname` is what a request goes to: http://a.org@evil.org/ has the host evil.org.
        if host not in self.hosts:
            text = (
                f"{address[:200]!r}: got the host {host!r}, wanted one of {', '.join(self.hosts)}; "
                "allow it if you trust it"
            )
            raise ImageError(text, "image_path")


def _is_final(error: Exception) -> bool:
    """Whether another attempt would end the same: a bad address, or 404 Not Found."""
    if isinstance(error, urllib.error.HTTPError):
        return 400 <= error.code < 500 and error.code not in RETRIED_CODES
    return isinstance(error, (ValueError, http.client.InvalidURL))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to hosts that are allowed; ImageError for others."""

    def __init__(self, downloads: Downloads):
        self.downloads = downloads

    def redirect_request(self, request, file, code, message, headers, address):
        self.downloads.check(address)
        # urllib would read the body of the redirect before it goes on, however long that is.
        file.close()
        return super().redirect_request(request, file, code, message, headers, address)


def _read(response, address: str) -> bytes:
    """Reads a response to its end; ImageError if it is longer than MAX_BYTES."""
    # TIMEOUT_S alone would let a server send a byte every 19 seconds, for ever.
    deadline = time.monotonic() + DEADLINE_S
    data = bytearray()
    while part := response.read1(READ_BYTES):
        data += part
        if len(data) > MAX_BYTES:
            text = f"{address[:200]!r}: got more than {MAX_BYTES:,} bytes, wanted at most that many"
            raise ImageError(f"{text}; drop the row", "image_size")
        if time.monotonic() > deadline:
            raise TimeoutError(f"not there after {DEADLINE_S} s")
    if response.length:  # bytes that the server has promised and not sent
        raise ConnectionError(f"{response.length} bytes are missing")
    return bytes(data)
