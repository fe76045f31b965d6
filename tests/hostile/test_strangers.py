"""A stranger costs little, and not for long."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests import wire
from tests.conformance.standalone import BrokerProcess
from tests.hostile.peer import Peer, becomes, descriptors, peers, resident
from tests.wire import V5

STRANGERS = 100
MIB = 1024 * 1024


@pytest.mark.timeout(60)
async def test_strangers_cost_little_and_are_closed(full: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a CONNECT, and 256 MiB claimed: the latter closed at the header, the former when its time is over."""
    timeout = 10 if full > 1 else 2
    options = ("--allow-anonymous", "--connect-timeout", str(timeout))
    with BrokerProcess(None, *options) as broker:
        before, warm = descriptors(broker.pid), resident(broker.pid)
        half = wire.connect("stranger", V5)[:12]
        began = time.monotonic()
        async with peers(broker.port, STRANGERS * full) as silent, peers(broker.port, STRANGERS * full) as claiming:
            opened = time.monotonic()
            await asyncio.gather(*(peer.send(half) for peer in silent))
            await asyncio.gather(*(peer.send(b"\x10\xff\xff\xff\x7f" + bytes(1_000)) for peer in claiming))
            assert set(await asyncio.gather(*(peer.until_end() for peer in claiming))) == {b""}
            at_header = time.monotonic() - opened
            most = resident(broker.pid) - warm
            ended: list[float] = []
            ages: list[float] = []

            async def end_of(peer: Peer) -> None:
                assert await peer.until_end(timeout + 3) == b""
                ended.append(time.monotonic())
                ages.append(ended[-1] - peer.came)

            await asyncio.gather(*map(end_of, silent))
            most = max(most, resident(broker.pid) - warm)
        with capsys.disabled():
            print(
                f"\n{len(silent)} half-open closed {ended[0] - opened:.1f} to {ended[-1] - began:.1f} s after they"
                f" came, {len(claiming)} claimants within {at_header:.1f} s, memory {most / MIB:+.1f} MiB"
            )
        assert at_header < timeout - 0.5, "closed by the timeout, not at the header"
        assert min(ages) >= timeout - 1
        assert max(ended) - began <= timeout + 1 + (opened - began)
        assert most < 64 * MIB
        assert await becomes(lambda: descriptors(broker.pid), before) == before


async def test_what_a_stranger_may_say_is_bounded() -> None:
    """A CONNECT of 64 KiB is taken, a larger one is refused at its header."""
    with BrokerProcess(None) as broker:
        fitting = await Peer.open(broker.port)
        name = "x" * 100
        head = len(wire.connect(name, username="", password=""))
        # Two bytes more of remaining length than the short one has.
        longest = wire.connect(name, username="u", password="p" * (65_536 - head - 1 - 2))
        assert len(longest) == 65_536
        await fitting.enter(longest)
        await fitting.close()
        larger = await Peer.open(broker.port)
        await larger.send(wire.connect(name, username="uu", password="p" * (65_536 - head - 1 - 2))[:10])
        assert await larger.until_end() == b""
        await larger.close()
