"""Attempts: which request a write is done for, so that its entry in the audit log is written with it.

Laws
1. Admission begins an attempt for each request that may change something (`api/audited_actions` names them all), and
   whatever that request writes by `Database.write` carries it: it is in the request's context.
2. The first operation of a request that changes a row appends the entry, in the same transaction. So there is no change
   without its entry, wherever the server is killed, and no entry without a change. An operation of the request that
   comes later finds the entry and adds none.
3. When the request has been answered, its attempt is closed: what the server does afterwards, in a task that the
   request has started, is the server's own work.

An entry says who, from where, what, and to which object; the names of fields that were given, and never a value that
could be a secret (`about`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TypeVar

from gateway.audit_chain import Head
from gateway.store.audit_entries import Detail, EntryFacts, append, is_stored
from gateway.store.transaction import Transaction
from gateway.timestamps import wall_time

T = TypeVar("T")

DONE = "done"
REFUSED = "refused"
FAILED = "failed"
SESSION, PERSON = "session", "person"
"""Details that say who it was, at the console: no fact about an object has one of these names."""


@dataclass(slots=True, eq=False)
class Attempt:
    """A request that may change something."""

    app_no: int | None
    """None: the app for which is written; of a device that has only a code, for example."""
    actor: str
    """`key:ID`, or whoever else."""
    action: str
    """`device.remove`, as in `api/audited_actions`."""
    object: str
    """`device:kiosk-1`; empty if there is none, or none yet."""
    address: str
    """The address that the request came from."""
    details: dict[str, Detail] = field(default_factory=dict)
    is_open: bool = True
    """Whether the request is still under way. Loop."""
    is_refused: bool = False
    """Whether the log has been told that it was refused. Loop."""
    stored_in: int = 0
    """The app whose log has its entry, if `stored_as` is there."""
    stored_as: Head | None = None
    """The place of its entry; the transaction may have been rolled back since."""

    def store(self, transaction: Transaction, app_no: int | None, now_ms: int) -> None:
        """Append its entry, unless that is there. `app_no`: the app of the operation. Writer thread."""
        if self.stored_as is not None and is_stored(transaction, self.stored_in, self.stored_as):
            return
        wanted = self.app_no if self.app_no is not None else app_no
        assert wanted is not None, "an attempt without an app writes for one"
        self.stored_as = append(transaction, wanted, self.facts(DONE), wall_time.of(now_ms))
        self.stored_in = wanted

    def store_push(self, transaction: Transaction, push_id: str, targeted: int, now_ms: int) -> None:
        """Append its entry with the push that it sends, the first one of several. Writer thread."""
        if not self.object:
            self.object = f"push:{push_id}"
        self.details.setdefault("push", push_id)
        self.details.setdefault("targeted", targeted)
        self.store(transaction, None, now_ms)

    def facts(self, result: str, more: Mapping[str, Detail] | None = None) -> EntryFacts:
        """Return the content of an entry with this result, and with more details."""
        details = {**self.details, **(more or {})}
        return EntryFacts(self.actor, self.action, self.object, self.address, result, details)

    def audited(
        self, operation: Callable[[Transaction], T], app_no: int | None, clock_ms: Callable[[], int]
    ) -> Callable[[Transaction], T]:
        """Make an operation that appends the entry if it changes a row."""

        def run(transaction: Transaction) -> T:
            before = transaction.total_changes
            token = CURRENT.set(self)
            try:
                result = operation(transaction)
            finally:
                CURRENT.reset(token)
            if transaction.total_changes != before:
                self.store(transaction, app_no, clock_ms())
            return result

        return run


CURRENT: ContextVar[Attempt | None] = ContextVar("attempt", default=None)
"""The attempt of the request in whose context the caller runs; on the writer thread, of the operation that runs."""


def open_attempt() -> Attempt | None:
    """Return the attempt of the request that the caller works for, if it is one that may change something. Loop."""
    attempt = CURRENT.get()
    return attempt if attempt is not None and attempt.is_open else None


def about(kind: str, object_id: str, **details: Detail) -> None:
    """Say what the current attempt is about, before it is stored or in the operation itself. Loop or writer thread.

    Whatever is given here is read by others later: no secret, and nothing long.
    """
    assert not details.keys() & {SESSION, PERSON}, "they say who it was"
    attempt = CURRENT.get()
    if attempt is not None:
        attempt.object = f"{kind}:{object_id}"
        attempt.details.update(details)


def separately(kind: str, object_id: str) -> None:
    """Have what this task writes from now on an entry of its own. For a task that changes one of many objects. Loop."""
    attempt = CURRENT.get()
    if attempt is not None:
        who = {name: attempt.details[name] for name in (SESSION, PERSON) if name in attempt.details}
        CURRENT.set(replace(attempt, object=f"{kind}:{object_id}", details=who, stored_as=None))


def note_details(**details: Detail) -> None:
    """Add facts to the entry of the current attempt. Loop or writer thread; nothing that could be a secret."""
    attempt = CURRENT.get()
    if attempt is not None:
        attempt.details.update(details)
