"""Answers to the questions of other nodes: `POST /nodes/VERB` on the HTTP port, with this node's secret.

They are not routes of the framework, are in no document of the API, and without nodes there are none: 404 like any
other path. Who shows the secret has read it in the table of nodes, so it is a node; a load balancer has no business
here. Without the secret nothing is told but 401, not even which verbs there are.

What a stranger costs is a comparison in constant time, and no byte of a body is read for it. What a node costs is
bounded as well, since it may be out of order: bodies of BODY_BYTES, and of each verb so many questions at a time, each
of which ends.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import Problem, problem

log = logging.getLogger(__name__)

PATH: Final = "/nodes/"
BODY_BYTES: Final = 64 * 1024
"""Bytes of a question, and of an answer."""
QUESTIONS_AT_ONCE: Final = 16
"""Questions of one verb that are being read or answered: two of each of eight peers (`peer_client`), and 1 MiB."""
_MAX_NUMBER: Final = (1 << 63) - 1
"""Largest number of an app, a push or a time that nodes tell each other."""
ANSWER_SECONDS: float = 5.0
"""Time for a question to come in and to be answered. Nobody waits as long: it is asked again."""

PeerVerb = Callable[[bytes], Awaitable[bytes]]
"""Answers the body of a question, at most BODY_BYTES of it. Raises MalformedQuestion, Problem."""


class MalformedQuestion(ValueError):
    """The body of a question is not what its verb asks with; the text is for the log of who asked."""


def is_number(value: Any) -> bool:
    """Whether what a peer says is a number of a row, or a time."""
    return type(value) is int and 0 <= value <= _MAX_NUMBER


@dataclass(slots=True)
class _Verb:
    answer: PeerVerb
    under_way: int = 0


class PeerVerbs:
    """The questions that this node answers. `own_secret` gives the secret of this run. Runs on the *loop*."""

    def __init__(self, own_secret: Callable[[], str]) -> None:
        self._own_secret = own_secret
        self._verbs: dict[str, _Verb] = {}
        self.answered = 0
        """Questions answered with 200, for metrics."""
        self.strangers = 0
        """Questions without the secret, for metrics."""

    def add(self, verb: str, answer: PeerVerb) -> None:
        """Have `POST /nodes/VERB` answered by this."""
        assert verb not in self._verbs, f"{verb} is answered already"
        self._verbs[verb] = _Verb(answer)

    async def answer(self, scope: Any, receive: Callable[[], Awaitable[Any]]) -> bytes:
        """Answer a request under PATH, as ASGI has it. Raises Problem 401, 404, 400, 413, 503."""
        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        expected = b"Bearer " + self._own_secret().encode()
        if not hmac.compare_digest(_value(headers, b"authorization"), expected):
            self.strangers += 1
            raise problem("unauthorized", "nodes show each other the secret that is in their table")
        verb = self._verbs.get(scope["path"].removeprefix(PATH))
        if verb is None or scope["method"] != "POST":
            raise problem("not_found", "nodes are asked no such thing")
        if int(_value(headers, b"content-length") or 0) > BODY_BYTES:  # the HTTP parser has checked that it is a number
            raise _too_large()
        if verb.under_way >= QUESTIONS_AT_ONCE:
            raise problem("busy", f"{QUESTIONS_AT_ONCE} such questions are being answered")
        verb.under_way += 1
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await verb.answer(await _read_body(receive))
        except TimeoutError:
            raise problem("unavailable", f"it could not be answered within {ANSWER_SECONDS:g} s") from None
        except MalformedQuestion as error:
            raise problem("malformed_request", str(error)) from None
        finally:
            verb.under_way -= 1
        assert len(answer) <= BODY_BYTES, "who answers knows the limit"
        self.answered += 1
        return answer


async def _read_body(receive: Callable[[], Awaitable[Any]]) -> bytes:
    """Raises Problem 413, 400."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise problem("malformed_request", "the connection ended before the body did")
        body += message.get("body") or b""
        if len(body) > BODY_BYTES:
            raise _too_large()
        if not message.get("more_body"):
            return body


def _value(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next((value for key, value in headers if key == name), b"")


def _too_large() -> Problem:
    return problem("payload_too_large", f"nodes ask with {BODY_BYTES} bytes at most")
