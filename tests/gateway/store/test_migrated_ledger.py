"""A ledger from before deliveries were stored as sets goes on where it was: nothing is lost, repeated or counted
twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pyroaring import BitMap

from broker.network.listeners import BrokerServer
from broker.network.transport import TcpTransport
from broker.sqlite_store import SqliteStore
from broker.store import StoredOutbound, StoredSession, StoredSubscription
from gateway.auth import secret_hash
from gateway.data_directory import KEY_FILE
from gateway.delivery_handles import handle_of
from gateway.keys import insert_key
from gateway.roles import SCOPES
from gateway.store.deliveries.event_log import DELIVERY_TYPES, EventPage, Position, read_events
from tests import wire
from tests.costs.server import KeptSocket
from tests.gateway.in_process import START, InProcessGateway
from tests.gateway.store.test_migrations import ledger_of

pytestmark = pytest.mark.sqlite("files of an earlier version")

REVISION = "0016"
DEVICES = 40
NEWS, PRICES, RELEASED, UNRELEASED, FIRST_OF_DEEP = 1, 2, 3, 4, 10
"""Numbers of pushes."""
DEEP, DEEP_PUSHES = 31, 150
EXACTLY_ONCE = 2
"""The device with two deliveries of QoS 2 in flight: PUBREC has come of RELEASED."""
DELIVERED = range(1, 11)
DISPLAYED = 1
TOLD = 20
"""Devices that NEWS was for, and PRICES."""


@cache
def old_ledger() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "old.db"
        write_ledger(path)
        return path.read_bytes()


def write_ledger(path: Path) -> None:
    """What a server of the earlier version has left, with nothing counted of NEWS but that it was accepted."""
    connection = ledger_of(REVISION, path)
    connection.execute("INSERT INTO application (no, id, created_at) VALUES (1, 'default', 0)")
    insert_key(connection, "default", "first start", SCOPES, secret_hash("key"), START)
    connection.executemany(
        "INSERT INTO device (no, app_no, id, token_hash, created_at, updated_at) VALUES (?, 1, ?, ?, 0, 0)",
        [(no, f"d{no}", secret_hash(f"token-{no}")) for no in range(1, DEVICES + 1)],
    )
    connection.execute("INSERT INTO device_tag SELECT 1, 'hall', no FROM device WHERE no <= 15")

    def push(no: int, devices: list[int], qos: int = 1, collapse_key: str | None = None) -> None:
        connection.execute(
            "INSERT INTO push (no, id, app_no, kind, priority, qos, ttl, collapse_key, target, content, size,"
            " accepted_at, expires_at, targeted, suppressed)"
            " VALUES (?, ?, 1, 'silent', 2, ?, 86400, ?, '{}', '{\"data\":1}', 150, ?, ?, ?, 0)",
            (no, f"old-{no}", qos, collapse_key, START - 5_000, START + 86_395_000, len(devices)),
        )
        connection.executemany(
            "INSERT INTO delivery (push_no, device_no, priority, size, state, collapse_key)"
            " VALUES (?, ?, 2, 150, 0, ?)",
            [(no, device_no, collapse_key) for device_no in devices],
        )

    push(NEWS, list(range(1, TOLD + 1)))
    push(PRICES, list(range(1, TOLD + 1)), collapse_key="prices")
    push(RELEASED, [EXACTLY_ONCE], qos=2)
    push(UNRELEASED, [EXACTLY_ONCE], qos=2)
    for no in range(FIRST_OF_DEEP, FIRST_OF_DEEP + DEEP_PUSHES):
        push(no, [DEEP])
    delivered = "state = 10, qos = 1, delivered_at = ?1"
    connection.execute(f"UPDATE delivery SET {delivered} WHERE push_no = ?2 AND device_no <= 10", (START - 4_000, NEWS))
    connection.execute(
        "UPDATE delivery SET state = 11, displayed_at = ? WHERE push_no = ? AND device_no = ?",
        (START - 3_000, NEWS, DISPLAYED),
    )
    connection.executemany(
        "INSERT INTO event (app_no, at, type, push_no, devices, size) VALUES (1, ?, ?, ?, ?, ?)",
        [
            (START - 4_000, "delivery.delivered", NEWS, json.dumps(list(DELIVERED)), len(DELIVERED)),
            (START - 3_000, "delivery.displayed", NEWS, json.dumps([DISPLAYED]), 1),
        ],
    )
    everybody, hall = ({"targeted": count, "eligible": count} for count in (TOLD, 15))
    connection.execute(
        "INSERT INTO push_funnel VALUES (?, ?)", (NEWS, json.dumps({"tally": everybody, "tags": {"hall": hall}}))
    )
    hour = (START - 5_000) // 3_600_000
    connection.executemany(
        "INSERT INTO funnel (app_no, dimension, key, hour, content) VALUES (1, ?, ?, ?, ?)",
        [
            ("all", "", hour, json.dumps(everybody)),
            ("channel", "", hour, json.dumps(everybody)),
            ("tag", "hall", hour, json.dumps(hall)),
        ],
    )
    connection.execute("INSERT INTO analytics_position VALUES (1, 0, ?, '[]')", (NEWS,))
    connection.commit()
    connection.close()


async def write_sessions(path: Path) -> None:
    store = SqliteStore(path, asyncio.get_running_loop())
    store.restore()
    client = f"d{EXACTLY_ONCE}"
    store.save_session(StoredSession(client, client, 0xFFFFFFFF, None))
    store.save_subscription(client, StoredSubscription(f"default/devices/{client}/push", 2))
    for sequence, (push_no, released) in enumerate([(RELEASED, True), (UNRELEASED, False)], 1):
        handle = handle_of(push_no, EXACTLY_ONCE)
        store.save_outbound(client, StoredOutbound(sequence, None, handle, 2, sequence, released))
    await store.close()


class Device:
    """A device of the old server, with its session: takes everything, and remembers what."""

    def __init__(self, mqtt: BrokerServer, number: int, qos: int = 1) -> None:
        name = f"d{number}"
        self.taken: list[str] = []
        self.released: list[int] = []
        self._socket = KeptSocket(f"10.0.0.{number}")
        self._connection = TcpTransport(mqtt, asyncio.get_running_loop())
        self._connection.connection_made(self._socket)
        self._connection.data_received(
            wire.connect(name, clean=False, keep_alive=0, username=name, password=f"token-{number}")
            + wire.subscribe(1, (f"default/devices/{name}/push", qos))
        )

    def take(self) -> None:
        """Answer what has come."""
        for first, body in packets(self._socket.taken()):
            if first & 0xF0 == 0x30:
                at = 2 + int.from_bytes(body[:2])
                packet_id = int.from_bytes(body[at : at + 2])
                self.taken.append(json.loads(body[at + 2 :])["push_id"])
                answer = wire.pubrec(packet_id) if first & 0x06 == 0x04 else wire.puback(packet_id)
                self._connection.data_received(answer)
            elif first & 0xF0 == 0x60:
                self.released.append(int.from_bytes(body[:2]))
                self._connection.data_received(wire.pubcomp(self.released[-1]))

    def hang_up(self) -> None:
        self._connection.connection_lost(None)


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        first, length, shift = data[at], 0, 0
        while True:
            at += 1
            length |= (data[at] & 0x7F) << shift
            shift += 7
            if data[at] < 0x80:
                break
        yield first, data[at + 1 : at + 1 + length]
        at += 1 + length


async def until(device: Device, condition: Callable[[], bool]) -> None:
    """Let a device take what comes until something is so."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, (device.taken, device.released)
        await asyncio.sleep(0.002)
        device.take()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    """A server of this version over the ledger of the earlier one."""
    (tmp_path / "fleetpush.db").write_bytes(old_ledger())
    await write_sessions(tmp_path / "broker.db")
    (tmp_path / KEY_FILE).write_text("key\n")
    gateway = await InProcessGateway.build(tmp_path, asyncio.get_running_loop())
    await gateway.components.recover()
    yield gateway
    await gateway.close()


async def counts(gateway: InProcessGateway, push_id: str) -> dict[str, int]:
    found = (await gateway.call("GET", f"/v1/pushes/{push_id}"))["counts"]
    assert sum(found.values()) == 2 * found["targeted"]
    return {state: count for state, count in found.items() if count}


async def event_ids(gateway: InProcessGateway) -> dict[str, tuple[str, str]]:
    """(push id, device id) of all events of deliveries, by id and type."""
    found: dict[str, tuple[str, str]] = {}
    page = EventPage([], Position(0), True)
    while page.more:
        after = page.position
        page = await gateway.database.read(lambda connection: read_events(connection, 1, after, 7, lambda _: True))  # noqa: B023  awaited here
        for event in [json.loads(event.json) for _, event in page.events]:
            if event["type"] in DELIVERY_TYPES:
                found[f"{event['id']} {event['type']}"] = (event["data"]["push_id"], event["data"]["device_id"])
    return found


async def test_what_waited_reaches_a_device_that_returns_once_and_in_order(gateway: InProcessGateway) -> None:
    device = Device(BrokerServer(gateway.components.broker), DEEP)
    await until(device, lambda: len(device.taken) >= DEEP_PUSHES)
    await gateway.components.flush()
    device.take()
    assert device.taken == [f"old-{no}" for no in range(FIRST_OF_DEEP, FIRST_OF_DEEP + DEEP_PUSHES)]
    for push_id in (device.taken[0], device.taken[-1]):
        assert await counts(gateway, push_id) == {"targeted": 1, "delivered": 1}
    assert (await gateway.call("GET", f"/v1/devices/d{DEEP}/mailbox"))["items"] == []
    device.hang_up()


async def test_what_was_in_flight_goes_on_exactly_once(gateway: InProcessGateway) -> None:
    device = Device(BrokerServer(gateway.components.broker), EXACTLY_ONCE, qos=2)
    await until(device, lambda: len(device.released) >= 2 and "old-2" in device.taken)
    await gateway.components.flush()
    assert "old-3" not in device.taken, "PUBREC had come"
    assert sorted(device.taken) == ["old-2", "old-4"]
    for push_id in ("old-3", "old-4"):
        assert await counts(gateway, push_id) == {"targeted": 1, "delivered": 1}
    device.hang_up()


async def test_a_new_push_to_all_supersedes_rows_and_counts_go_on(gateway: InProcessGateway) -> None:
    before = await event_ids(gateway)
    assert list(before.values())[: len(DELIVERED)] == [("old-1", f"d{no}") for no in DELIVERED]
    assert "2.0 delivery.displayed" in before
    new = await gateway.push({"all": True}, collapse_key="prices")
    assert await gateway.database.read(
        lambda connection: connection.execute("SELECT in_sets FROM push WHERE id = ?", (new,)).fetchone()
    ) == (1,)
    assert await counts(gateway, "old-2") == {"targeted": TOLD, "superseded": TOLD}
    assert await counts(gateway, "old-1") == {"targeted": TOLD, "waiting": 10, "delivered": 9, "displayed": 1}
    device = Device(BrokerServer(gateway.components.broker), TOLD)
    await until(device, lambda: len(device.taken) >= 2)
    await gateway.components.flush()
    assert device.taken == ["old-1", new]
    assert await counts(gateway, new) == {"targeted": DEVICES, "waiting": DEVICES - 1, "delivered": 1}
    funnel = await gateway.call("GET", "/v1/analytics/pushes/old-1")
    assert [funnel[stage] for stage in ("targeted", "eligible", "delivered", "acted")] == [TOLD, TOLD, 11, 0]
    (tag,) = (await gateway.call("GET", "/v1/analytics?by=tag"))["items"]
    assert (tag["tag"], tag["targeted"], tag["delivered"]) == ("hall", 15 + 15 + 15 + 2, 10)
    assert (await gateway.call("DELETE", "/v1/pushes/old-1"))["cancelled"] == 9
    after = await event_ids(gateway)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + TOLD + 2 + 9
    device.hang_up()


async def test_deep_mailboxes_are_known(gateway: InProcessGateway) -> None:
    (blob,) = await gateway.database.read(
        lambda connection: connection.execute("SELECT devices FROM deep_mailbox").fetchone()
    )
    assert list(BitMap.deserialize(blob)) == [DEEP]
