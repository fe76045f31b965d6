"""The event feed: pages of the event log for those who follow it, and a call when there are more.

Nothing is read while nobody follows. A follower is told that its app has new entries, at most five times a second, and
reads pages at its own pace from its own position: a slow one costs no memory here, and loses nothing that is still in
the log. What has left is said in its place, by an event `events.lost`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from gateway.errors import problem
from gateway.pages import to_json
from gateway.store.database import Database
from gateway.store.deliveries.event_log import (
    TYPES,
    EventPage,
    Position,
    last_position,
    lost_before,
    make_event,
    newest_entries,
    read_events,
)
from gateway.store.protocols import Timers
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

SHARED_BYTES = 8 * 1024 * 1024
"""Bytes of pages that are kept because several streams may be about to read them: a page of each of eight apps, as
large as pages are."""
EVENT_BYTES = 400
"""Bytes of an event besides its JSON: its objects, its id as text, its place in the page."""
LINGER_SECONDS = 0.2
"""Seconds that entries gather before their followers are told."""
MAX_STREAMS = 200
"""`GET /v1/events` at a time."""
STREAMS_OF_KEY = 20
"""Streams of one key."""
STREAMS_OF_APP = 100
"""Streams of one app, whatever its keys."""


class Follower:
    """A follower of an app's events. `wake` is called on the *loop* when there may be more of them, or the feed has
    ended."""

    __slots__ = ("app_no", "wake")

    def __init__(self, app_no: int, wake: Callable[[], None]) -> None:
        self.app_no = app_no
        self.wake = wake


class EventFeed:
    """Wakes followers of the event log and reads pages for them. `clock_ms` gives server time in milliseconds. Runs on
    the *loop*; pages are read by readers."""

    def __init__(self, *, database: Database, clock_ms: Callable[[], int], timers: Timers) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._timers = timers
        self._followers: dict[Follower, None] = {}
        self._scheduled = False
        self.seen: dict[int, int] = {}
        """App number -> the last entry that its followers have been told of; of the apps that are followed."""
        self.ended = False
        self._shared: dict[tuple[int, Position, int, str | None], asyncio.Future[EventPage]] = {}
        self._shared_bytes = 0
        self._streams: Counter[tuple[int, str]] = Counter()
        """App number and key id -> how many it has open."""
        self.streams_refused = 0
        """Streams refused, for metrics."""
        self.streams_stalled = 0
        """Ended because nobody read them, for metrics."""
        database.follow_groups(self._grown)

    def follow(self, app_no: int, wake: Callable[[], None]) -> Follower:
        follower = Follower(app_no, wake)
        self._followers[follower] = None
        return follower

    def unfollow(self, follower: Follower) -> None:
        self._followers.pop(follower, None)

    @property
    def streams(self) -> int:
        """Open ones, for metrics."""
        return self._streams.total()

    def admit_stream(self, app_no: int, key_id: str) -> None:
        """Admit one more stream for the holder of a key. Raises Problem 429 when it may not have one."""
        of_app = sum(count for (owner, _), count in self._streams.items() if owner == app_no)
        if self.streams >= MAX_STREAMS or of_app >= STREAMS_OF_APP or self._streams[app_no, key_id] >= STREAMS_OF_KEY:
            self.streams_refused += 1
            log.warning(
                "app %d: a stream of events is refused: %d are open, %d of this app, %d of its key %s",
                app_no, self.streams, of_app, self._streams[app_no, key_id], key_id,
            )  # fmt: skip
            raise problem(
                "too_many_streams",
                f"there are {MAX_STREAMS} streams at most, {STREAMS_OF_APP} of an app and {STREAMS_OF_KEY} of a key:"
                " end one, or use a webhook",
            )

    @contextmanager
    def stream(self, app_no: int, key_id: str) -> Iterator[None]:
        """Count a stream while it is open."""
        self._streams[app_no, key_id] += 1
        try:
            yield
        finally:
            self._streams[app_no, key_id] -= 1
            self._streams += Counter()  # forgets who has none

    def end(self) -> None:
        """The server is ending: who waits is woken and finds `ended`."""
        self.ended = True
        for follower in list(self._followers):
            follower.wake()

    async def last(self, app_no: int) -> Position:
        """The end of an app's log."""
        return await self._database.read_soon(partial(last_position, app_no=app_no))

    async def read(
        self,
        app_no: int,
        after: Position,
        limit: int,
        wanted: Callable[[str], bool],
        lane: int = 0,
        lanes: int = 1,
    ) -> EventPage:
        """Read a page as `read_events` does. Behind what has left the log it begins with `events.lost`."""

        def read(transaction: Transaction) -> EventPage:
            lost = lost_before(transaction, app_no, after)
            if lost is None:
                return read_events(transaction, app_no, after, limit, wanted, lane, lanes)
            page = read_events(transaction, app_no, lost, limit, wanted, lane, lanes)
            event = make_event(lost, "events.lost", self._clock_ms(), to_json({"after": str(after)}))
            return EventPage([(lost, event), *page.events], page.position, page.more)

        return await self._database.read(read, app_no)

    async def read_shared(self, app_no: int, after: Position, limit: int, types: str | None) -> EventPage:
        """Read a page as `read` does, once for all that ask for it at about the same time. The types are given as
        people give them (see `wanted_types`). It may end before what has come since."""
        key = app_no, after, limit, types
        reading = self._shared.get(key)
        if reading is None:
            reading = asyncio.ensure_future(self.read(app_no, after, limit, wanted_types(types)))
            self._shared[key] = reading
            reading.add_done_callback(lambda reading: self._keep_page(key, reading))
        return await asyncio.shield(reading)

    def _keep_page(self, key: tuple[int, Position, int, str | None], reading: asyncio.Future[EventPage]) -> None:
        """A page that was read is kept for others while it is among the newest SHARED_BYTES."""
        del self._shared[key]
        if reading.cancelled() or reading.exception() is not None or not reading.result().events:
            return
        self._shared[key] = reading  # as the newest
        self._shared_bytes += _size(reading)
        for older, kept in list(self._shared.items()):
            if self._shared_bytes <= SHARED_BYTES:
                return
            if kept.done():
                self._shared_bytes -= _size(self._shared.pop(older))

    def find_new(self) -> None:
        """Find what other nodes have added, if anybody follows. Called a few times a second where there are some."""
        if self._followers and not self._scheduled:
            self._scheduled = True
            self._find_new_entries()

    def _grown(self) -> None:
        """A group has committed."""
        if self._followers and not self._scheduled and not self.ended:
            self._scheduled = True
            self._timers.call_later(LINGER_SECONDS, self._find_new_entries)

    def _find_new_entries(self) -> None:
        self._scheduled = False
        if self.ended:
            return
        self._database.look_up(
            partial(newest_entries, apps={follower.app_no for follower in self._followers}),
            self._found,
            lambda error: log.error("the event log cannot be read: %s", error),
        )

    def _found(self, newest: dict[int, int]) -> None:
        grown = {app_no for app_no, no in newest.items() if no > self.seen.get(app_no, 0)}
        self.seen = newest
        for follower in list(self._followers):
            if follower.app_no in grown:
                follower.wake()


def _size(read: asyncio.Future[EventPage]) -> int:
    return sum(EVENT_BYTES + len(event.json) for _, event in read.result().events)


def wanted_types(types: str | None) -> Callable[[str], bool]:
    """Make the filter of `type_filter` from names with commas between them. Raises Problem 422."""
    return type_filter(None if types is None else types.split(","))


def type_filter(types: list[str] | None) -> Callable[[str], bool]:
    """Whether a type is among those asked for: names, or their beginnings with `*`. None: all. Raises Problem 422."""
    if types is None or "*" in types:
        return lambda event: True
    chosen: set[str] = set()
    for name in types:
        found = [event for event in TYPES if event == name or (name.endswith(".*") and event.startswith(name[:-1]))]
        if not found:
            raise problem("invalid_request", f"types: no event is called {name!r}; there are {', '.join(TYPES)}")
        chosen.update(found)
    return chosen.__contains__
