"""A process that has no descriptor left: who is connected goes on, and the next one gets in when there is one."""

from __future__ import annotations

import asyncio
import resource

from tests import wire
from tests.conformance.standalone import BrokerProcess
from tests.hostile.peer import Peer, becomes, descriptors

ROOM = 20


async def test_no_descriptor_left() -> None:
    with BrokerProcess(None) as broker:
        healthy = await Peer.open(broker.port)
        await healthy.enter(wire.connect("healthy"))
        before = descriptors(broker.pid)
        limit = before + ROOM
        resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (limit, limit))
        opened = await asyncio.gather(*(Peer.open(broker.port) for _ in range(2 * ROOM)), return_exceptions=True)
        crowd = [peer for peer in opened if isinstance(peer, Peer)]
        assert len(crowd) >= ROOM
        assert await becomes(lambda: descriptors(broker.pid), limit) == limit
        await healthy.send(wire.PINGREQ)
        assert await healthy.read() == wire.PINGRESP
        for peer in crowd:
            peer.reset()
        await asyncio.gather(*(peer.close() for peer in crowd))
        await becomes(lambda: descriptors(broker.pid), before, 5)
        newcomer = await Peer.open(broker.port)
        await newcomer.enter(wire.connect("newcomer"))
        await healthy.send(wire.PINGREQ)
        assert await healthy.read() == wire.PINGRESP
        await newcomer.close()
        await healthy.close()
