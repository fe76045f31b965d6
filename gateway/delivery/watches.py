"""Watches: a sender has said that it sends at least every so often, and somebody is told when it does not.

The nightly price list that has not been sent since March is noticed by nobody: no push, no error. So a sender declares
itself, or somebody declares it: a watch is over what an app sends, on a channel, by a key, or at all. It is silent when
nothing that fits was accepted for as long as it says.

Laws
1. Only what a key has sent counts, once it is on disk: not the steps of duties, not beats, and no repetition under an
   idempotency key.
2. A server that was down is no silence of the sender: that time is added, and after a start a sender has GRACE_MS at
   least, and the whole of its time at most.

Cost: watches are in memory, MAX_WATCHES of an app; an accepted push is compared with those of its app. When it was
heard last is stored with the next operation that has something to say, or after STORE_MS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from gateway.delivery.ledger import Ledger
from gateway.delivery.submission import AppRef, PendingPush
from gateway.described_model import DescribedModel
from gateway.errors import Problem, problem
from gateway.names import Name
from gateway.store.access.keys import has_valid_key
from gateway.store.database import Database
from gateway.store.deliveries.event_log import log_of_app
from gateway.store.deliveries.watches import (
    HeardWatch,
    StoredWatch,
    count_other_watches,
    note_heard,
    note_later_heard,
    note_silence,
    remove_watch,
    replace_watch,
    stored_watch,
    stored_watches,
)
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339, rfc3339_or_none

log = logging.getLogger(__name__)

MAX_WATCHES = 20
"""Watches of an app: each of its pushes is compared with them."""
ALL_WATCHES = 200
"""Watches of all apps: each is a label of metrics."""
GRACE_MS = 60_000
"""Time that a sender has after a start, at least, unless its own is shorter."""
STORE_MS = 10_000
"""Time by which what is stored of when somebody was heard may be behind."""
SHARED_STORE_MS = 1_000
"""The same where other nodes have to know it before they call somebody silent."""
SHARED_GRACE_MS = 3_000
"""Time by which silence is told of later there: what another node has heard is stored, and read, by then."""


class WatchFields(DescribedModel):
    """A watch: what is sent at least how often."""

    model_config = ConfigDict(extra="forbid", strict=True)

    channel: Name | None = None
    """Pushes of this channel. null or left out: of any."""
    key_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """Pushes that were sent with the key of this id. null or left out: with any."""
    every_s: Annotated[int, Field(ge=60, le=2_678_400)]
    """Seconds within which something is sent, 60 to 2,678,400 (31 days)."""


@dataclass(slots=True, eq=False)
class Watch:
    """A watch in memory; times are server time in milliseconds."""

    app: AppRef
    name: str
    fields: WatchFields
    created_at: int
    updated_at: int
    due_at: int
    """Time at which it is silent, if nothing is heard until then."""
    heard_at: int | None = None
    silent_at: int | None = None

    @property
    def label(self) -> str:
        return f"{self.app.id}/{self.name}"

    def fits(self, pending: PendingPush) -> bool:
        """Whether a push is one of those that it is over."""
        channel, key_id = self.fields.channel, self.fields.key_id
        return (channel is None or channel == pending.channel) and (key_id is None or key_id == pending.key_id)

    def described(self) -> dict[str, Any]:
        return {
            "name": self.name,
            **self.fields.model_dump(mode="json"),
            "silent": self.silent_at is not None,
            "heard_at": rfc3339_or_none(self.heard_at),
            "due_at": rfc3339(self.due_at) if self.silent_at is None else None,
            "silent_at": rfc3339_or_none(self.silent_at),
            "created_at": rfc3339(self.created_at),
            "updated_at": rfc3339(self.updated_at),
        }


def _watch_of(row: StoredWatch) -> Watch:
    """A watch as it is stored."""
    fields = WatchFields.model_validate_json(row.content)
    return Watch(
        AppRef(row.app_no, row.app_id), row.name, fields, row.created_at, row.updated_at, row.due_at, row.heard_at,
        row.silent_at,
    )  # fmt: skip


def _times_of(watch: Watch) -> HeardWatch:
    return HeardWatch(watch.due_at, watch.heard_at, watch.silent_at, watch.app.no, watch.name, watch.updated_at)


def _about(watch: Watch) -> dict[str, Any]:
    """The content of each event of a watch."""
    return {"watch": watch.name, "channel": watch.fields.channel, "key_id": watch.fields.key_id}


def unknown_watch(name: str) -> Problem:
    return problem("watch_not_found", f"no watch {name!r} in this app; make it with PUT /v1/watches/{name}")


class Watches:
    """The watches of all apps, in memory and in the ledger. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    def __init__(self, *, database: Database, ledger: Ledger, clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._ledger = ledger
        self._clock_ms = clock_ms
        self.by_app: dict[int, dict[str, Watch]] = {}
        """Watches by number of their app, of those that have any, and by name."""
        self._unstored: dict[Watch, None] = {}
        """Watches that were heard since they were stored."""
        self._store_at = 0
        self.is_shared = False
        """Whether other nodes hear senders too, of whom one tells when somebody is silent or back."""

    async def load(self, stopped_at: int) -> None:
        """Read all watches, and give senders the time that the server was down. `stopped_at`: the last server time
        that an earlier run has stored; 0: there was none."""
        rows = await self._database.read(stored_watches)
        now_ms = self._clock_ms()
        down = max(0, now_ms - stopped_at) if stopped_at else 0
        self.by_app = {}
        for row in rows:
            watch = _watch_of(row)
            every = watch.fields.every_s * 1000
            watch.due_at = min(max(watch.due_at + down, now_ms + min(every, GRACE_MS)), now_ms + every)
            self.by_app.setdefault(row.app_no, {})[row.name] = watch

    async def reload(self, app_no: int, name: str) -> None:
        """Know of a watch what is stored: another node has made, replaced or removed it."""
        row = await self._database.read_soon(partial(stored_watch, app_no=app_no, name=name))
        of_app = self.by_app.setdefault(app_no, {})
        known = of_app.get(name)
        if row is None:
            of_app.pop(name, None)
        elif known is None or known.updated_at != row.updated_at:
            of_app[name] = _watch_of(row)
        if not of_app:
            del self.by_app[app_no]

    async def follow_others(self) -> None:
        """Learn what other nodes have heard, and which senders are silent. Called again and again."""
        if not self.by_app:
            return
        for row in await self._database.read(stored_watches):
            known = self.by_app.get(row.app_no, {}).get(row.name)
            if known is not None and known.updated_at == row.updated_at:
                if row.heard_at is not None and row.heard_at > (known.heard_at or 0):
                    known.heard_at, known.due_at = row.heard_at, row.due_at
                known.silent_at = row.silent_at

    async def declare(self) -> None:
        """Tell of those that are silent, or are back, wherever they were heard. For the node that does so."""
        await self.follow_others()
        now_ms = self._clock_ms()
        for watch in self.all():
            if watch.silent_at is None and watch.due_at + SHARED_GRACE_MS <= now_ms:
                heard_at = rfc3339_or_none(watch.heard_at)
                content = {"heard_at": heard_at, "every_s": watch.fields.every_s}
                await self._note_silence("sender.silent", watch, content, now_ms)
            elif watch.silent_at is not None and (watch.heard_at or 0) >= watch.silent_at:
                await self._note_silence("sender.back", watch, {"silent_at": rfc3339(watch.silent_at)}, None)

    async def _note_silence(self, event: str, watch: Watch, content: dict[str, Any], silent_at: int | None) -> None:
        now_ms = self._clock_ms()
        content = _about(watch) | content

        def operation(transaction: Transaction) -> None:
            if note_silence(transaction, watch.app.no, watch.name, watch.updated_at, silent_at):
                log_of_app(transaction, event, now_ms, watch.app.no, content)

        await self._database.write(operation, apps=frozenset((watch.app.no,)))
        watch.silent_at = silent_at

    def all(self) -> list[Watch]:
        """Every watch, for metrics."""
        return [watch for of_app in self.by_app.values() for watch in of_app.values()]

    def accepted(self, pending: PendingPush) -> None:
        """Learn of a push that a key has sent, and that is on disk, of an app that has watches."""
        now_ms = self._clock_ms()
        for watch in self.by_app.get(pending.app.no, {}).values():
            if watch.fits(pending):
                watch.heard_at, watch.due_at = now_ms, now_ms + watch.fields.every_s * 1000
                self._unstored[watch] = None
                if watch.silent_at is not None and not self.is_shared:
                    self._tell("sender.back", watch, {"silent_at": rfc3339(watch.silent_at)}, None)

    def tick(self) -> None:
        """Tell of those that are silent. Called a few times a second."""
        if not self.by_app:
            return
        now_ms = self._clock_ms()
        if self.is_shared:
            if self._unstored and now_ms >= self._store_at:
                self._store_heard()
            return
        for watch in self.all():
            if watch.silent_at is None and watch.due_at <= now_ms:
                heard_at = rfc3339_or_none(watch.heard_at)
                self._tell("sender.silent", watch, {"heard_at": heard_at, "every_s": watch.fields.every_s}, now_ms)
        if self._unstored and now_ms >= self._store_at:
            self._store([])

    def _tell(self, event: str, watch: Watch, content: dict[str, Any], silent_at: int | None) -> None:
        watch.silent_at = silent_at
        self._unstored[watch] = None
        self._store([(event, watch, _about(watch) | content)])

    def _store_heard(self) -> None:
        """Store what was heard here, for the node that tells of silence."""
        self._store_at = self._clock_ms() + SHARED_STORE_MS
        changed, self._unstored = [_times_of(watch) for watch in self._unstored], {}
        apps = frozenset(one.app_no for one in changed)

        def on_error(error: BaseException) -> None:
            log.warning("when senders were heard could not be stored: %s", error)  # they are heard again, or it is late

        self._database.submit(partial(note_later_heard, changed=changed), lambda _: None, on_error, apps=apps)

    def _store(self, events: list[tuple[str, Watch, dict[str, Any]]]) -> None:
        """Store what has changed, with its events. Whatever was replaced or removed meanwhile is left out."""
        now_ms = self._clock_ms()
        self._store_at = now_ms + STORE_MS
        unstored, self._unstored = self._unstored, {}
        changed = [_times_of(watch) for watch in unstored]

        def operation(transaction: Transaction) -> None:
            note_heard(transaction, changed)
            for event, watch, content in events:
                log_of_app(transaction, event, now_ms, watch.app.no, content)

        apps = frozenset([watch.app.no for watch in chain(unstored, (watch for _, watch, _ in events))])
        self._ledger.submit_until_done(operation, lambda _: None, apps)

    # -- the API's commands ----------------------------------------------------------------------------------------

    async def put(self, app: AppRef, name: str, fields: WatchFields) -> dict[str, Any]:
        """Make a watch, or replace it; its time begins now. Raises Problem 404, 422."""
        now_ms = self._clock_ms()
        before = self.by_app.get(app.no, {}).get(name)
        created_at = now_ms if before is None else before.created_at
        watch = Watch(app, name, fields, created_at, now_ms, now_ms + fields.every_s * 1000)
        content = fields.model_dump_json()

        def operation(transaction: Transaction) -> None:
            ours, all_others = count_other_watches(transaction, app.no, name)
            if ours >= MAX_WATCHES or all_others >= ALL_WATCHES:
                raise problem(
                    "invalid_request",
                    f"an app has at most {MAX_WATCHES} watches, all together {ALL_WATCHES}: remove one first",
                )
            if fields.key_id is not None and not has_valid_key(transaction, app.no, fields.key_id):
                raise problem("key_not_found", f"no key {fields.key_id!r} in this app")
            replace_watch(transaction, app.no, name, content, watch.due_at, created_at, now_ms)

        await self._database.write(operation, app.no)
        of_app = self.by_app.setdefault(app.no, {})
        of_app[name] = watch
        return watch.described()

    def get(self, app_no: int, name: str) -> dict[str, Any]:
        """A watch as the API shows it. Raises Problem 404."""
        found = self.by_app.get(app_no, {}).get(name)
        if found is None:
            raise unknown_watch(name)
        return found.described()

    def page(self, app_no: int, limit: int, cursor: str | None) -> dict[str, Any]:
        """A page of the app's watches, by name."""
        found = self.by_app.get(app_no, {})
        later = sorted(name for name in found if name > (cursor or ""))
        return {
            "items": [found[name].described() for name in later[:limit]],
            "next_cursor": later[limit - 1] if len(later) > limit else None,
        }

    async def remove(self, app_no: int, name: str) -> None:
        """Remove a watch. Raises Problem 404."""
        if name not in self.by_app.get(app_no, {}):
            raise unknown_watch(name)
        await self._database.write(partial(remove_watch, app_no=app_no, name=name), app_no)
        of_app = self.by_app.get(app_no, {})
        of_app.pop(name, None)
        if not of_app:
            self.by_app.pop(app_no, None)
