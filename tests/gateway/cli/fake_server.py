"""As much of a server as the command line sees: what it is asked is kept, and it answers what the test says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
from typer.testing import CliRunner

from gateway.cli import app
from gateway.cli.server_client import ServerClient
from gateway.cli.terminal import Failure

URL = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    stdout: str
    stderr: str


def run_command(*arguments: str, input: bytes | None = None) -> Outcome:
    """A command, as it is typed, in this process."""
    result = CliRunner().invoke(app, list(arguments), input=input)
    if isinstance(result.exception, Failure):  # what `main` makes of it
        said = f"{result.stderr}fleetpush: {result.exception}\n"
        return Outcome(result.exception.exit_code, result.stdout, said)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


Answer = Callable[[Request], Any]
"""JSON for a 200, or a whole answer."""


class FakeServer:
    """`answer` decides; without it a list is empty and everything else is `{}`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Answer = lambda request: {"items": [], "next_cursor": None}

    def client(self) -> ServerClient:
        client = ServerClient(URL, "key_test")
        client._client.close()
        client._client = httpx2.Client(base_url=URL, transport=httpx2.MockTransport(self._serve))
        return client

    def _serve(self, request: httpx2.Request) -> httpx2.Response:
        asked = Request(
            request.method,
            request.url.path,
            dict(request.url.params),
            {name.lower(): value for name, value in request.headers.items()},
            request.read(),
        )
        self.requests.append(asked)
        answer = self.answer(asked)
        return answer if isinstance(answer, httpx2.Response) else httpx2.Response(200, json=answer)

    def run(self, *arguments: str, input: bytes | None = None) -> Outcome:
        return run_command(*arguments, input=input)

    @property
    def only(self) -> Request:
        (request,) = self.requests
        return request


def problem(status: int, code: str, detail: str = "no", *, retryable: bool = False) -> httpx2.Response:
    document = {"type": "/docs/problems", "title": "No", "status": status, "code": code, "detail": detail}
    return httpx2.Response(status, json=document | {"retryable": retryable})


def pages_of(items: list[Any], *, page: int = 1000) -> Answer:
    """A list that gives at most `page` items at a time."""

    def answer(request: Request) -> Any:
        start = int(request.query.get("cursor", "0"))
        end = start + min(page, int(request.query["limit"]))
        return {"items": items[start:end], "next_cursor": str(end) if end < len(items) else None}

    return answer
