"""Nudges: they come, they are few, and nobody waits for one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pyroaring import BitMap

from gateway.nodes import nudges
from gateway.nodes.membership import Node
from gateway.nodes.nudges import NUDGE_APPS, NUDGE_PUSHES, NUDGE_SECONDS, VERB, Nudges
from gateway.nodes.peer_client import PeerClient, PeerUnavailable
from gateway.nodes.peer_routes import BODY_BYTES, MalformedQuestion
from tests.gateway.nodes.peers import MakePeer, read_question, until
from tests.nodes import gateways_in_process

MAX_NUMBER = (1 << 63) - 1
PEER, OTHER = Node(2, 1, "http://second", "2"), Node(3, 1, "http://third", "3")


class Peers:
    """Peers with a device each, which answer when a test lets them."""

    def __init__(self) -> None:
        self.asked: list[tuple[Node, Any]] = []
        self.sizes: list[int] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.is_away = False
        self.nudges = Nudges(holders=self._holders, ask=self._ask)

    def _holders(self, device_nos: BitMap | Sequence[int]) -> Sequence[Node]:
        return [node for node in (PEER, OTHER) if node.no in device_nos]

    async def _ask(self, node: Node, verb: str, body: bytes, timeout_s: float) -> bytes:
        assert (verb, timeout_s) == (VERB, NUDGE_SECONDS)
        self.sizes.append(len(body))
        self.asked.append((node, json.loads(body)))
        if self.is_away:
            raise PeerUnavailable("away")
        await self.may_answer.wait()
        return b""

    async def settle(self) -> None:
        while self.nudges._tasks:
            await asyncio.gather(*self.nudges._tasks.values())


@pytest.fixture
async def peers(monkeypatch: pytest.MonkeyPatch) -> Peers:
    monkeypatch.setattr(nudges, "PAUSE_SECONDS", 0)
    return Peers()


async def test_who_has_a_device_is_nudged_and_nobody_else(peers: Peers) -> None:
    peers.nudges.push_stored(1, 10, [PEER.no])
    peers.nudges.push_stored(1, 11, BitMap([4, OTHER.no]))
    peers.nudges.push_stored(1, 12, [4])
    await peers.settle()
    assert peers.asked == [(PEER, [[1, 10, [10]]]), (OTHER, [[1, 11, [11]]])]


async def test_pushes_that_come_meanwhile_are_merged(peers: Peers) -> None:
    peers.may_answer.clear()
    peers.nudges.push_stored(1, 1, [PEER.no])
    await asyncio.sleep(0)
    for push_no in (2, 3):
        peers.nudges.push_stored(1, push_no, [PEER.no])
    peers.nudges.push_stored(9, 4, [PEER.no])
    await asyncio.sleep(0)
    assert len(peers.asked) == 1  # one under way
    peers.may_answer.set()
    await peers.settle()
    assert peers.asked[1:] == [(PEER, [[1, 3, [2, 3]], [9, 4, [4]]])]


async def test_of_too_many_pushes_the_last_is_named(peers: Peers) -> None:
    for push_no in range(1, NUDGE_PUSHES + 2):
        peers.nudges.push_stored(1, push_no, [PEER.no])
    for push_no in range(1, NUDGE_PUSHES + 1):
        peers.nudges.push_stored(1, push_no, [OTHER.no])
    await peers.settle()
    said = {node.no: apps for node, apps in peers.asked}
    assert said[PEER.no] == [[1, NUDGE_PUSHES + 1, []]]
    assert said[OTHER.no] == [[1, NUDGE_PUSHES, list(range(1, NUDGE_PUSHES + 1))]]


async def test_the_largest_nudge_fits_into_a_question(peers: Peers) -> None:
    """And what it has no room for is in the next, or named by its last push."""
    for app_no in range(MAX_NUMBER - 2 * NUDGE_APPS, MAX_NUMBER):
        for push_no in range(MAX_NUMBER - 3, MAX_NUMBER):
            peers.nudges.push_stored(app_no, push_no, [PEER.no])
    await peers.settle()
    assert [len(apps) for _, apps in peers.asked] == [NUDGE_APPS, NUDGE_APPS]
    assert max(peers.sizes) <= BODY_BYTES
    told = [(last_push_no, len(push_nos)) for _, apps in peers.asked for _, last_push_no, push_nos in apps]
    assert {last for last, _ in told} == {MAX_NUMBER - 1}
    assert {named for _, named in told} == {3, 0}
    for _, apps in peers.asked:
        await peers.nudges.answer(json.dumps(apps).encode())


async def test_a_peer_that_is_away_is_told_what_is_new_then(peers: Peers) -> None:
    peers.is_away = True
    peers.nudges.push_stored(1, 1, [PEER.no])
    await peers.settle()
    peers.is_away = False
    peers.nudges.push_stored(1, 2, [PEER.no])
    await peers.settle()
    assert [apps for _, apps in peers.asked] == [[[1, 1, [1]]], [[1, 2, [2]]]]
    assert peers.nudges.sent == 1


async def test_a_peer_that_has_ended_is_forgotten(peers: Peers) -> None:
    peers.may_answer.clear()
    peers.nudges.push_stored(1, 1, [PEER.no])
    await asyncio.sleep(0)
    peers.nudges.push_stored(1, 2, [PEER.no])
    peers.nudges.ended(PEER)
    peers.may_answer.set()
    await asyncio.sleep(0)
    await peers.settle()
    assert len(peers.asked) == 1
    again = Node(PEER.no, 2, PEER.url, "")
    assert again != PEER
    peers.nudges.push_stored(1, 3, [PEER.no])  # of the same number
    await peers.settle()
    assert peers.asked[1] == (PEER, [[1, 3, [3]]])
    await peers.nudges.end()


async def test_a_follower_that_fails_keeps_it_from_no_other(peers: Peers, caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[int, int, Sequence[int]]] = []

    def fail(*nudge: object) -> None:
        raise LookupError

    peers.nudges.follow(fail)
    peers.nudges.follow(lambda *nudge: told.append(nudge))
    assert await peers.nudges.answer(b"[[1,5,[4,5]],[2,9,[]]]") == b""
    assert told == [(1, 5, [4, 5]), (2, 9, [])]
    assert "what follows from a nudge has failed" in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b"[[1,2]]",
        b"[[1,2,3]]",
        b'[["1",2,[]]]',
        b"[[1,2,[true]]]",
        b"[[1,2,[-1]]]",
        b"[[1,9223372036854775808,[]]]",
        b"[[1,2.0,[]]]",
        b"[" * BODY_BYTES,
        json.dumps([[1, 2, [3] * (NUDGE_PUSHES + 1)]]).encode(),
        json.dumps([[1, 2, []]] * (NUDGE_APPS + 1)).encode(),
        b"\xff",
    ],
)
async def test_what_is_no_nudge_is_refused(peers: Peers, body: bytes) -> None:
    peers.nudges.follow(lambda *nudge: pytest.fail("it was no nudge"))
    with pytest.raises(MalformedQuestion):
        await peers.nudges.answer(body)


async def test_a_storm_of_pushes_is_a_few_nudges_a_second(client: PeerClient, make_peer: MakePeer) -> None:
    """Whatever the number of pushes: one is under way, and there is a pause behind it."""
    asked = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while True:
            await read_question(reader)
            asked += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    peer = await make_peer(count)
    storm = Nudges(holders=lambda device_nos: [peer.node], ask=client.ask)
    loop = asyncio.get_running_loop()
    began = loop.time()
    pushes = 0
    while loop.time() - began < 0.5:
        for _ in range(100):
            pushes += 1
            storm.push_stored(1, pushes, [1])
        await asyncio.sleep(0)
    took = loop.time() - began
    await storm.end()
    assert 1 <= asked <= took / nudges.PAUSE_SECONDS + 1
    assert pushes > 10 * asked


async def test_a_push_that_is_stored_wakes_the_node_of_its_device(tmp_path: Path) -> None:
    async with gateways_in_process(tmp_path, 2) as gateways:
        first, second = gateways
        assert first.components.peers is not None
        assert second.components.peers is not None
        await first.enrol("kiosk-1", "kiosk-2")
        came: asyncio.Future[tuple[int, int, Sequence[int]]] = asyncio.get_running_loop().create_future()
        second.components.peers.nudges.follow(lambda *nudge: came.set_result(nudge))
        second.components.delivery.hand_over.connected.add(1)
        await until(first.components.peers.connected_sets.elsewhere)
        await first.call("POST", "/v1/pushes", 202, json={"target": {"device": "kiosk-2"}})
        await first.call("POST", "/v1/pushes", 202, json={"target": {"all": True}})
        app_no, last_push_no, push_nos = await asyncio.wait_for(came, 20)
        assert app_no == 1
        assert list(push_nos) == [last_push_no]


async def test_202_does_not_wait_for_a_peer_that_hangs(tmp_path: Path, make_peer: MakePeer) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()

    asked = asyncio.Event()
    peer = await make_peer(hang)
    async with gateways_in_process(tmp_path, 1) as (gateway,):
        assert gateway.components.peers is not None
        await gateway.enrol("kiosk-1")
        nudging = gateway.components.peers.nudges
        nudging._holders = lambda device_nos: [peer.node]
        for _ in range(20):
            await gateway.call("POST", "/v1/pushes", 202, json={"target": {"device": "kiosk-1"}})
        assert nudging.sent == 0
        await asked.wait()
