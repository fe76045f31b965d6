"""Answers that people who look at the same thing share, so that twenty consoles cost little more than one.

A console asks for what is on its screen every few seconds, and most of them show the same: the overview, and the push
that was just sent. Each answer is read from the ledger, beside a stream that needs the interpreter lock as well.

Laws
1. For people alone: requests with the cookie of a session. What a program asks with a key is made for it, after it has
   asked: it sends, recalls and looks, and counts on what it sees.
2. Nobody gets an answer of which the making began more than SHARED_SECONDS before they asked.
3. Who has changed something sees it. Before a change that has an entry in the audit log is answered, the answers of its
   app are forgotten, those as well that are being made.
4. Bounded: MOST_ANSWERS of all apps, of which the oldest leave; an answer of more than MOST_BYTES is given to those who
   wait for it, and not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from fastapi import Request, Response

from gateway.auth import Principal

SHARED_SECONDS: Final = 1.0
"""Seconds for which an answer is given again: less than the pause between two looks of a console."""
MOST_ANSWERS: Final = 64
MOST_BYTES: Final = 64 * 1024
"""Bytes of an answer that is kept: a list of a hundred pushes, and 4 MiB of all."""

Question = tuple[int, frozenset[str], str, bytes]
"""App and scopes of who asks, path and query."""


class _Answer(NamedTuple):
    begun_at: float
    """Seconds."""
    making: asyncio.Task[bytes]


class SharedAnswers:
    """Answers of the last second. `monotonic` gives seconds that only grow. Runs on the *loop*."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._answers: dict[Question, _Answer] = {}
        """The oldest first."""

    async def respond(
        self, request: Request, principal: Principal, make: Callable[[], Coroutine[Any, Any, bytes]]
    ) -> Response:
        """Answer a question by the JSON that was made for others, or by what `make` makes. Raises what that raises."""
        return Response(await self._content(request, principal, make), media_type="application/json")

    def forget(self, app_no: int | None) -> None:
        """Forget the answers of an app, of which something has been changed; None: of all apps."""
        for question in [question for question in self._answers if app_no is None or question[0] == app_no]:
            del self._answers[question]

    async def _content(
        self, request: Request, principal: Principal, make: Callable[[], Coroutine[Any, Any, bytes]]
    ) -> bytes:
        if principal.session_id is None:
            return await make()
        scope = request.scope
        question: Question = (principal.app_no, principal.scopes, scope["path"], scope["query_string"])
        seconds = self._monotonic()
        self._drop(lambda answer: seconds - answer.begun_at >= SHARED_SECONDS)
        found = self._answers.get(question)
        if found is None:
            found = self._answers[question] = _Answer(seconds, asyncio.ensure_future(make()))
            found.making.add_done_callback(lambda making: self._made(question, making))
            self._drop(lambda _: len(self._answers) > MOST_ANSWERS)
        return await asyncio.shield(found.making)  # who goes away takes it from nobody else

    def _drop(self, is_to_go: Callable[[_Answer], bool]) -> None:
        """Drop the oldest answers as long as they are to go."""
        while self._answers:
            question = next(iter(self._answers))
            if not is_to_go(self._answers[question]):
                return
            del self._answers[question]

    def _made(self, question: Question, making: asyncio.Task[bytes]) -> None:
        """Keep only what may be given again. A refusal goes to those who wait for it."""
        if making.cancelled() or making.exception() is not None or len(making.result()) > MOST_BYTES:
            found = self._answers.get(question)
            if found is not None and found.making is making:
                del self._answers[question]
