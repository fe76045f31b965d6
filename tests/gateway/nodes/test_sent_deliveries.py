"""What is in flight at other nodes: told in full, in parts, in time; and what a peer makes up is bounded."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.nodes.membership import Node
from gateway.nodes.peer_client import PeerClient, PeerUnavailable
from gateway.nodes.peer_routes import BODY_BYTES, MalformedQuestion
from gateway.nodes.sent_deliveries import (
    ASK_SECONDS,
    MAX_DEVICES,
    PART_DEVICES,
    QUESTION_PUSHES,
    VERB,
    SentDeliveries,
)
from tests.gateway.nodes.peers import MakePeer, read_question, until
from tests.nodes import gateways_in_process

SECOND, THIRD = Node(2, 1, "http://second", "2"), Node(3, 1, "http://third", "3")


class Fleet:
    """The first node asks two others."""

    def __init__(self) -> None:
        self.sent: dict[Node, dict[int, set[int]]] = {SECOND: {}, THIRD: {}}
        self.made_up: Callable[[bytes], bytes] | None = None
        """What the third answers instead."""
        self.asked: list[Node] = []
        self.others = {node: self._node(self.sent[node]) for node in (SECOND, THIRD)}
        self.first = self._node({})

    def _node(self, sent: dict[int, set[int]]) -> SentDeliveries:
        return SentDeliveries(
            sent_of=lambda no: sent.get(no, ()),
            peers=lambda: [SECOND, THIRD],
            holders=lambda device_nos: [SECOND] if device_nos == [5] else [],
            ask=self._ask,
        )

    async def _ask(self, node: Node, verb: str, body: bytes, timeout_s: float) -> bytes:
        assert verb == VERB
        assert 0 < timeout_s <= ASK_SECONDS
        assert len(body) <= BODY_BYTES
        self.asked.append(node)
        if node is THIRD and self.made_up is not None:
            return self.made_up(body)
        answer = await self.others[node].answer(body)
        assert len(answer) <= BODY_BYTES
        return answer

    async def elsewhere(self, push_nos: Sequence[int], device_no: int | None = None) -> dict[int, list[int]]:
        found = await self.first.elsewhere(push_nos, device_no)
        return {push_no: list(devices) for push_no, devices in found.items()}


async def test_all_peers_tell_what_is_in_flight_there() -> None:
    fleet = Fleet()
    fleet.sent[SECOND] = {1: {5, 6}, 3: {7}}
    fleet.sent[THIRD] = {1: {8}, 2: {9}}
    fleet.others = {node: fleet._node(fleet.sent[node]) for node in (SECOND, THIRD)}
    assert await fleet.elsewhere([1, 3, 4]) == {1: [5, 6, 8], 3: [7]}
    assert fleet.asked == [SECOND, THIRD]


async def test_about_a_device_the_node_that_has_it_is_asked() -> None:
    fleet = Fleet()
    fleet.sent[SECOND].update({1: {5, 6}, 2: {6}})
    assert await fleet.elsewhere([1, 2], 5) == {1: [5]}
    assert await fleet.elsewhere([1, 2], 6) == {}
    assert fleet.asked == [SECOND]


@given(
    sent=st.dictionaries(
        st.integers(1, 40),
        st.tuples(st.integers(0, 1 << 20), st.integers(1, 3 * PART_DEVICES), st.sampled_from([1, 3, 1_000])),
        max_size=8,
    )
)
def test_however_much_is_in_flight_it_is_told_in_parts(sent: dict[int, tuple[int, int, int]]) -> None:
    async def scene() -> None:
        fleet = Fleet()
        fleet.sent[SECOND].update(
            {no: set(range(first, first + count * step, step)) for no, (first, count, step) in sent.items()}
        )
        question_at = 0
        whole: dict[int, BitMap] = {}
        # The same as `elsewhere`, which has a deadline that a slow machine would feel.
        after = 0
        asked = sorted(sent)
        while question_at < len(asked):
            body = json.dumps({"pushes": asked[question_at:], "device": 0, "after": after}).encode()
            answer = await fleet.others[SECOND].answer(body)
            assert 0 < len(answer) <= BODY_BYTES
            at = 0
            while at < len(answer):
                push_no, is_part, length = struct.unpack_from("!Q?I", answer, at)
                devices = BitMap.deserialize(answer[at + 13 : at + 13 + length])
                at += 13 + length
                assert push_no == asked[question_at]
                whole.setdefault(push_no, BitMap()).update(devices)
                after = devices.max() if is_part else 0
                question_at += not is_part
        assert whole == {no: BitMap(devices) for no, devices in fleet.sent[SECOND].items()}

    asyncio.run(scene())


async def test_of_more_pushes_than_a_question_has_all_are_told() -> None:
    fleet = Fleet()
    push_nos = list(range(1, QUESTION_PUSHES + 3))
    fleet.sent[SECOND].update({1: {5}, push_nos[-1]: {6}})
    assert await fleet.elsewhere(push_nos) == {1: [5], push_nos[-1]: [6]}


def part(push_no: int, is_part: bool, devices: BitMap) -> bytes:
    content = devices.serialize()
    return struct.pack("!Q?I", push_no, is_part, len(content)) + content


@pytest.mark.parametrize(
    "answer",
    {
        "nothing": b"",
        "garbage": b"\xff" * 1_000,
        "another push": part(2, False, BitMap([5])),
        "two of one": part(1, False, BitMap([5])) + part(1, False, BitMap([6])),
        "a part of nothing": part(1, True, BitMap()),
        "everybody": part(1, False, BitMap(range(1 << 24))),
        "cut off": part(1, False, BitMap([5]))[:-1],
    }.items(),
    ids=lambda item: item[0],
)
async def test_what_a_peer_makes_up_is_not_believed(answer: tuple[str, bytes]) -> None:
    fleet = Fleet()
    fleet.sent[SECOND][1] = {7}
    fleet.made_up = lambda body: answer[1]
    assert (await fleet.elsewhere([1]))[1][-1] == 7
    assert len(fleet.asked) == 2


async def test_a_peer_that_never_comes_to_an_end_is_asked_for_a_while() -> None:
    """And may name so many devices, whatever the time."""
    fleet = Fleet()
    told = 0

    def more(body: bytes) -> bytes:
        nonlocal told
        after = json.loads(body)["after"]
        told += PART_DEVICES
        return part(1, True, BitMap(range(after + 1, after + 1 + PART_DEVICES)))

    fleet.made_up = more
    began = asyncio.get_running_loop().time()
    found = await fleet.first.elsewhere([1])
    assert len(found[1]) == told <= MAX_DEVICES + PART_DEVICES
    assert asyncio.get_running_loop().time() - began < 20 * ASK_SECONDS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"pushes": 1, "device": 0, "after": 0}',
        b'{"pushes": ["1"], "device": 0, "after": 0}',
        b'{"pushes": [-1], "device": 0, "after": 0}',
        b'{"pushes": [1], "device": null, "after": 0}',
        b'{"pushes": [1], "device": 4294967296, "after": 0}',
        b'{"pushes": [1], "device": 0, "after": 4294967296}',
        b'{"pushes": [9223372036854775808], "device": 0, "after": 0}',
        json.dumps({"pushes": [1] * (QUESTION_PUSHES + 1), "device": 0, "after": 0}).encode(),
        b"[" * BODY_BYTES,
    ],
)
async def test_what_asks_for_no_pushes_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedQuestion):
        await Fleet().first.answer(body)


async def test_a_peer_that_hangs_costs_a_tenth_of_a_second(client: PeerClient, make_peer: MakePeer) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            question = json.loads(await read_question(reader))
            said = b"".join(part(no, False, BitMap([5])) for no in question["pushes"])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))

    peers = [(await make_peer(hang)).node, (await make_peer(answer)).node]
    asking = SentDeliveries(sent_of=lambda no: (), peers=lambda: peers, holders=lambda device_nos: [], ask=client.ask)
    first = await asking.elsewhere([1])
    assert {no: list(devices) for no, devices in first.items()} == {1: [5]}
    with pytest.raises(PeerUnavailable, match="a moment ago"):  # and the next is not even asked
        await client.ask(peers[0], VERB, b"", 30)


async def test_counts_and_lists_show_what_another_node_has_sent(tmp_path: Path) -> None:
    async with gateways_in_process(tmp_path, 2) as (first, second):
        ours, theirs = first.components, second.components
        assert ours.peers is not None
        await first.enrol("kiosk-1", "kiosk-2")
        push = {"target": {"all": True}}
        push_id = (await first.call("POST", "/v1/pushes", 202, json=push))["push_id"]
        (push_no,) = await first.database.read(
            lambda transaction: transaction.execute("SELECT max(no) FROM push").fetchone()
        )

        class Handed:
            sent = frozenset([1])
            recalled = False

        theirs.delivery.hand_over.connected.add(1)
        theirs.delivery.ledger.pushes._by_no[push_no] = Handed()  # type: ignore[assignment]  # its part that counts
        await until(lambda: ours.peers is not None and ours.peers.connected_sets.elsewhere())
        for gateway in (first, second):
            shown = await gateway.call("GET", f"/v1/pushes/{push_id}")
            assert (shown["counts"]["sent"], shown["counts"]["waiting"]) == (1, 1)
            (listed,) = (await gateway.call("GET", "/v1/pushes"))["items"]
            assert listed["counts"] == shown["counts"]
            deliveries = (await gateway.call("GET", f"/v1/pushes/{push_id}/deliveries"))["items"]
            assert [one["state"] for one in deliveries] == ["sent", "waiting"]
            of_device = (await gateway.call("GET", "/v1/devices/kiosk-1/deliveries"))["items"]
            assert [one["state"] for one in of_device] == ["sent"]
            mailbox = (await gateway.call("GET", "/v1/devices/kiosk-1/mailbox"))["items"]
            assert [one["state"] for one in mailbox] == ["sent"]
        recalled = await first.call("DELETE", f"/v1/pushes/{push_id}")
        assert recalled == {"cancelled": 1, "in_flight": 1, "too_late": 0}
        theirs.delivery.ledger.pushes._by_no.clear()
