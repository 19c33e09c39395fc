"""What a request is refused with: a status of HTTP and an error as the OpenAI API words it."""

import json


class Problem(Exception):
    """Ends a request with an error body.

    message: one sentence. param: the field at fault. code: a word that programs compare.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def error(self) -> dict:
        """Returns the error as it stands in a reply or in a stream."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "message": self.message,
            "type": kinds.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }

    def body(self) -> bytes:
        """Returns the body of a reply."""
        return encode({"error": self.error()})

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Returns the headers that belong to this status alone."""
        headers = []
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(self.retry_after_s).encode()))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers


def bad(param: str, message: str, code: str = "invalid_value") -> Problem:
    """Returns the refusal of a field, status 400. The sentence begins with the field's name."""
    return Problem(400, f"{param}: {message}", param=param, code=code)


def shown(value) -> str:
    """Returns a value as it may stand in a message: short, on one line, in ASCII."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    is_word = value is None or isinstance(value, bool)
    text = json.dumps(value) if is_word else ascii(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def encode(value) -> bytes:
    """Returns JSON in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair, which a tokenizer cannot make and a name in a request could hold.
    return text.encode("utf-8", errors="replace")
