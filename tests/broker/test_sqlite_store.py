"""The store gives back what was appended: after a close, after kill -9, after a disk that was full for a while."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import group_commit, sqlite_tables
from broker.message import Body, Message
from broker.protocol.packets import Properties
from broker.sqlite_store import SqliteStore, StoreInUse, StoreTooNew, void_sessions
from broker.store import PublishedWill, StoredOutbound, StoredSession, StoredState, StoredSubscription, StoredWill

VERSION_1 = """
CREATE TABLE session (
    client_id TEXT PRIMARY KEY, principal TEXT NOT NULL, expiry_interval INTEGER NOT NULL, expires_at INTEGER,
    will_topic TEXT, will_payload BLOB, will_qos INTEGER, will_retain INTEGER, will_properties TEXT,
    will_expires_at INTEGER, will_due_at INTEGER, will_delay INTEGER
) WITHOUT ROWID;
CREATE TABLE subscription (
    client_id TEXT, topic_filter TEXT, qos INTEGER NOT NULL, no_local INTEGER NOT NULL,
    retain_as_published INTEGER NOT NULL, retain_handling INTEGER NOT NULL, subscription_identifier INTEGER,
    PRIMARY KEY (client_id, topic_filter)
) WITHOUT ROWID;
CREATE TABLE outbound (
    client_id TEXT, sequence INTEGER, message_key INTEGER, handle INTEGER, qos INTEGER NOT NULL,
    packet_id INTEGER NOT NULL, released INTEGER NOT NULL, retain INTEGER NOT NULL, subscription_identifiers TEXT,
    PRIMARY KEY (client_id, sequence)
) WITHOUT ROWID;
CREATE TABLE received (client_id TEXT, packet_id INTEGER, PRIMARY KEY (client_id, packet_id)) WITHOUT ROWID;
CREATE TABLE message (
    message_key INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL,
    retain INTEGER NOT NULL, properties TEXT, expires_at INTEGER
);
CREATE TABLE retained (
    topic TEXT PRIMARY KEY, payload BLOB NOT NULL, qos INTEGER NOT NULL, properties TEXT, expires_at INTEGER
);
CREATE TABLE server (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), time INTEGER NOT NULL);
"""
"""What released versions have written."""
ROOT = Path(__file__).resolve().parents[2]
Result = TypeVar("Result")


def with_store(path: Path, use: Callable[[SqliteStore], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        store = SqliteStore(path, asyncio.get_running_loop())
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(run())


async def read(store: SqliteStore) -> StoredState:
    return store.restore()


def restored(path: Path) -> dict[str, Any]:
    return plain(with_store(path, read))


def problem(store: SqliteStore) -> str | None:
    return store.error


async def on_disk(store: SqliteStore) -> None:
    reached = asyncio.get_running_loop().create_future()
    store.barrier(lambda: reached.set_result(None))
    await reached


def plain(state: StoredState) -> dict[str, Any]:
    """Comparable: messages have no equality of their own, and lists come back in the order of their keys."""

    def message(value: Message) -> tuple[Any, ...]:
        body = value.body
        return value.topic, value.qos, value.retain, body.payload, body.properties, body.expires_at

    def session(value: StoredSession) -> dict[str, Any]:
        will = value.will
        return {
            "facts": (value.principal, value.expiry_interval, value.expires_at, value.number),
            "will": None if will is None else (message(will.message), will.due_at, will.delay, will.number),
            "subscriptions": {s.topic_filter: s for s in value.subscriptions},
            "outbound": [(o.sequence, o) for o in value.outbound],
            "received": set(value.received),
        }

    return {
        "sessions": {value.client_id: session(value) for value in state.sessions},
        "messages": {key: message(value) for key, value in state.messages.items()},
        "retained": {value.topic: message(value) for value in state.retained},
        "wills": {value.number: (value.client_id, message(value.message)) for value in state.wills},
    }


# -- a model: the log applied to dictionaries, one call at a time ------------------------------------------------------


class Model:
    """`StoredState` as if every call were carried out at once. Same calls as the store."""

    def __init__(self) -> None:
        self.sessions: dict[str, StoredSession] = {}
        self.messages: dict[int, Message] = {}
        self.retained: dict[str, Message] = {}
        self.wills: dict[int, PublishedWill] = {}

    def state(self) -> StoredState:
        for session in self.sessions.values():
            session.outbound.sort(key=lambda row: row.sequence)
        kept = list(self.retained.values())
        return StoredState(list(self.sessions.values()), self.messages, kept, list(self.wills.values()))

    def save_session(self, session: StoredSession) -> None:
        old = self.sessions.get(session.client_id, session)
        lists = (old.subscriptions, old.outbound, old.received)
        facts = (session.client_id, session.principal, session.expiry_interval, session.expires_at)
        self.sessions[session.client_id] = StoredSession(*facts, *lists, session.will, session.number)

    def delete_session(self, client_id: str) -> None:
        self.sessions.pop(client_id, None)

    def save_subscription(self, client_id: str, subscription: StoredSubscription) -> None:
        self.delete_subscription(client_id, subscription.topic_filter)
        self.sessions[client_id].subscriptions.append(subscription)

    def delete_subscription(self, client_id: str, topic_filter: str) -> None:
        session = self.sessions[client_id]
        session.subscriptions = [s for s in session.subscriptions if s.topic_filter != topic_filter]

    def save_message(self, message_key: int, message: Message) -> None:
        self.messages[message_key] = message

    def delete_message(self, message_key: int) -> None:
        self.messages.pop(message_key, None)

    def save_outbound(self, client_id: str, outbound: StoredOutbound) -> None:
        self.delete_outbound(client_id, outbound.sequence)
        self.sessions[client_id].outbound.append(outbound)

    def delete_outbound(self, client_id: str, sequence: int) -> None:
        session = self.sessions[client_id]
        session.outbound = [row for row in session.outbound if row.sequence != sequence]

    def save_received(self, client_id: str, packet_id: int) -> None:
        self.delete_received(client_id, packet_id)
        self.sessions[client_id].received.append(packet_id)

    def delete_received(self, client_id: str, packet_id: int) -> None:
        session = self.sessions[client_id]
        session.received = [p for p in session.received if p != packet_id]

    def save_retained(self, message: Message) -> None:
        self.retained[message.topic] = Message(message.topic, message.body, message.qos, True)

    def delete_retained(self, topic: str) -> None:
        self.retained.pop(topic, None)

    def save_published_will(self, will: PublishedWill) -> None:
        self.wills[will.number] = will

    def delete_published_will(self, number: int) -> None:
        self.wills.pop(number, None)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
client_ids = st.sampled_from(["", "kiosk-1", "käse 🧀", '"; DROP TABLE session --'])
topics = st.sampled_from(["a", "a/b", "ü/🧀", "$SYS/x"])
filters = st.sampled_from(["a/#", "+/b", "$share/g/a"])
times = st.none() | st.integers(0, 4_000_000_000_000_000).map(lambda microseconds: microseconds / 1_000_000)
qos = st.integers(0, 2)
numbers = st.integers(0, 2**32 - 1)
packet_ids = st.integers(1, 65_535)
properties = st.none() | st.builds(
    Properties,
    payload_format_indicator=st.none() | st.integers(0, 1),
    message_expiry_interval=st.none() | numbers,
    content_type=st.none() | text,
    response_topic=st.none() | text,
    correlation_data=st.none() | st.binary(max_size=5),
    user_properties=st.lists(st.tuples(text, text), max_size=2),
    will_delay_interval=st.none() | numbers,
)
bodies = st.builds(Body, payload=st.binary(max_size=20), properties=properties, expires_at=times)
messages = st.builds(Message, topic=topics, body=bodies, qos=qos, retain=st.booleans())
wills = st.none() | st.builds(StoredWill, message=messages, due_at=times, delay=numbers, number=numbers)
sessions = st.builds(
    StoredSession,
    client_id=client_ids,
    principal=text,
    expiry_interval=numbers,
    expires_at=times,
    will=wills,
    number=st.integers(0, 2**47),
)
subscriptions = st.builds(
    StoredSubscription,
    topic_filter=filters,
    qos=qos,
    no_local=st.booleans(),
    retain_as_published=st.booleans(),
    retain_handling=qos,
    subscription_identifier=st.none() | st.integers(1, 268_435_455),
)
rows = st.builds(
    StoredOutbound,
    sequence=st.integers(1, 4),
    message_key=st.none() | st.integers(1, 5),
    handle=st.none() | st.integers(0, 2**62),
    qos=qos,
    packet_id=st.integers(0, 65_535),
    released=st.booleans(),
    retain=st.booleans(),
    subscription_identifiers=st.lists(numbers, max_size=2).map(tuple),
)
COMMIT = "commit"
OF_A_SESSION = {f"{verb}_{noun}" for verb in ("save", "delete") for noun in ("subscription", "outbound", "received")}
calls = st.one_of(
    st.tuples(st.just("save_session"), sessions),
    st.tuples(st.just("delete_session"), client_ids),
    st.tuples(st.just("save_subscription"), client_ids, subscriptions),
    st.tuples(st.just("delete_subscription"), client_ids, filters),
    st.tuples(st.just("save_message"), messages),
    st.tuples(st.just("delete_message"), st.integers(0, 10)),
    st.tuples(st.just("save_outbound"), client_ids, rows),
    st.tuples(st.just("delete_outbound"), client_ids, st.integers(1, 4)),
    st.tuples(st.just("save_received"), client_ids, packet_ids),
    st.tuples(st.just("delete_received"), client_ids, packet_ids),
    st.tuples(st.just("save_retained"), messages),
    st.tuples(st.just("delete_retained"), topics),
    st.tuples(
        st.just("save_published_will"),
        st.builds(PublishedWill, number=st.integers(1, 4), client_id=client_ids, message=messages),
    ),
    st.tuples(st.just("delete_published_will"), st.integers(1, 4)),
    st.tuples(st.just(COMMIT)),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=st.lists(calls, max_size=40))
def test_gives_back_what_was_appended(tmp_path_factory: pytest.TempPathFactory, log: list[tuple[Any, ...]]) -> None:
    """Any calls come back, wherever the groups end between them."""
    path = tmp_path_factory.mktemp("store") / "broker.db"
    model = Model()

    async def append(store: SqliteStore) -> None:
        key = 0
        for name, *arguments in log:
            if name == COMMIT:
                await on_disk(store)
                continue
            if name == "save_message":
                key += 1  # the broker never uses a key twice
                arguments = [key, *arguments]
            elif name in OF_A_SESSION and arguments[0] not in model.sessions:
                continue  # the broker saves a session before what belongs to it
            for target in (store, model):
                getattr(target, name)(*arguments)

    with_store(path, append)
    assert restored(path) == plain(model.state())


# -- groups and barriers -----------------------------------------------------------------------------------------------


async def test_a_barrier_with_nothing_to_wait_for_calls_at_once(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())
    called: list[str] = []
    store.barrier(lambda: called.append("now"))
    assert called == ["now"]
    await store.close()


async def test_barriers_call_in_the_order_they_were_set_across_groups(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())
    called: list[int] = []
    for number in range(200):
        if number % 3 == 0:
            store.save_received("kiosk-1", number + 1)
        store.barrier(partial(called.append, number))
        if number % 20 == 0:
            await asyncio.sleep(0)  # lets a group go to the writer, so that later barriers belong to another
    await on_disk(store)
    assert called == list(range(200))
    await store.close()


async def test_a_callback_may_change_and_wait_again(tmp_path: Path) -> None:
    """Changes of a callback are on disk when the barrier that it sets calls back."""
    store = SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())
    called: list[str] = []
    done = asyncio.get_running_loop().create_future()

    def first() -> None:
        called.append("first")
        store.barrier(lambda: called.append("nothing new"))
        store.save_received("kiosk-1", 2)
        store.barrier(second)

    def second() -> None:
        assert read_packet_ids(tmp_path / "broker.db") == [1, 2]
        called.append("second")
        done.set_result(None)

    store.save_received("kiosk-1", 1)
    store.barrier(first)
    await done
    assert called == ["first", "nothing new", "second"]
    await store.close()


async def test_what_nobody_waits_for_is_written_soon(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())
    store.save_received("kiosk-1", 7)
    deadline = asyncio.get_running_loop().time() + 10.0
    while not read_packet_ids(tmp_path / "broker.db"):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(group_commit.LINGER_SECONDS)  # the file is another connection's: nothing to wait on
    await store.close()


async def test_a_callback_that_fails_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())
    store.save_received("kiosk-1", 1)
    store.barrier(lambda: [][0])
    await on_disk(store)
    assert "callback failed" in caplog.text
    await store.close()


async def test_a_message_larger_than_a_statement_and_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.sqlite_tables.BYTES_PER_STATEMENT", 1_000)
    monkeypatch.setattr("broker.sqlite_tables.ROWS_PER_STATEMENT", 7)
    payloads = [bytes([number]) * (number * 37 % 1_500) for number in range(60)]
    store = SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())
    for key, payload in enumerate(payloads):
        store.save_message(key, Message("t", Body(payload)))
    await store.close()
    store = SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())
    kept = store.restore().messages
    assert [kept[key].body.payload for key in range(60)] == payloads
    await store.close()


# -- a disk that refuses -----------------------------------------------------------------------------------------------


async def test_a_full_disk_acknowledges_nothing_until_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(group_commit, "RETRY_SECONDS", 0.01)
    disk = {"full": True}
    tried = asyncio.Event()
    loop = asyncio.get_running_loop()
    apply = sqlite_tables.apply

    def apply_or_fail(connection: sqlite3.Connection, group: Any) -> None:
        apply(connection, group)
        if disk["full"]:
            loop.call_soon_threadsafe(tried.set)
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("broker.sqlite_tables.apply", apply_or_fail)
    store = SqliteStore(tmp_path / "broker.db", loop)
    called: list[int] = []
    done = loop.create_future()
    store.save_received("kiosk-1", 1)
    store.barrier(lambda: called.append(1))
    for _ in range(3):
        await tried.wait()
        tried.clear()
    assert problem(store) == "OperationalError: database or disk is full"
    store.save_received("kiosk-1", 2)
    store.barrier(lambda: done.set_result(None))
    assert called == []
    assert read_packet_ids(tmp_path / "broker.db") == []
    disk["full"] = False
    await done
    assert called == [1]
    assert problem(store) is None
    assert read_packet_ids(tmp_path / "broker.db") == [1, 2]
    assert caplog.text.count("cannot be stored") == 1
    await store.close()


async def test_closing_on_a_full_disk_gives_up_and_calls_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: sqlite3.Connection, group: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("broker.sqlite_tables.apply", fail)
    store = SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())
    called: list[int] = []
    store.save_received("kiosk-1", 1)
    store.barrier(lambda: called.append(1))
    await store.close()
    assert called == []


# -- the file ----------------------------------------------------------------------------------------------------------


async def test_a_second_user_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    first = SqliteStore(tmp_path / "broker.db", loop)
    with pytest.raises(StoreInUse):
        SqliteStore(tmp_path / "broker.db", loop)
    await first.close()
    await SqliteStore(tmp_path / "broker.db", loop).close()


async def test_a_file_of_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "broker.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreTooNew):
        SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())


async def test_a_commit_is_synced_and_the_files_are_their_owners(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
    store.save_received("kiosk-1", 1)
    await on_disk(store)
    files = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(files) >= {"broker.db", "broker.db-wal", "broker.db.lock"}
    assert set(files.values()) == {0o600}
    await store.close()


async def test_remembers_the_latest_server_time(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    store = SqliteStore(tmp_path / "broker.db", loop)
    assert store.last_time() == 0.0
    store.keep_time(lambda: 1_234.5)
    store.save_received("kiosk-1", 1)
    await store.close()
    store = SqliteStore(tmp_path / "broker.db", loop)
    assert store.last_time() == 1_234.5
    await store.close()


def claimed(path: Path, size: int, used: bool = True) -> int:
    """Return the first identifier of a run; `used`: a session was saved in it."""

    async def run(store: SqliteStore) -> int:
        first = store.claim_packet_ids(size)
        if used:
            store.save_session(StoredSession("kiosk-1", "kiosk-1", 0, None))
        return first

    return with_store(path, run)


def test_each_run_gets_other_packet_identifiers(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    assert [claimed(path, 2_048) for _ in range(3)] == [1, 2_049, 4_097]
    assert claimed(path, 30_000) == 6_145, "with other settings, too"
    assert [claimed(path, 30_000) for _ in range(2)] == [1, 30_001]
    assert claimed(path, 10_000) == 1, "round the end, if they would pass it"


def test_a_run_that_began_no_session_uses_up_no_packet_identifiers(tmp_path: Path) -> None:
    """A service manager may start a server again and again that cannot listen."""
    path = tmp_path / "broker.db"
    first = claimed(path, 2_048)
    assert {claimed(path, 2_048, used=False) for _ in range(100)} == {first + 2_048}


async def test_packet_identifiers_are_on_disk_before_anything_else(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())
    assert store.claim_packet_ids(2_048) == 1
    with closing(sqlite3.connect(tmp_path / "broker.db")) as other:
        assert other.execute("SELECT next_packet_id FROM server").fetchall() == [(2_049,)]
    store.keep_time(lambda: 7.0)
    store.save_received("kiosk-1", 1)
    await on_disk(store)
    with closing(sqlite3.connect(tmp_path / "broker.db")) as other:
        assert other.execute("SELECT time, next_packet_id FROM server").fetchall() == [(7_000_000, 2_049)]
    await store.close()


async def test_a_start_needs_no_space_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_path = tmp_path / "broker.db"
    set_next = sqlite_tables.set_next_packet_id
    monkeypatch.setattr(group_commit, "RETRY_SECONDS", 0.01)

    def full(connection: sqlite3.Connection, packet_id: int) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite_tables, "set_next_packet_id", full)
    store = SqliteStore(with_path, asyncio.get_running_loop())
    assert store.claim_packet_ids(2_048) == 1
    monkeypatch.setattr(sqlite_tables, "set_next_packet_id", set_next)
    await on_disk(store)
    with closing(sqlite3.connect(with_path)) as other:
        assert other.execute("SELECT next_packet_id FROM server").fetchall() == [(2_049,)]
    await store.close()


def test_a_message_that_an_earlier_version_noted_is_not_stored_again(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with closing(sqlite3.connect(path)) as older:
        older.executescript(f"{VERSION_1} PRAGMA user_version = 1;")
        older.execute("INSERT INTO session (client_id, principal, expiry_interval) VALUES ('a', 'a', 7)")
        older.execute("INSERT INTO received VALUES ('a', 77)")
        older.commit()

    async def receive(store: SqliteStore) -> None:
        store.save_received("a", 78)

    with_store(path, receive)
    (session,) = with_store(path, read).sessions
    assert (session.received, session.stored) == ([77, 78], {77})


def test_a_file_of_version_1_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with closing(sqlite3.connect(path)) as older:
        older.executescript(f"{VERSION_1} PRAGMA user_version = 1;")
        for client_id in ("kiosk-1", "kiosk-2"):
            older.execute(
                "INSERT INTO session (client_id, principal, expiry_interval, will_topic, will_payload, will_qos,"
                " will_retain, will_delay) VALUES (?1, ?1, 7, 'w', x'', 1, 0, 0)",
                (client_id,),
            )
        older.commit()
    assert [claimed(path, 2_048, used=False) for _ in range(2)] == [16_383] * 2, "far from what that version has used"
    sessions = {session.client_id: session for session in with_store(path, read).sessions}
    assert {session.number for session in sessions.values()} == {1, 2}
    assert [session.will.number for session in sessions.values() if session.will is not None] == [0, 0]
    void_sessions(path)
    assert 40_000 < claimed(path, 2_048) < 60_000


def test_a_copy_of_an_earlier_time_goes_on_without_its_sessions(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def fill(store: SqliteStore) -> int:
        store.save_session(StoredSession("kiosk-1", "kiosk-1", 100, None))
        store.save_subscription("kiosk-1", StoredSubscription("a", 2))
        store.save_message(1, Message("a", Body(b"queued")))
        store.save_outbound("kiosk-1", StoredOutbound(1, 1, None, 2, 3))
        store.save_received("kiosk-1", 5)
        store.save_retained(Message("b", Body(b"kept"), retain=True))
        return store.claim_packet_ids(2_048)

    with_store(path, fill)
    void_sessions(path)
    assert not path.with_name("broker.db-wal").exists(), "it stands alone"
    state = restored(path)
    assert state["sessions"] == state["messages"] == {}
    assert set(state["retained"]) == {"b"}
    assert 30_000 < claimed(path, 2_048) < 40_000, "far from what the runs since then may have used"


def read_packet_ids(path: Path) -> list[int]:
    """Read the committed value, as another process would."""
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT packet_id FROM received ORDER BY packet_id")]
    finally:
        connection.close()


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def test_everything_whose_barrier_called_survives_kill_9(tmp_path: Path, full: int) -> None:
    for attempt in range(5 * full):
        path = tmp_path / f"{attempt}.db"
        code = f"from tests.broker.endless_writer import write_for_ever; write_for_ever({str(path)!r})"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as child:
            assert child.stdout is not None
            printed = [child.stdout.readline() for _ in range(1 + 150 * attempt)]
            child.send_signal(signal.SIGKILL)
            printed += child.stdout.readlines()
        assert printed[-1].endswith(b"\n"), "a line is written by one system call"
        state = restored(path)
        for line in printed:
            number = int(line)
            assert state["messages"][number][3] == b"%d" % number
            assert f"retained/{number}" in state["retained"]
        sequences = {sequence for sequence, _ in state["sessions"]["kiosk-1"]["outbound"]}
        assert sequences >= {int(line) for line in printed}
        assert sequences == set(state["messages"]), "a group is whole or absent"
