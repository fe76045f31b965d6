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
    count_other_watches,
    note_heard,
    remove_watch,
    replace_watch,
    stored_watches,
)
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339, rfc3339_or_none

MAX_WATCHES = 20
"""Watches of an app: each of its pushes is compared with them."""
ALL_WATCHES = 200
"""Watches of all apps: each is a label of metrics."""
GRACE_MS = 60_000
"""Time that a sender has after a start, at least, unless its own is shorter."""
STORE_MS = 10_000
"""Time by which what is stored of when somebody was heard may be behind."""


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

    async def load(self, stopped_at: int) -> None:
        """Read all watches, and give senders the time that the server was down. `stopped_at`: the last server time
        that an earlier run has stored; 0: there was none."""
        rows = await self._database.read(stored_watches)
        now_ms = self._clock_ms()
        down = max(0, now_ms - stopped_at) if stopped_at else 0
        for app_no, app_id, name, content, created_at, updated_at, due_at, heard_at, silent_at in rows:
            fields = WatchFields.model_validate_json(content)
            every = fields.every_s * 1000
            due_at = min(max(due_at + down, now_ms + min(every, GRACE_MS)), now_ms + every)
            watch = Watch(AppRef(app_no, app_id), name, fields, created_at, updated_at, due_at, heard_at, silent_at)
            self.by_app.setdefault(app_no, {})[name] = watch

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
                if watch.silent_at is not None:
                    self._tell("sender.back", watch, {"silent_at": rfc3339(watch.silent_at)}, None)

    def tick(self) -> None:
        """Tell of those that are silent. Called a few times a second."""
        if not self.by_app:
            return
        now_ms = self._clock_ms()
        for watch in self.all():
            if watch.silent_at is None and watch.due_at <= now_ms:
                heard_at = rfc3339_or_none(watch.heard_at)
                self._tell("sender.silent", watch, {"heard_at": heard_at, "every_s": watch.fields.every_s}, now_ms)
        if self._unstored and now_ms >= self._store_at:
            self._store([])

    def _tell(self, event: str, watch: Watch, content: dict[str, Any], silent_at: int | None) -> None:
        about = {"watch": watch.name, "channel": watch.fields.channel, "key_id": watch.fields.key_id}
        watch.silent_at = silent_at
        self._unstored[watch] = None
        self._store([(event, watch, about | content)])

    def _store(self, events: list[tuple[str, Watch, dict[str, Any]]]) -> None:
        """Store what has changed, with its events. Whatever was replaced or removed meanwhile is left out."""
        now_ms = self._clock_ms()
        self._store_at = now_ms + STORE_MS
        unstored, self._unstored = self._unstored, {}
        changed = [
            HeardWatch(one.due_at, one.heard_at, one.silent_at, one.app.no, one.name, one.updated_at)
            for one in unstored
        ]

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
