"""Take-over between two nodes in this process: what is waited for, refused, shared and left behind."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from broker.message import Body, Message
from broker.protocol.packets import (
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Properties,
    Puback,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
)
from broker.protocol.packets import SubscriptionRequest as Request
from broker.store import PublishedWill, StoredSession, StoredWill
from gateway.nodes import session_duty, takeover
from gateway.nodes.peer_routes import BODY_BYTES, MalformedQuestion
from gateway.store.errors import StorageContended
from tests.fakes import FakeClient, World
from tests.gateway.in_process import InProcessGateway
from tests.gateway.nodes.peers import until
from tests.nodes import gateways_in_process

Nodes = list[InProcessGateway]
KIOSK = "kiosk-1"


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    async with gateways_in_process(tmp_path, 2) as gateways:
        yield gateways


class NodeWorld(World):
    """The broker of a gateway, for a client of the broker's own tests."""

    def __init__(self, gateway: InProcessGateway) -> None:
        self.broker = gateway.components.broker
        self._gateway = gateway

    @property
    def clock(self) -> Any:  # type: ignore[override]  # of the gateway
        class Now:
            now = self._gateway.clock()

        return Now


async def enrol(gateway: InProcessGateway) -> str:
    return str((await gateway.call("POST", "/v1/devices", 201, json={"device_id": KIOSK}))["token"])


def begin(gateway: InProcessGateway, token: str) -> FakeClient:
    """A CONNECT that is on its way."""
    client = FakeClient(NodeWorld(gateway), V5)
    properties = Properties(session_expiry_interval=3600)
    client.send(Connect(KIOSK, V5, False, username=KIOSK, password=token.encode(), properties=properties))
    return client


async def connack(client: FakeClient) -> Connack:
    packets: list[Any] = []

    def has_come() -> bool:
        packets.extend(client.received())
        return bool(packets)

    await until(has_come)
    assert isinstance(packets[0], Connack)
    return packets[0]


async def the_next(client: FakeClient, kind: type[Packet]) -> Any:
    """The next packet of a kind, which comes soon; what comes before it is passed over."""
    found: list[Any] = []

    def has_come() -> bool:
        found.extend(packet for packet in client.received() if isinstance(packet, kind))
        return bool(found)

    await until(has_come)
    assert len(found) == 1
    return found[0]


async def connect(gateway: InProcessGateway, token: str) -> tuple[FakeClient, Connack]:
    client = begin(gateway, token)
    return client, await connack(client)


def takeover_of(gateway: InProcessGateway) -> takeover.Takeover:
    assert gateway.components.moving_sessions is not None
    return gateway.components.moving_sessions.takeover


def database(gateway: InProcessGateway) -> str:
    url = gateway.components._settings.database
    assert url is not None
    return url


def execute(gateway: InProcessGateway, statement: str) -> list[Any]:
    with psycopg.connect(database(gateway), autocommit=True, options="-c search_path=fleetpush") as connection:
        rows = connection.execute(statement.encode())
        return rows.fetchall() if rows.description else []


def claim_by(gateway: InProcessGateway) -> tuple[int, bytes]:
    """The device's number, and what a node asks that wants the device as it is connected now."""
    ((device_no, generation),) = execute(gateway, "SELECT device_no, generation FROM connection")
    assert gateway.components.membership is not None
    own = gateway.components.membership.own
    body = {"node": [own.no, own.epoch], "devices": [[device_no, generation, KIOSK]]}
    return device_no, json.dumps(body).encode()


@contextmanager
def held_row(gateway: InProcessGateway) -> Iterator[None]:
    """The device's row is locked, so that a claim waits for it."""
    with psycopg.connect(database(gateway), options="-c search_path=fleetpush") as connection:
        assert connection.execute(b"SELECT 1 FROM connection FOR UPDATE").fetchone()
        yield


async def test_a_device_moves_and_its_session_is_present(nodes: Nodes) -> None:
    first, second = nodes
    token = await enrol(first)
    here, answer = await connect(first, token)
    assert not answer.session_present
    here.send(Subscribe(1, [Request(f"default/devices/{KIOSK}/push", 1)]))
    await the_next(here, Suback)
    there, answer = await connect(second, token)
    assert answer.session_present
    assert here.is_closed()
    goodbye = here.receive(Disconnect)
    assert goodbye.properties is not None
    assert (goodbye.reason_code, goodbye.properties.reason_string) == (0x8E, "session taken over")
    assert KIOSK not in first.components.broker.sessions
    await second.push({"device": KIOSK})
    await the_next(there, Publish)
    assert (takeover_of(first).yielded, takeover_of(second).claimed) == (1, 1)
    await until(lambda: not takeover_of(second).waiting)


async def test_those_that_come_at_once_share_a_claim(nodes: Nodes) -> None:
    first, second = nodes
    token = await enrol(first)
    (await connect(first, token))[0].drop()
    clients = [begin(second, token) for _ in range(5)]
    answers = [await connack(client) for client in clients]
    assert all(answer.reason_code == 0 for answer in answers)
    assert [client.is_closed() for client in clients] == [True, True, True, True, False]
    assert takeover_of(second).claimed == 1


def is_one_open(clients: list[FakeClient]) -> bool:
    return sum(not client.is_closed() for client in clients) == 1


async def test_two_nodes_that_want_a_device_at_once_both_answer(nodes: Nodes) -> None:
    first, second = nodes
    token = await enrol(first)
    for _ in range(20):
        clients = [begin(gateway, token) for gateway in nodes]
        answers = [await connack(client) for client in clients]
        codes = {answer.reason_code for answer in answers}
        assert 0 in codes
        assert codes <= {0, 0x80}, "taken over before its CONNACK, which has no code for that"
        await until(partial(is_one_open, clients))
        assert first.components.broker.is_connected(KIOSK) != second.components.broker.is_connected(KIOSK)


async def test_a_claim_is_given_up_in_time_to_say_when_to_come(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = nodes
    token = await enrol(first)
    await connect(first, token)
    end = asyncio.Event()

    async def silent(body: bytes) -> bytes:
        await end.wait()
        return b""

    assert first.components.peers is not None
    first.components.peers.verbs._verbs[takeover.VERB].answer = silent
    monkeypatch.setattr(takeover, "GIVE_UP_SECONDS", second.components.broker.settings.connect_timeout - 1)
    monkeypatch.setattr(takeover, "YIELD_SECONDS", 0.2)
    client, answer = await connect(second, token)
    assert answer.reason_code == 0x88
    assert answer.properties is not None
    assert answer.properties.user_properties, "when to come"
    assert client.is_closed()
    assert takeover_of(second).given_up == 1
    assert not takeover_of(second).waiting
    assert first.components.broker.is_connected(KIOSK)
    end.set()  # a node that ends waits for what it was asked


async def test_a_device_of_a_node_that_has_ended_is_anybodys(nodes: Nodes) -> None:
    first, second = nodes
    token = await enrol(first)
    await connect(first, token)
    execute(first, "UPDATE node SET epoch = epoch + 1, ended_at = 1 WHERE no = (SELECT node_no FROM connection)")
    _, answer = await connect(second, token)
    assert answer.session_present
    assert takeover_of(first).yielded == 0


async def test_a_token_that_is_void_meanwhile_is_refused(nodes: Nodes) -> None:
    first, second = nodes
    token = await enrol(first)
    (await connect(second, token))[0].drop()
    await until(lambda: KIOSK not in second.components.broker.sessions)
    with held_row(second):
        client = begin(second, token)
        await until(lambda: takeover_of(second).waiting)
        await second.call("POST", f"/v1/devices/{KIOSK}/token", 200)
    assert (await connack(client)).reason_code == 0x86
    assert client.is_closed()
    await until(lambda: KIOSK not in second.components.broker.sessions)


async def test_a_wrong_token_claims_nothing(nodes: Nodes) -> None:
    first, second = nodes
    token = await enrol(first)
    here, _ = await connect(first, token)
    _, answer = await connect(second, "dev_wrong")
    assert answer.reason_code == 0x86
    assert not here.is_closed()
    assert not takeover_of(second).waiting


async def test_who_is_being_claimed_is_not_yielded(nodes: Nodes) -> None:
    first, second = nodes
    token = await enrol(first)
    (await connect(first, token))[0].drop()
    await until(lambda: KIOSK not in first.components.broker.sessions)
    _, question = claim_by(second)
    with held_row(first):
        client = begin(first, token)
        await until(lambda: takeover_of(first).waiting)
        assert json.loads(await takeover_of(first).answer(question)) == {"moved": []}
    assert (await connack(client)).reason_code == 0
    assert json.loads(await takeover_of(first).answer(question)) == {"moved": []}, "that was another generation"


async def test_an_acknowledgement_is_stored_before_the_device_is_another_nodes(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes
    token = await enrol(first)
    here, _ = await connect(first, token)
    here.send(Subscribe(1, [Request(f"default/devices/{KIOSK}/push", 1)]))
    await the_next(here, Suback)
    push_id = await first.push({"device": KIOSK})
    publish = await the_next(here, Publish)
    monkeypatch.setattr(first.components.delivery.ledger, "_gather", lambda: None)  # nobody else has it stored
    here.send(Puback(publish.packet_id))
    there, _ = await connect(second, token)
    counts = (await second.call("GET", f"/v1/pushes/{push_id}"))["counts"]
    assert counts["delivered"] == 1
    await second.push({"device": KIOSK})
    again = await the_next(there, Publish)
    assert push_id.encode() not in again.payload, "it comes once"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"node": 1, "devices": []}',
        b'{"node": [1, 2], "devices": [1]}',
        b'{"devices": [[1, 2, "a"]]}',
    ],
)
async def test_a_question_that_is_none_is_refused(nodes: Nodes, body: bytes) -> None:
    with pytest.raises(MalformedQuestion):
        await takeover_of(nodes[0]).answer(body)


def test_a_question_fits() -> None:
    claims = [(takeover._Claim(2**62 + number, "a" * 97, 0.0), 2**62) for number in range(5_000)]
    parts = list(takeover._parts(claims))
    assert sum(map(len, parts)) == 5_000
    for part in parts:
        devices = [[claim.device_no, generation, claim.client_id] for claim, generation in part]
        body = json.dumps({"node": [2**62, 2**62], "devices": devices}, separators=(",", ":"))
        assert len(body) <= BODY_BYTES


# -- what a device leaves at the node that yields it -------------------------------------------------------------------


async def subscribed(gateway: InProcessGateway, token: str) -> FakeClient:
    client, _ = await connect(gateway, token)
    client.send(Subscribe(1, [Request(f"default/devices/{KIOSK}/push", 2)]))
    await the_next(client, Suback)
    return client


async def test_an_acknowledgement_that_was_refused_is_stored_before_its_device_moves(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of its app was not given in time, and it is tried again; the device must not be elsewhere by then."""
    first, second = nodes
    token = await enrol(first)
    here = await subscribed(first, token)
    await first.push({"device": KIOSK})
    publish = await the_next(here, Publish)
    database: Any = first.components._database
    submit = database.submit
    refused: list[Any] = []

    def refuse(operation: Any, on_commit: Any, on_error: Any, *arguments: Any, **options: Any) -> None:
        if refused or not callable(options.get("apps")):
            submit(operation, on_commit, on_error, *arguments, **options)
            return

        def fails(transaction: Any) -> None:
            raise StorageContended("another node has it")

        refused.append(operation)
        submit(fails, on_commit, on_error, *arguments, **options)

    first.components.delivery.ledger.flush()
    monkeypatch.setattr(database, "submit", refuse)
    here.send(Puback(publish.packet_id))
    there, answer = await connect(second, token)
    assert refused
    assert answer.session_present
    await second.push({"device": KIOSK})
    again = await the_next(there, Publish)
    assert json.loads(again.payload)["push_id"] != json.loads(publish.payload)["push_id"]


async def test_a_yield_does_not_wait_for_a_node_that_is_stopped_in_its_claim(nodes: Nodes) -> None:
    """The ledger of the node that is asked has locks of apps, for which everybody waits."""
    first, second = nodes
    token = await enrol(first)
    (await connect(first, token))[0].drop()
    await until(lambda: KIOSK not in first.components.broker.sessions)
    device_no, question = claim_by(second)
    with held_row(first):
        async with asyncio.timeout(1):
            assert json.loads(await takeover_of(first).answer(question)) == {"moved": []}
    assert json.loads(await takeover_of(first).answer(question)) == {"moved": [device_no]}


async def test_what_was_received_exactly_once_is_of_the_node_that_has_its_device(nodes: Nodes) -> None:
    first, second = nodes
    token = await enrol(first)
    here = await subscribed(first, token)
    for _ in range(3):
        await first.push({"device": KIOSK}, qos=2)
        publish = await the_next(here, Publish)
        here.send(Pubrec(publish.packet_id))
        await the_next(here, Pubrel)
    there, _ = await connect(second, token)
    assert [node.components.delivery.ledger.pushes.in_flight() for node in nodes] == [0, 3]
    there.drop()
    await until(lambda: KIOSK not in second.components.broker.sessions)
    await connect(first, token)
    assert [node.components.delivery.ledger.pushes.in_flight() for node in nodes] == [3, 0]


async def test_a_session_of_another_node_is_not_deleted_with_the_device_that_had_its_name(nodes: Nodes) -> None:
    """A node hears late that a device was removed, and the next one of that name has connected already."""
    first, second = nodes
    token = await enrol(first)
    here = await subscribed(first, token)
    second.components.delivery.connections.forget_device(KIOSK)
    done = asyncio.Event()
    second.components._sessions.barrier(done.set)
    await done.wait()
    here.drop()
    await until(lambda: KIOSK not in first.components.broker.sessions)
    _, answer = await connect(second, token)
    assert answer.session_present
    assert second.components.broker.granted_qos(KIOSK, f"default/devices/{KIOSK}/push") == 2


async def test_a_session_that_is_due_is_not_taken_from_a_device_that_has_come_back(nodes: Nodes) -> None:
    """It has connected between the look for what is due and the claim."""
    first, second = nodes
    token = await enrol(first)
    here = await subscribed(first, token)
    ((device_no,),) = execute(first, "SELECT device_no FROM connection")
    takeover_of(second).claim_due([(device_no, KIOSK)])
    await until(lambda: not takeover_of(second).waiting)
    assert not here.is_closed()
    assert first.components.broker.is_connected(KIOSK)
    here.drop()
    await until(lambda: KIOSK not in first.components.broker.sessions)
    takeover_of(second).claim_due([(device_no, KIOSK)])
    await until(lambda: not takeover_of(second).waiting)
    assert (takeover_of(first).yielded, takeover_of(second).claimed) == (1, 1)


async def test_a_node_without_a_lease_lets_nobody_in_before_its_row_says_so(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been declared ended, and the connection that it has be of before."""
    first, _ = nodes
    token = await enrol(first)
    await connect(first, token)
    await connect(first, token)
    assert takeover_of(first).claimed == 1, "a device takes its own place over"
    assert first.components.membership is not None
    monkeypatch.setattr(first.components.membership, "may_serve", lambda: False)
    await connect(first, token)
    assert takeover_of(first).claimed == 2


# -- sessions without a node -------------------------------------------------------------------------------------------


def duty_of(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> session_duty.SessionDuty:
    monkeypatch.setattr(session_duty, "LOOK_SECONDS", 0.0)
    assert gateway.components.moving_sessions is not None
    return gateway.components.moving_sessions.duty


async def uplink(gateway: InProcessGateway) -> list[str]:
    return [item["payload"] for item in (await gateway.call("GET", f"/v1/devices/{KIOSK}/uplink"))["items"]]


async def test_a_node_that_ended_leaves_wills_and_expiries(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = nodes
    await enrol(first)
    sessions, duty = first.components._sessions, duty_of(second, monkeypatch)
    topic = f"default/devices/{KIOSK}/uplink/gone"
    will = StoredWill(Message(topic, Body(b"will"), 1), None, delay=30, number=7)
    sessions.save_session(StoredSession(KIOSK, KIOSK, 60, None, will=will, number=5))
    sessions.save_session(StoredSession("removed", "removed", 60, 1.0, number=6))
    published = PublishedWill(8, KIOSK, Message(topic, Body(b"published"), 1))
    sessions.save_published_will(published)
    stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    sessions.barrier(lambda: stored.set_result(None))
    await stored
    await duty.load()
    second.components.broker.tick(second.clock())
    assert await uplink(second) == []
    execute(first, "UPDATE node SET epoch = epoch + 1, ended_at = 1 WHERE no = (SELECT min(node_no) FROM mqtt_session)")

    async def look(seconds: int) -> None:
        second.clock.milliseconds += seconds * 1000
        await duty.follow()
        await until(lambda: not takeover_of(second).waiting)
        second.components.broker.tick(second.clock())

    async def eventually(*expected: str) -> None:
        async with asyncio.timeout(15):
            for pause in itertools.repeat(0.01):
                found = await uplink(second)
                if found == list(expected):
                    return
                await asyncio.sleep(pause)

    await duty.load()
    await look(0)
    await eventually("published")
    await look(29)
    await eventually("published")
    await look(2)
    await eventually("will", "published")
    assert execute(second, "SELECT client_id FROM mqtt_session") == [(KIOSK,)]
    await until(lambda: KIOSK not in second.components.broker.sessions)
    await look(30)
    await until(lambda: not execute(second, "SELECT 1 FROM mqtt_session"))
    await until(lambda: not execute(second, "SELECT 1 FROM mqtt_published_will"))
    await until(lambda: not execute(second, "SELECT 1 FROM received_message"))
    await look(0)
    await eventually("will", "published")
