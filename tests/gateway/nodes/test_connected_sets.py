"""Who is connected where, as nodes tell each other: it arrives, it is small, and what is told wrong harms nobody."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.nodes.connected_sets import NOT_KNOWN, VERB, ConnectedSets
from gateway.nodes.membership import Node
from gateway.nodes.peer_client import PeerUnavailable
from gateway.nodes.peer_routes import BODY_BYTES, MalformedQuestion
from tests.gateway.nodes.peers import until
from tests.nodes import gateways_in_process

FIRST, SECOND = Node(1, 1, "http://first", "1"), Node(2, 1, "http://second", "2")


class FleetOfTwo:
    """The first tells the second, over a line that a test cuts."""

    def __init__(self) -> None:
        self.connected = BitMap()
        self.live: list[Node] = [FIRST, SECOND]
        self.lost: set[int] = set()
        """Parts that are lost, by their place in the order of all."""
        self.sizes: list[int] = []
        self.sender = self._sets(FIRST, self.connected)
        self.receiver = self._sets(SECOND, BitMap())

    def _sets(self, own: Node, connected: BitMap) -> ConnectedSets:
        return ConnectedSets(
            own=own,
            connected=lambda: connected,
            peers=lambda: [node for node in self.live if node.no != own.no],
            is_live=lambda no, epoch: any((node.no, node.epoch) == (no, epoch) for node in self.live),
            ask=self._ask,
        )

    async def _ask(self, node: Node, verb: str, body: bytes, timeout_s: float) -> bytes:
        assert verb == VERB
        self.sizes.append(len(body))
        if len(self.sizes) - 1 in self.lost:
            raise PeerUnavailable("lost")
        return await self.receiver.answer(body)

    async def exchange(self) -> None:
        self.sender.exchange()
        await asyncio.gather(*(one.sending for one in self.sender._outgoing.values() if one.sending is not None))

    def replace(self, device_nos: Sequence[int]) -> None:
        self.connected.clear()
        self.connected.update(device_nos)


async def test_a_peer_knows_whom_to_ask_for_a_device() -> None:
    fleet = FleetOfTwo()
    fleet.replace([5, 70_000])
    await fleet.exchange()
    holders = fleet.receiver.holders
    assert holders([5]) == holders([1, 70_000]) == holders(BitMap([5, 6])) == [FIRST]
    assert holders([6]) == holders([1, 2]) == holders(BitMap([6])) == holders([]) == []
    assert fleet.receiver.elsewhere() == BitMap([5, 70_000])
    assert fleet.sender.holders([5]) == []  # its own are here


numbers = st.sampled_from([0, 1, 65_535, 65_536, 131_072, 1 << 31, (1 << 32) - 1])


@given(
    sets=st.lists(st.lists(numbers), max_size=6),
    lost=st.sets(st.integers(0, 12)),
)
def test_whatever_was_lost_an_exchange_brings_everything(sets: list[list[int]], lost: set[int]) -> None:
    async def scene() -> None:
        fleet = FleetOfTwo()
        fleet.lost = lost
        for device_nos in sets:
            fleet.replace(device_nos)
            await fleet.exchange()
        fleet.lost = set()
        await fleet.exchange()
        assert fleet.receiver.elsewhere() == fleet.connected

    asyncio.run(scene())


@pytest.mark.parametrize(
    "device_nos",
    [range(2_000_000), range(0, 2_000_000, 2), range(0, 60_000_000, 600), list(range(0, 1 << 28, 65_536))],
    ids=["dense", "half", "sparse", "one a block"],
)
async def test_no_part_is_larger_than_a_question_may_be(device_nos: Sequence[int]) -> None:
    fleet = FleetOfTwo()
    fleet.replace(device_nos)
    await fleet.exchange()
    assert max(fleet.sizes) <= BODY_BYTES
    assert fleet.receiver.elsewhere() == fleet.connected


async def test_only_blocks_that_have_changed_are_told() -> None:
    fleet = FleetOfTwo()
    fleet.replace(range(0, 400_000, 3))
    await fleet.exchange()
    fleet.sizes.clear()
    await fleet.exchange()
    assert fleet.sizes == []
    fleet.connected.discard(200_001)
    await fleet.exchange()
    assert len(fleet.sizes) == 1
    assert fleet.sizes[0] < 9_000
    assert fleet.receiver.elsewhere() == fleet.connected


async def test_a_peer_that_does_not_answer_is_told_one_thing_at_a_time() -> None:
    fleet = FleetOfTwo()
    asked = 0
    release = asyncio.Event()

    async def hang(*question: Any) -> bytes:
        nonlocal asked
        asked += 1
        await release.wait()
        return b""

    fleet.sender._ask = hang
    for device_no in range(10):
        fleet.connected.add(device_no)
        fleet.sender.exchange()
        await asyncio.sleep(0)
    assert asked == 1
    await fleet.sender.end()


async def test_a_node_that_is_not_known_yet_tells_it_again() -> None:
    fleet = FleetOfTwo()
    fleet.live.remove(FIRST)
    fleet.replace([5])
    await fleet.exchange()
    assert fleet.receiver.elsewhere() == BitMap()
    fleet.live.append(FIRST)
    await fleet.exchange()
    assert fleet.receiver.elsewhere() == BitMap([5])


async def test_a_peer_that_has_started_again_is_told_everything() -> None:
    fleet = FleetOfTwo()
    fleet.replace([5])
    await fleet.exchange()
    again = Node(2, 2, SECOND.url, "another")
    fleet.live = [FIRST, again]
    fleet.sender.ended(SECOND)
    fleet.receiver = fleet._sets(again, BitMap())
    await fleet.exchange()
    assert fleet.receiver.elsewhere() == BitMap([5])


async def test_who_has_ended_has_no_devices() -> None:
    fleet = FleetOfTwo()
    fleet.replace([5])
    await fleet.exchange()
    fleet.receiver.ended(Node(1, 0, FIRST.url, ""))  # an earlier run
    assert fleet.receiver.holders([5]) == [FIRST]
    fleet.receiver.ended(FIRST)
    assert fleet.receiver.holders([5]) == []


def part(no: int, epoch: int, first: int, end: int, device_nos: Sequence[int]) -> bytes:
    return struct.pack("!QQII", no, epoch, first, end) + BitMap(device_nos).serialize()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 24,
        b"\xff" * 1_000,
        part(1, 1, 0, 1, [5])[:-1],
        part(1, 1, 0, 1, [65_536]),
        part(1, 1, 1, 2, [65_535]),
        part(1, 1, 1, 1, []),
        part(1, 1, 0, 65_537, [5]),
    ],
)
async def test_what_is_no_part_is_refused_and_changes_nothing(body: bytes) -> None:
    fleet = FleetOfTwo()
    fleet.replace([7])
    await fleet.exchange()
    with pytest.raises(MalformedQuestion):
        await fleet.receiver.answer(body)
    assert fleet.receiver.elsewhere() == BitMap([7])


@pytest.mark.parametrize(("no", "epoch"), [(1, 2), (3, 1), (2, 1), ((1 << 64) - 1, 1)])
async def test_nobody_says_anything_for_who_is_no_peer(no: int, epoch: int) -> None:
    fleet = FleetOfTwo()
    assert await fleet.receiver.answer(part(no, epoch, 0, 1, [5])) == NOT_KNOWN
    assert fleet.receiver.elsewhere() == BitMap()


async def test_two_nodes_tell_each_other(tmp_path: Path) -> None:
    async with gateways_in_process(tmp_path, 2) as gateways:
        first, second = (gateway.components for gateway in gateways)
        assert first.peers is not None
        assert second.peers is not None
        first.delivery.hand_over.connected.add(5)
        second.delivery.hand_over.connected.update([6, 7])
        for node in (first.peers, second.peers):
            await until(node.connected_sets.elsewhere)
        assert first.peers.connected_sets.elsewhere() == BitMap([6, 7])
        assert second.peers.connected_sets.elsewhere() == BitMap([5])
