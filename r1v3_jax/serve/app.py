"""The routes of the server, who may use them, and what every wrong address is answered."""

import hashlib
import hmac
import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from r1v3_jax.engine.requests import Answering
from r1v3_jax.serve.bodies import refuse
from r1v3_jax.serve.completions import ChatCompletions
from r1v3_jax.serve.fields import Limits
from r1v3_jax.serve.metrics import Metrics
from r1v3_jax.serve.problems import Problem, encode

ENDPOINTS = "GET /v1/models, POST /v1/chat/completions, GET /health, GET /metrics"


class App:
    """The server's application: `asgi` is what uvicorn runs."""

    def __init__(
        self,
        engine: Answering,
        names: tuple[str, ...],
        limits: Limits,
        api_key: str = "",
    ):
        """names: of the model, then its aliases. api_key: empty: whoever reaches it may use it."""
        self.engine = engine
        self.names = names
        self.metrics = Metrics()
        self.completions = ChatCompletions(engine, names, limits, self.metrics)
        self.created = int(time.time())
        self.key_digest = hashlib.sha256(api_key.encode()).digest() if api_key else None
        self.starlette = Starlette(
            routes=[
                Route("/v1/models", self.models, methods=["GET"]),
                Route("/v1/models/{name:path}", self.model, methods=["GET"]),
                Route("/v1/chat/completions", self.completions, methods=["POST"]),
                Route("/health", self.health, methods=["GET"]),
                Route("/metrics", self.show_metrics, methods=["GET"]),
            ],
            exception_handlers={HTTPException: _wrong_address, Problem: _problem},
        )

    async def asgi(self, scope, receive, send) -> None:
        """Answers one exchange. Whoever has no key gets no further, and no body of his is read."""
        is_guarded = scope["type"] == "http" and scope["path"].startswith("/v1")
        if is_guarded and not self.has_key(scope):
            problem = Problem(
                401,
                "wrong or missing API key; send the header Authorization: Bearer KEY",
                code="invalid_api_key",
            )
            await refuse(receive, send, problem, body_is_read=False)
            return
        await self.starlette(scope, receive, send)

    def has_key(self, scope) -> bool:
        """Whether a request has the key. Takes as long for any wrong one."""
        if self.key_digest is None:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, key = given.partition(b" ")
        is_bearer = kind.lower() == b"bearer"
        digest = hashlib.sha256(key.strip()).digest()
        return hmac.compare_digest(digest, self.key_digest) and is_bearer

    async def models(self, _: Request) -> Response:
        """Lists the model by all its names."""
        return _json(
            {"object": "list", "data": [self.describe(name) for name in self.names]}
        )

    async def model(self, request: Request) -> Response:
        """Describes one model."""
        name = request.path_params["name"]
        if name not in self.names:
            known = ", ".join(self.names)
            message = f"there is no such model here; there is {known}"
            raise Problem(404, message, param="model", code="model_not_found")
        return _json(self.describe(name))

    def describe(self, name: str) -> dict:
        """Returns the model as the API lists it."""
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "r1v3_jax",
            "root": self.names[0],
            "max_model_len": self.engine.max_model_len,
        }

    async def health(self, _: Request) -> Response:
        """Says whether a request would be taken: 200, or 503 while it loads or shuts down."""
        self.completions.check_open()
        return _json({"status": "ok"})

    async def show_metrics(self, _: Request) -> Response:
        """Writes the numbers as Prometheus reads them."""
        numbers = self.engine.numbers() if self.engine.ready else None
        return Response(
            self.metrics.text(numbers),
            media_type="text/plain; version=0.0.4; charset=utf-8",
        )


def _json(value: dict) -> Response:
    return Response(encode(value), media_type="application/json")


async def _wrong_address(request: Request, error: HTTPException) -> Response:
    problem = Problem(
        error.status_code,
        f"no {request.method[:10]} at this address; there are {ENDPOINTS}",
        code="not_found" if error.status_code == 404 else "method_not_allowed",
    )
    response = await _problem(request, problem)
    response.headers.update(error.headers or {})
    return response


async def _problem(_: Request, problem: Problem) -> Response:
    response = Response(problem.body(), problem.status, media_type="application/json")
    for name, value in problem.headers():
        response.headers[name.decode()] = value.decode()
    return response
