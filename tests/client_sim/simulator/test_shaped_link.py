"""The timing wheel, and the bad network that stands on it."""

from __future__ import annotations

import asyncio
import random
import time
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from client_sim.simulator.shaped_link import Network, ShapedLink
from client_sim.simulator.timing_wheel import SLOT_SECONDS, TimingWheel


class Loop:
    """Its time stands still during a turn, as uvloop's does; the test turns the wheel itself."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: object) -> None:
        """Not needed."""


async def test_nothing_is_early_and_nothing_much_too_late() -> None:
    wheel = TimingWheel(asyncio.get_running_loop())
    wheel.start()
    late: list[float] = []
    done = asyncio.Event()
    begin = time.monotonic()

    def called(wanted: float) -> None:
        late.append(time.monotonic() - begin - wanted)
        if len(late) == 100:
            done.set()

    for number in range(100):
        wheel.after(number * 0.003, called, number * 0.003)
    async with asyncio.timeout(10):
        await done.wait()
    wheel.stop()
    assert min(late) >= -0.001, "uvloop's milliseconds"
    assert sorted(late)[50] < 3 * SLOT_SECONDS


async def test_what_is_called_may_call_for_more_at_once() -> None:
    wheel = TimingWheel(asyncio.get_running_loop())
    wheel.start()
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def again(left: int) -> None:
        if left:
            wheel.after(0.0, again, left - 1)
        else:
            done.set_result(None)

    wheel.after(0.0, again, 20)
    async with asyncio.timeout(10):
        await done
    wheel.stop()


NETWORKS = st.builds(
    Network,
    latency=st.floats(0, 0.1),
    jitter=st.floats(0, 0.1),
    stalls=st.just(1.0),
    stall=st.floats(0, 0.2),
)
MOMENTS = st.lists(
    st.tuples(st.floats(0, 0.03), st.sampled_from(["pass", "pass", "pass", "stall", "turn"])), max_size=60
)


@settings(max_examples=200)
@given(network=NETWORKS, moments=MOMENTS, seed=st.integers(0, 2**32))
def test_bytes_keep_their_order_and_none_is_missing(
    network: Network, moments: list[tuple[float, str]], seed: int
) -> None:
    """The loop's time stood still while the clock went on: pieces that a stall had held back until the same moment
    changed places, and with them whole pushes."""
    random.seed(seed)
    loop, now = Loop(), Loop().now
    received: list[bytes] = []
    sent: list[bytes] = []
    with patch("time.monotonic", lambda: now):
        wheel = TimingWheel(loop)  # type: ignore[arg-type]  # all that it asks of one
        wheel.start()
        link = ShapedLink(network, wheel)
        for passed, event in [*moments, (10.0, "turn")]:
            now += passed
            if event == "pass":
                sent.append(b"%d" % len(sent))
                link.pass_on(sent[-1], received.append, outward=False)
            elif event == "stall":
                link.stall()
            else:
                loop.now = now
                wheel._tick()
    assert received == sent


async def test_a_half_open_link_passes_nothing_and_a_closed_one_neither() -> None:
    wheel = TimingWheel(asyncio.get_running_loop())
    wheel.start()
    received: list[bytes] = []
    fine, half_open, closed = (ShapedLink(Network(latency=0.02), wheel) for _ in range(3))
    for link in (half_open, closed, fine):
        link.pass_on(b"under way", received.append, outward=True)
    half_open.half_open()
    closed.close()
    half_open.pass_on(b"later", received.append, outward=True)
    half_open.pass_on(b"answer", received.append, outward=False)
    done = asyncio.Event()
    wheel.after(0.1, lambda _: done.set(), None)
    async with asyncio.timeout(10):
        await done.wait()
    wheel.stop()
    assert received == [b"under way"]


def test_the_worst_case_is_known() -> None:
    assert Network(latency=0.1, jitter=0.2).worst == 0.1 + 0.2
    assert Network(latency=0.1, stalls=1 / 60, stall=3.0).worst == 0.1 + 3.0
