"""Connections at other nodes: what is shown of them, from whichever node, and what a peer makes up is left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pyroaring import BitMap

from broker.broker import Broker
from gateway.auth import DeviceIdentity
from gateway.delivery.connections_elsewhere import ConnectionHistory, LiveConnection, Presence
from gateway.delivery.engine import ConnectionFacts
from gateway.delivery.recent_disconnects import Disconnect
from gateway.device_topics import client_id
from gateway.nodes.connected_sets import ConnectedSets
from gateway.nodes.membership import Node
from gateway.nodes.peer_client import PeerUnavailable
from gateway.nodes.peer_connections import ADDRESS_CHARACTERS, ANSWERED_APPS, QUESTION_DEVICES, VERB, PeerConnections
from gateway.nodes.peer_routes import BODY_BYTES, MalformedQuestion
from tests.gateway.nodes.peers import until
from tests.nodes import gateways_in_process

FIRST, SECOND = Node(1, 1, "http://first", "1"), Node(2, 1, "http://second", "2")
LIVE = LiveConnection(1_000, "192.0.2.7:5000", ConnectionFacts(5, 60, "mqtts"), 1, 2)
END = Disconnect(900, 100, "network", "gone")
LONGEST = "x" * ADDRESS_CHARACTERS


class Here:
    """The connections of the second node."""

    def __init__(self) -> None:
        self.address = LONGEST
        self.online_by_app = {1: 7, 3: 2}

    def presence(self, device_no: int) -> Presence:
        return Presence(True, (1 << 63) - 1, self.address)

    def history(self, device_no: int) -> ConnectionHistory:
        return ConnectionHistory(LIVE, 500, [END])

    def online_here(self, app_no: int) -> int:
        return 7

    def online_by_app_here(self) -> dict[int, int]:
        return self.online_by_app


class Fleet:
    """The first node asks the second."""

    def __init__(self, device_nos: Sequence[int] = ()) -> None:
        self.here = Here()
        self.answer: bytes | None = None
        """What the second answers instead."""
        self.is_away = False
        self.questions = 0
        sets = ConnectedSets(
            own=FIRST, connected=BitMap, peers=lambda: [SECOND], is_live=lambda no, epoch: True, ask=self._ask
        )
        sets._told[SECOND.no] = SECOND, BitMap(device_nos)
        self.second = PeerConnections(here=lambda: self.here, sets=sets, peers=list, ask=self._ask)
        self.first = PeerConnections(here=lambda: self.here, sets=sets, peers=lambda: [SECOND], ask=self._ask)

    async def _ask(self, node: Node, verb: str, body: bytes, timeout_s: float) -> bytes:
        assert (node, verb) == (SECOND, VERB)
        self.questions += 1
        if self.is_away:
            raise PeerUnavailable("away")
        answer = await self.second.answer(body) if self.answer is None else self.answer
        assert max(len(body), len(answer)) <= BODY_BYTES
        return answer


async def test_presence_is_asked_of_the_node_that_has_the_device() -> None:
    fleet = Fleet([5])
    assert await fleet.first.presences([5, 6]) == {5: Presence(True, (1 << 63) - 1, LONGEST)}
    assert await fleet.first.presences([6]) == {}
    assert fleet.questions == 1


async def test_the_longest_page_fits() -> None:
    first = (1 << 32) - 2 * QUESTION_DEVICES
    device_nos = range(first, first + QUESTION_DEVICES + 1)
    fleet = Fleet(device_nos)
    found = await fleet.first.presences(device_nos)
    assert list(found) == list(device_nos)
    assert {presence.address for presence in found.values()} == {LONGEST}
    assert fleet.questions == 2


async def test_who_is_online_is_known_although_the_node_does_not_answer() -> None:
    fleet = Fleet([5])
    fleet.is_away = True
    assert await fleet.first.presences([5]) == {5: Presence(True, None, None)}
    assert await fleet.first.histories(5) == []
    assert await fleet.first.online_of(1) == 0


async def test_the_history_of_a_device_comes_as_it_is_there() -> None:
    fleet = Fleet()
    assert await fleet.first.histories(5) == [ConnectionHistory(LIVE, 500, [END])]
    assert await fleet.first.online_of(1) == 7
    assert await fleet.first.online_by_app() == {1: 7, 3: 2}


async def test_apps_are_as_many_as_an_answer_holds() -> None:
    fleet = Fleet()
    most = (1 << 31) - 1
    fleet.here.online_by_app = {most - n: most for n in range(ANSWERED_APPS)} | {1: 1}
    found = await fleet.first.online_by_app()
    assert len(found) == ANSWERED_APPS
    assert 1 not in found


@pytest.mark.parametrize(
    "answer", [b"", b"null", b"[1]", b"[[5]]", b"[[5, -1]]", b'[[5, "1"]]', b"[[5, 1, 1]]", b"true"]
)
async def test_what_a_peer_makes_up_of_apps_is_left_out(answer: bytes) -> None:
    fleet = Fleet()
    fleet.answer = answer
    assert await fleet.first.online_by_app() == {}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"{}",
        b"[]",
        b"[1]",
        b"[[5, 1]]",
        b'[[6, 1, "x"]]',
        b'[[5, -1, "x"]]',
        b'[[5, true, "x"]]',
        b'[["5", 1, "x"]]',
        b"[" * BODY_BYTES,
        b"\xff",
        b"true",
        b"-1",
    ],
)
async def test_what_a_peer_makes_up_is_left_out(answer: bytes) -> None:
    fleet = Fleet([5])
    fleet.answer = answer
    assert await fleet.first.presences([5]) == {5: Presence(True, None, None)}
    assert await fleet.first.histories(5) == []
    assert await fleet.first.online_of(1) == 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([None, 1, []], ConnectionHistory(None, 1, [])),
        ([[1, "a", None, None, 0], 1, []], ConnectionHistory(LiveConnection(1, "a", None, None, 0), 1, [])),
        ([[1, "a", [9, 1, "mqtt"], None, 0], 1, []], ConnectionHistory(LiveConnection(1, "a", None, None, 0), 1, [])),
        ([[1, "a", [5, 1, "x"], None, 0], 1, []], ConnectionHistory(LiveConnection(1, "a", None, None, 0), 1, [])),
        ([[1, 2, None, None, 0], 1, []], ConnectionHistory(None, 1, [])),
        ([[1, "a", None, "x", 0], 1, []], ConnectionHistory(None, 1, [])),
        ([None, 1, [[1, 2, "no reason", ""]]], ConnectionHistory(None, 1, [])),
        ([None, 1, [[1, 2, "network", ""]]], ConnectionHistory(None, 1, [Disconnect(1, 2, "network", "")])),
        ([None, -1, []], None),
        ([None, 1, [[1, 2, "network", ""]] * 11], None),
        ([None, 1], None),
    ],
)  # fmt: skip
async def test_of_a_history_what_can_be_shown_is(answer: Any, expected: ConnectionHistory | None) -> None:
    fleet = Fleet()
    fleet.answer = json.dumps(answer).encode()
    assert await fleet.first.histories(5) == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"presence": 1}',
        b'{"presence": ["1"]}',
        b'{"history": -1}',
        b'{"history": true}',
        b'{"online": []}',
        b'{"online": 1, "history": 1}',
        b'{"other": 1}',
        b'{"apps": -1}',
        json.dumps({"presence": [1] * (QUESTION_DEVICES + 1)}).encode(),
        b"[" * BODY_BYTES,
    ],
)
async def test_what_asks_for_no_connections_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedQuestion):
        await Fleet().second.answer(body)


async def test_every_node_shows_who_is_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateways_in_process(tmp_path, 2) as (first, second):
        await first.enrol("kiosk-1", "kiosk-2")
        connections = second.components.delivery.connections
        device_no = await second.components.enrolment.devices.number(1, "kiosk-1")
        name = client_id("default", "kiosk-1")
        identity = DeviceIdentity(device_no, 1, "default", "kiosk-1", name, "192.0.2.7:5000")
        monkeypatch.setattr(Broker, "deliver_to", lambda broker, client_id: lambda message, handle: False)
        connections.connected(name, identity, False)
        peers = first.components.peers
        assert peers is not None
        await until(peers.connected_sets.elsewhere)
        for gateway in (first, second):
            devices = (await gateway.call("GET", "/v1/devices"))["items"]
            assert [(device["device_id"], device["online"]) for device in devices] == [
                ("kiosk-1", True), ("kiosk-2", False)
            ]  # fmt: skip
            assert devices[0]["connected_at"] is not None
            assert devices[0]["address"] == "192.0.2.7:5000"
            online = (await gateway.call("GET", "/v1/devices?online=true"))["items"]
            assert [device["device_id"] for device in online] == ["kiosk-1"]
            shown = await gateway.call("GET", "/v1/devices/kiosk-1/connection")
            assert (shown["online"], shown["address"]) == (True, "192.0.2.7:5000")
            assert (await gateway.call("GET", "/v1/stats"))["online"] == 1
            forecast = await gateway.call("POST", "/v1/pushes/forecast", json={"target": {"all": True}})
            assert (forecast["targeted"], forecast["online"]) == (2, 1)
        connections.disconnected(name, "connection lost")
        await until(lambda: not peers.connected_sets.elsewhere())
        for gateway in (first, second):
            shown = await gateway.call("GET", "/v1/devices/kiosk-1/connection")
            assert shown["online"] is False
            assert [end["reason"] for end in shown["disconnects"]] == ["network"]
