"""Devices that fall silent without a FIN: the keep alive finds them, and their wills are published once.

Silence is all that the server sees of a device that has lost its network, so the sockets simply stay open here.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from tests import wire
from tests.conformance.standalone import BrokerProcess
from tests.hostile.peer import Peer, peers
from tests.wire import V4, VERSIONS

DEVICES = 50
KEEP_ALIVE = 2
TOLERANCE = 1.0
"""Seconds: the wheel turns four times a second, and the will has to travel, on a machine that runs other tests, too."""


@pytest.mark.timeout(60)
async def test_silent_devices_are_found_and_their_wills_sent_once(
    full: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """[MQTT-3.1.2-22] [MQTT-3.1.2-8]"""
    count = DEVICES * full
    with BrokerProcess(None) as broker:
        counter = await Peer.open(broker.port)
        await counter.enter(wire.connect("counter", V4))
        await counter.send(wire.subscribe(1, ("gone/+", 0)))
        assert (await counter.read())[:1] == b"\x90"
        spoke: dict[int, float] = {}
        heard: list[tuple[int, float]] = []
        async with peers(broker.port, count) as devices:

            async def vanish(number: int, device: Peer) -> None:
                version = VERSIONS[number % 2]
                will = (f"gone/{number}", b"", number % 3, False)
                await device.enter(wire.connect(f"d{number}", version, keep_alive=KEEP_ALIVE, will=will))
                spoke[number] = time.monotonic()
                await device.send(wire.PINGREQ)

            await asyncio.gather(*(vanish(number, device) for number, device in enumerate(devices)))
            while len(heard) < count:
                packet = await counter.read()
                assert packet, f"the end after {len(heard)} wills"
                heard.append((int(packet[9:]), time.monotonic()))
            # Were one sent twice, it would come before this.
            await counter.send(wire.publish("gone/0", b"last"))
            assert (await counter.read()).endswith(b"last")
            late = [at - spoke[number] - 1.5 * KEEP_ALIVE for number, at in heard]
            with capsys.disabled():
                print(f"\n{count} vanished found {min(late):+.2f} to {max(late):+.2f} s around 1.5 x keep alive")
        assert sorted(number for number, _ in heard) == list(range(count))
        assert min(late) > -0.1, "found too early"
        assert max(late) <= TOLERANCE
        await counter.close()
