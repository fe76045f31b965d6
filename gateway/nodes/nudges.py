"""Nudges: the nodes whose devices a push is for are told that it is stored, so that they do not wait for their look.

Laws
1. A nudge is never needed: each node looks for what is new a few times a second. So nothing awaits one, none is sent
   again, and one that fails is forgotten.
2. One is under way for each peer. What comes meanwhile is merged into the next, which follows after PAUSE_SECONDS: the
   work is bounded by time, and not by the number of pushes.
3. A nudge names an app, its last push, and up to NUDGE_PUSHES pushes; of an app with more it names the last one alone.
   It says nothing about their devices: what is found is decided by what is stored.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from pyroaring import BitMap

from gateway.nodes.membership import Node
from gateway.nodes.peer_client import Ask, PeerUnavailable
from gateway.nodes.peer_routes import MalformedQuestion, is_number
from gateway.nodes.peer_tasks import PeerTasks

log = logging.getLogger(__name__)

VERB: Final = "nudge"
NUDGE_SECONDS: Final = 0.25
"""Time for a peer to answer: as long as it takes until it looks by itself."""
PAUSE_SECONDS: float = 0.02
"""Time between two nudges to one peer: the longest group of the writer, so that hardly a push waits for it. Both ends
of a nudge take some 0.6 ms of their loops together, so ten peers that are nudged all the time take 0.15 of one."""
NUDGE_PUSHES: Final = 1_000
"""Pushes that one nudge names."""
NUDGE_APPS: Final = 500
"""Apps of one nudge; those of more are in the next. With numbers of 19 digits both fit into 64 KiB."""

Follower = Callable[[int, int, Sequence[int]], None]
"""(app number, number of its last push, numbers of new pushes): called for each app of a nudge. No numbers: there are
too many to be named."""


@dataclass(slots=True)
class _News:
    """The pushes of an app that a peer has not been told of."""

    last_push_no: int = 0
    push_nos: list[int] = field(default_factory=list)
    are_all_named: bool = True

    def add(self, push_no: int) -> None:
        self.last_push_no = max(self.last_push_no, push_no)
        if len(self.push_nos) == NUDGE_PUSHES:
            self.push_nos.clear()
            self.are_all_named = False
        if self.are_all_named:
            self.push_nos.append(push_no)


class Nudges:
    """Nudges peers, and passes on the nudges of peers. `holders` names the peers that have any of these devices
    (`ConnectedSets.holders`), `ask` is that of `PeerClient`. Runs on the *loop*."""

    def __init__(self, *, holders: Callable[[BitMap | Sequence[int]], Sequence[Node]], ask: Ask) -> None:
        self._holders = holders
        self._ask = ask
        self._news: dict[Node, dict[int, _News]] = {}
        """What each peer has not been told of yet, by app."""
        self._tasks = PeerTasks()
        self._followers: list[Follower] = []
        self.sent = 0
        """Nudges that a peer has answered, for metrics."""
        self.lost = 0
        """Nudges that were not answered."""
        self.received = 0

    def follow(self, follower: Follower) -> None:
        """Have this called for each app of each nudge that comes in, on the loop."""
        self._followers.append(follower)

    def push_stored(self, app_no: int, push_no: int, device_nos: BitMap | Sequence[int]) -> None:  # Hot path.
        """Tell the nodes that have any of these devices; call it after the commit."""
        for node in self._holders(device_nos):
            news = self._news.setdefault(node, {})
            of_app = news.get(app_no)
            if of_app is None:
                of_app = news[app_no] = _News()
            of_app.add(push_no)
            if node not in self._tasks:
                self._tasks.begin(node, partial(self._tell, node, news))

    def ended(self, node: Node) -> None:
        """Forget a node that has ended."""
        self._news.pop(node, None)
        self._tasks.ended(node)

    async def end(self) -> None:
        """Tell nobody anything more."""
        self._news.clear()
        await self._tasks.end()

    async def answer(self, body: bytes) -> bytes:
        """Pass a peer's nudge on. Raises MalformedQuestion."""
        apps = _parsed(body)
        self.received += 1
        for app_no, last_push_no, push_nos in apps:
            for follower in self._followers:
                try:
                    follower(app_no, last_push_no, push_nos)
                except Exception:
                    log.exception("what follows from a nudge has failed")
        return b""

    async def _tell(self, node: Node, news: dict[int, _News]) -> None:
        while news:
            try:
                await self._ask(node, VERB, _next_nudge(news), NUDGE_SECONDS)
                self.sent += 1
            except PeerUnavailable:
                self.lost += 1  # it looks by itself
            await asyncio.sleep(PAUSE_SECONDS)


def _next_nudge(news: dict[int, _News]) -> bytes:
    """Take as much as fits into one nudge."""
    apps: list[tuple[int, int, list[int]]] = []
    room = NUDGE_PUSHES
    for app_no in list(news)[:NUDGE_APPS]:
        of_app = news.pop(app_no)
        push_nos = of_app.push_nos if len(of_app.push_nos) <= room else []
        room -= len(push_nos)
        apps.append((app_no, of_app.last_push_no, push_nos))
    return json.dumps(apps, separators=(",", ":")).encode()


def _parsed(body: bytes) -> list[tuple[int, int, list[int]]]:
    """Raises MalformedQuestion."""
    try:
        apps = json.loads(body)
        if not isinstance(apps, list) or len(apps) > NUDGE_APPS:
            raise MalformedQuestion("a nudge is a list of apps")
        found = [(app_no, last_push_no, push_nos) for app_no, last_push_no, push_nos in apps]
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedQuestion(f"this is no nudge: {error}") from None
    for app_no, last_push_no, push_nos in found:
        if not isinstance(push_nos, list) or len(push_nos) > NUDGE_PUSHES:
            raise MalformedQuestion(f"a nudge names {NUDGE_PUSHES} pushes at most")
        if not all(map(is_number, (app_no, last_push_no, *push_nos))):
            raise MalformedQuestion("apps and pushes have numbers")
    return found
