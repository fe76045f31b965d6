"""Two clients that fight for one client identifier while messages flow to it: nothing lost, never both connected."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests import wire
from tests.conformance.standalone import BrokerProcess
from tests.hostile.peer import SECONDS, Peer
from tests.wire import FOR_EVER, V4, V5, VERSIONS

ROUNDS = 100
AHEAD = 100
"""Messages the publisher is ahead of what has arrived: fewer than the session may hold, more than a read takes."""


class Fight:
    def __init__(self, port: int, version: int) -> None:
        self.port = port
        self.version = version
        self.sent = 0
        self.heard: set[int] = set()
        self.news = asyncio.Event()
        self.stop = asyncio.Event()

    async def publish(self) -> None:
        publisher = await Peer.open(self.port)
        await publisher.enter(wire.connect("publisher", V4))
        while not self.stop.is_set():
            while self.sent - len(self.heard) >= AHEAD:
                if self.stop.is_set():
                    break
                self.news.clear()
                await self.news.wait()
            packet_id = self.sent % 65_535 + 1
            await publisher.send(wire.publish("fight", b"%d" % self.sent, 1, packet_id))
            self.sent += 1
            assert await publisher.read() == wire.puback(packet_id)
        await publisher.close()

    async def enter(self) -> Peer:
        peer = await Peer.open(self.port)
        await peer.enter(wire.connect("prize", self.version, clean=False, properties=FOR_EVER))
        return peer

    async def hold(self, peer: Peer) -> bytes:
        """Take messages until the end; what else came."""
        other = b""
        while packet := await peer.read(60):
            if packet[0] >> 4 != 3:
                other += packet
                continue
            start = 2 + (packet[1] >> 7) + 2 + len("fight")
            identifier = int.from_bytes(packet[start : start + 2])
            payload = packet[start + 2 + (self.version == V5) :]
            await peer.send(wire.puback(identifier))
            self.heard.add(int(payload))
            self.news.set()
        return other


@pytest.mark.parametrize("version", VERSIONS, ids=["3.1.1", "5.0"])
@pytest.mark.timeout(60)
async def test_a_fight_under_load(version: int, full: int, capsys: pytest.CaptureFixture[str]) -> None:
    """[MQTT-3.1.4-3]: when the new one has its CONNACK, the old one is answered nothing any more, and ends."""
    with BrokerProcess(None) as broker:
        fight = Fight(broker.port, version)
        peer = await fight.enter()
        await peer.send(wire.subscribe(1, ("fight", 1), version=version))
        assert (await peer.read())[:1] == b"\x90"
        holding = asyncio.create_task(fight.hold(peer))
        publishing = asyncio.create_task(fight.publish())
        for turn in itertools.count(1):
            wanted = len(fight.heard) + turn % 7
            while len(fight.heard) < wanted:
                fight.news.clear()
                await asyncio.wait_for(fight.news.wait(), SECONDS)
            newer = await fight.enter()
            newer_holding = asyncio.create_task(fight.hold(newer))
            await peer.send(wire.PINGREQ)  # an old one that were still connected would be answered
            farewell = await asyncio.wait_for(holding, SECONDS)
            if version == V5:
                assert farewell[:1] == b"\xe0", farewell.hex(" ")
                assert farewell[2] == 0x8E, farewell.hex(" ")
                assert len(farewell) == 2 + farewell[1], farewell.hex(" ")
            else:
                assert farewell == b"", farewell.hex(" ")
            await peer.close()
            peer, holding = newer, newer_holding
            if turn == ROUNDS * full:
                break
        fight.stop.set()
        fight.news.set()
        await asyncio.wait_for(publishing, SECONDS)
        async with asyncio.timeout(SECONDS):
            while len(fight.heard) < fight.sent:
                fight.news.clear()
                await fight.news.wait()
        with capsys.disabled():
            print(f"\n{ROUNDS * full} take-overs, {fight.sent} messages, all there")
        assert fight.heard == set(range(fight.sent))
        await peer.close()
        await asyncio.wait_for(holding, SECONDS)
