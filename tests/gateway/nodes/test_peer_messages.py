"""Notices for devices of other nodes: every node publishes them, nobody waits, and what waits is bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.nodes.membership import Node
from gateway.nodes.peer_client import PeerUnavailable
from gateway.nodes.peer_messages import PASS_SECONDS, VERB, WAITING_BYTES, PeerMessages
from gateway.nodes.peer_routes import BODY_BYTES, MalformedQuestion

PEER, OTHER = Node(2, 1, "http://second", "2"), Node(3, 1, "http://third", "3")


class Peers:
    """Peers that answer when a test lets them."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.asked: list[tuple[Node, Any]] = []
        self.sizes: list[int] = []
        self.away: Sequence[Node] = ()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.messages = PeerMessages(
            publish=lambda topic, payload: self.published.append((topic, payload)),
            peers=lambda: [PEER, OTHER],
            ask=self._ask,
        )

    async def _ask(self, node: Node, verb: str, body: bytes, timeout_s: float) -> bytes:
        assert (verb, timeout_s) == (VERB, PASS_SECONDS)
        self.sizes.append(len(body))
        self.asked.append((node, json.loads(body)))
        await self.may_answer.wait()
        if node in self.away:
            raise PeerUnavailable("away")
        return b""

    async def settle(self) -> None:
        while self.messages._tasks:
            await asyncio.gather(*self.messages._tasks.values())


@pytest.fixture
async def peers() -> Peers:
    return Peers()


async def test_a_message_is_published_here_and_at_each_peer(peers: Peers) -> None:
    peers.messages.publish("d/a/1/notices", b'{"a":"\xc3\xa4"}')
    assert peers.published == [("d/a/1/notices", b'{"a":"\xc3\xa4"}')], "at once"
    await peers.settle()
    assert peers.asked == [(PEER, [["d/a/1/notices", '{"a":"ä"}']]), (OTHER, [["d/a/1/notices", '{"a":"ä"}']])]


async def test_what_a_peer_passes_on_goes_no_further(peers: Peers) -> None:
    await peers.messages.answer('[["t/1","ä"],["t/2",""]]'.encode())
    assert peers.published == [("t/1", "ä".encode()), ("t/2", b"")]
    assert peers.asked == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"3", b'{"a":1}', b"[1]", b'[["t"]]', b'[["t",1]]', b'[[1,"p"]]', b'[["t/#","p"]]', b"[" * 60_000],
)
async def test_what_are_no_messages_is_refused_whole(peers: Peers, body: bytes) -> None:
    with pytest.raises(MalformedQuestion):
        await peers.messages.answer(body)
    with pytest.raises(MalformedQuestion):
        await peers.messages.answer(b'[["t","p"],["+","p"]]')
    assert peers.published == []


async def test_messages_that_wait_go_together_and_are_bounded(peers: Peers) -> None:
    peers.may_answer.clear()
    payload = b"x" * 1_000
    for number in range(2_000):
        peers.messages.publish(f"t/{number}", payload)
    await asyncio.sleep(0)
    assert len(peers.published) == 2_000
    assert len(peers.asked) == 2, "one is under way for each peer"
    peers.may_answer.set()
    await peers.settle()
    assert max(peers.sizes) <= BODY_BYTES
    told = [topic for node, messages in peers.asked if node is PEER for topic, _ in messages]
    assert told == [f"t/{number}" for number in range(len(told))], "the first come, in their order"
    assert len(told) * 1_000 <= WAITING_BYTES
    assert peers.messages.dropped == 2 * (2_000 - len(told))


async def test_a_peer_that_is_away_keeps_no_other_waiting(peers: Peers) -> None:
    peers.away = [PEER]
    peers.messages.publish("t", b"1")
    await peers.settle()
    assert [node for node, _ in peers.asked] == [PEER, OTHER]
    assert peers.messages.dropped == 1
    peers.messages.publish("t", b"x" * BODY_BYTES)
    await peers.settle()
    assert peers.messages.dropped == 3, "nobody can be asked with so much"


async def test_nothing_waits_for_a_node_that_has_ended(peers: Peers) -> None:
    peers.may_answer.clear()
    peers.messages.publish("t", b"1")
    await asyncio.sleep(0)
    peers.messages.ended(PEER)
    assert list(peers.messages._tasks) == list(peers.messages._waiting) == [OTHER]
    await peers.messages.end()
    assert not peers.messages._tasks
