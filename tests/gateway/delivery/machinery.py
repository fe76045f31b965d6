"""Hand-driven parts around the real ledger, mailbox, acceptance and receipts: a writer whose operations run when a test
says so, timers and a clock that move by hand, and an engine that takes messages like a broker does.

`ManualWriter` keeps the promises of `Database.submit`: operations run in the order of submission, each group commits,
and callbacks come back in that order. A test decides when; a crash loses what had not committed and every callback.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar

from sqlmodel import SQLModel, create_engine

from gateway.auth import DeviceIdentity
from gateway.delivery.engine import ACKNOWLEDGED, COMPLETED, LOST, ConnectionFacts, EngineEvents, Message
from gateway.store import models
from gateway.store.app_locks import DeclaredApps, locks_for
from gateway.store.audience.device_sets import ALL_TAG, add_to_sets
from gateway.store.set_functions import add_set_functions
from gateway.store.transaction import Transaction
from tests import postgresql
from tests.gateway.written_apps import WrittenApps

assert models.Delivery.__tablename__ == "delivery"  # the import defines the tables
T = TypeVar("T")
APP_NO = 1


def fresh_database() -> Transaction:
    """A connection to a ledger with one app: in memory, or in the database of the run."""
    if postgresql.is_used():
        pooled = postgresql.schema_pool().connect()
        pooled.execute(FIRST_APP)
        pooled.execute("DROP VIEW IF EXISTS whole_delivery")
        pooled.execute(WHOLE_DELIVERY)
        return pooled
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.deserialize(_fresh_database())
    add_set_functions(connection)
    connection.execute(WHOLE_DELIVERY)
    return connection


FIRST_APP = "INSERT INTO application (id, created_at) VALUES ('default', 0)"
WHOLE_DELIVERY = (
    "CREATE TEMP VIEW whole_delivery AS"
    " SELECT push_no, device_no, priority, size, state, reason, qos, delivered_at, displayed_at, dismissed_at,"
    " opened_at, acted_at, ended_at, action, result, not_before, replaced_by FROM delivery"
    " UNION ALL SELECT w.push_no, CAST(x.value AS INTEGER), p.priority, p.size, 0, NULL, NULL, NULL, NULL, NULL, NULL,"
    " NULL, NULL, NULL, NULL, NULL, NULL"
    " FROM waiting_set AS w JOIN push AS p ON p.no = w.push_no CROSS JOIN json_each(devices_json(w.devices)) AS x"
    " UNION ALL SELECT o.push_no, CAST(x.value AS INTEGER), p.priority, p.size, o.state, o.reason, o.qos,"
    " iif(o.state = 10, o.at, NULL), NULL, NULL, NULL, NULL, iif(o.state >= 20, o.at, NULL), NULL, NULL, NULL, NULL"
    " FROM outcome_set AS o JOIN push AS p ON p.no = o.push_no CROSS JOIN json_each(devices_json(o.devices)) AS x"
    " WHERE NOT EXISTS (SELECT 1 FROM delivery AS d WHERE d.push_no = o.push_no AND d.device_no = x.value)"
)
"""Every delivery as a row, wherever it is stored: for tests, in SQL of their own."""


@contextmanager
def counted_steps(connection: Transaction) -> Iterator[list[int]]:
    """Count the steps of SQLite's machine, what a statement costs whatever the machine is: [steps so far].

    Another database has none.
    """
    steps = [0]
    if not isinstance(connection, sqlite3.Connection):
        yield steps
        return

    def count() -> int:
        steps[0] += 1
        return 0

    connection.set_progress_handler(count, 1)
    try:
        yield steps
    finally:
        connection.set_progress_handler(None, 1)


@cache
def _fresh_database() -> bytes:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    SQLModel.metadata.create_all(create_engine("sqlite://", creator=lambda: connection))
    connection.execute(FIRST_APP)
    content = connection.serialize()
    connection.close()
    return content


def add_device(connection: Transaction, device_no: int, device_id: str) -> None:
    connection.execute(
        "INSERT INTO device (no, app_no, id, token_hash, created_at, updated_at) VALUES (?, ?, ?, x'', 0, 0)",
        (device_no, APP_NO, device_id),
    )
    add_to_sets(connection, APP_NO, {ALL_TAG: [device_no]})


@dataclass(slots=True)
class _Queued:
    operation: Callable[[Transaction], Any]
    on_commit: Callable[[Any], None]
    on_error: Callable[[BaseException], None]
    apps: DeclaredApps
    is_shared: bool
    app_no: int | None = None


class ManualWriter:
    """The database's writer, one step at a time."""

    is_of_a_node = False
    """Whether each group is asked first for the apps that it would lock, as where there are other nodes."""

    def __init__(self, connection: Transaction) -> None:
        self.connection = connection
        self._written_apps = WrittenApps(connection)
        self.new_reads: list[_Queued] = []
        """What is to be read of what other nodes have stored."""
        self.new_answers: list[Callable[[], None]] = []
        self.queue: list[_Queued] = []
        self.callbacks: list[Callable[[], None]] = []

    def submit(
        self,
        operation: Callable[[Transaction], T],
        on_commit: Callable[[T], None],
        on_error: Callable[[BaseException], None],
        *,
        apps: DeclaredApps = None,
        is_shared: bool = False,
        uses_reserve: bool = True,
    ) -> None:
        self.queue.append(_Queued(operation, on_commit, on_error, apps, is_shared))

    def commit_group(self, size: int | None = None) -> None:
        """Run and commit the next operations; their callbacks wait for `call_back`."""
        group, self.queue = self.queue[:size], self.queue[len(self.queue) if size is None else size :]
        if not group:
            return
        if self.is_of_a_node:
            locks_for(group)
        self.connection.execute("BEGIN")
        for queued in group:
            self.connection.execute("SAVEPOINT operation")
            try:
                run = self._written_apps.noted(queued.operation, queued.apps, None, is_shared=queued.is_shared)
                self.callbacks.append(partial(queued.on_commit, run(self.connection)))
            except Exception as error:
                self.connection.execute("ROLLBACK TO operation")
                self.callbacks.append(partial(queued.on_error, error))
            self.connection.execute("RELEASE operation")
        self.connection.execute("COMMIT")

    def call_back(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()

    def read_new(
        self,
        operation: Callable[[Transaction], T],
        on_done: Callable[[T], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self.new_reads.append(_Queued(operation, on_done, on_error, None, True))

    def take_snapshots(self) -> None:
        """Read what is to be read of what other nodes have stored; the answers wait for `answer`."""
        reads, self.new_reads = self.new_reads, []
        for read in reads:
            self.new_answers.append(partial(read.on_commit, read.operation(self.connection)))

    def answer(self) -> None:
        answers, self.new_answers = self.new_answers, []
        for answer in answers:
            answer()

    def drain(self) -> None:
        while self.queue or self.callbacks or self.new_reads or self.new_answers:
            self.call_back()
            self.commit_group()
            self.take_snapshots()
            self.answer()

    async def write(
        self,
        operation: Callable[[Transaction], T],
        app_no: int | None = None,
        *,
        apps: DeclaredApps = None,
        is_shared: bool = False,
    ) -> T:
        """As if it had waited: everything submitted before runs first, and is called back."""
        self.drain()
        self.connection.execute("BEGIN")
        try:
            result = self._written_apps.noted(operation, apps, app_no, is_shared=is_shared)(self.connection)
        except Exception:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return result

    async def read_soon(self, operation: Callable[[Transaction], T]) -> T:
        return operation(self.connection)

    async def read(self, operation: Callable[[Transaction], T], app_no: int | None = None) -> T:
        return operation(self.connection)


MOMENT_SECONDS = 0.005
"""What is wanted so soon is due in the next turn."""


class ManualTimers:
    """`call_soon` and `call_later` of a loop; `turn` runs what is due."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        (self.soon if delay <= MOMENT_SECONDS else self.later).append(callback)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def later_turn(self) -> None:
        later, self.later = self.later, []
        for callback in later:
            callback()


@dataclass(slots=True)
class HandOver:
    handle: int
    payload: bytes
    qos: int


@dataclass(slots=True)
class FakeSession:
    """One device at the engine: its window, what is inflight, and what it has been sent in all."""

    window: int
    granted: int | None = None
    connected: bool = False
    resumed: bool = True
    starved: bool = False
    connection: int = 0
    inflight: list[HandOver] = field(default_factory=list)
    handed_over: list[HandOver] = field(default_factory=list)


class FakeEngine:
    """Takes messages under the rules of `Engine`; the test acknowledges, refuses and cuts connections."""

    def __init__(self, window: int, events: EngineEvents) -> None:
        self.gathered = 0
        self.window = window
        self.sessions: dict[str, FakeSession] = {}
        self.events = events
        self.on_hand_over: Callable[[str, HandOver], None] = lambda client_id, hand_over: None
        self.forgotten: list[int] = []
        self.published: list[tuple[str, bytes]] = []
        self.on_removed: Callable[[Callable[[], None]], None] = lambda done: done()

    def session(self, client_id: str) -> FakeSession:
        return self.sessions.setdefault(client_id, FakeSession(self.window))

    # -- the engine's side

    def deliver_to(self, client_id: str) -> Callable[[Message, int], bool]:
        return partial(self.deliver, client_id)

    def deliver(self, client_id: str, message: Message, handle: int) -> bool:
        session = self.sessions.get(client_id)
        if session is None or not session.connected or not session.resumed or session.granted is None:
            return False
        if len(session.inflight) >= session.window:
            session.starved = True
            return False
        self._send(client_id, session, message, handle, min(message.qos, session.granted))
        return True

    def _send(self, client_id: str, session: FakeSession, message: Message, handle: int, qos: int) -> None:
        hand_over = HandOver(handle, message.body.payload, qos)
        session.handed_over.append(hand_over)
        if hand_over.qos:
            session.inflight.append(hand_over)
        self.on_hand_over(client_id, hand_over)

    def granted_qos(self, client_id: str, topic: str) -> int | None:
        return self.sessions[client_id].granted

    def cork(self, client_id: str) -> None:
        self.gathered += 1

    def uncork(self, client_id: str) -> None: ...

    def in_flight(self, client_id: str) -> int:
        return len(self.session(client_id).inflight)

    def connection_facts(self, client_id: str) -> ConnectionFacts | None:
        return ConnectionFacts(5, 60, "mqtts") if self.session(client_id).connected else None

    def publish(self, topic: str, payload: bytes) -> None:
        self.published.append((topic, payload))

    def forget(self, client_id: str, handle: int) -> None:
        self.forgotten.append(handle)

    def principals(self) -> list[str]:
        return list(self.sessions)

    def past_pubrec(self) -> list[tuple[str, int]]:
        return []

    def numbers(self) -> set[int]:
        return set()

    def awaiting_pubrec(self, client_id: str) -> set[int]:
        return {hand_over.handle for hand_over in self.session(client_id).inflight if hand_over.qos == 2}

    def unfinished(self) -> list[int]:
        return []

    def remove_session(self, client_id: str, done: Callable[[], None]) -> None:
        self.disconnect_device(client_id)
        self.sessions.pop(client_id, None)
        self.on_removed(done)

    def disconnect(self, principal: str, reason_code: int) -> int:
        return int(self.disconnect_device(principal))

    # -- the device's side

    def connect(self, identity: DeviceIdentity, granted: int) -> None:
        session = self.session(identity.client_id)
        self.disconnect_device(identity.client_id)
        session.connected = True
        session.granted = granted
        session.starved = False
        session.connection += 1
        self.events.connected(identity.client_id, identity, bool(session.inflight))
        if session.inflight:
            session.resumed = False
            kept = list(session.inflight)
            connection = session.connection
            self.events.resume(
                identity.client_id,
                [hand_over.handle for hand_over in kept],
                lambda answer: self._resumed(identity, session, connection, kept, answer),
            )
        else:
            self.events.ready(identity.client_id, session.window)

    def _resumed(
        self,
        identity: DeviceIdentity,
        session: FakeSession,
        connection: int,
        asked: Sequence[HandOver],
        answer: Mapping[int, Message | None],
    ) -> None:
        current = self.sessions.get(identity.client_id)
        if current is not session or not session.connected or session.connection != connection:
            for handle in answer:
                self.events.delivery_ended(identity.client_id, handle, LOST)
            return
        session.inflight = []
        session.resumed = True
        for hand_over in asked:
            message = answer.get(hand_over.handle)
            if message is not None:
                self._send(identity.client_id, session, message, hand_over.handle, hand_over.qos)
        room = session.window - len(session.inflight)
        if room:
            self.events.ready(identity.client_id, room)
        else:
            session.starved = True

    def disconnect_device(self, client_id: str) -> bool:
        session = self.sessions.get(client_id)
        if session is None or not session.connected:
            return False
        session.connected = False
        if session.resumed:
            for hand_over in session.inflight:
                self.events.delivery_ended(client_id, hand_over.handle, LOST)
        session.resumed = True
        self.events.disconnected(client_id, "test", "")
        return True

    def settle(self, client_id: str, index: int, outcome: int = ACKNOWLEDGED) -> HandOver:
        session = self.sessions[client_id]
        hand_over = session.inflight.pop(index)
        if outcome == ACKNOWLEDGED and hand_over.qos == 2:
            outcome = COMPLETED
        self.events.delivery_ended(client_id, hand_over.handle, outcome)
        room = session.window - len(session.inflight)
        if session.starved and room * 2 >= session.window:
            session.starved = False
            self.events.ready(client_id, room)
        return hand_over
