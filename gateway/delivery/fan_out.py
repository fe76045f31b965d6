"""The queue of fan-outs: accepted pushes that connected devices have still to be handed, in slices, urgent ones first.

Handing a push to ten thousand devices takes a tenth of a second; in one piece, everybody else would wait for it. So it
is done a slice per turn of the loop, and acknowledgements, requests and other pushes have their turn in between.

Laws
1. More urgent before less urgent; within a priority small fan-outs before large ones, so that a push to one device
   does not wait for one to all. What a device gets stays in the order of acceptance all the same: `overtaken` says
   which earlier pushes a device has to be given first.
2. A device is taken out of a fan-out when its delivery has ended on disk meanwhile (`withdraw`).

Large fan-outs of one priority to the same devices that have gathered while others were handed over make a bundle: they
are walked through together, so that what a device gets of them leaves with one system call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from gateway.delivery.push import ActivePush
from gateway.delivery_states import PRIORITIES

SLICE_DELIVERIES = 250
"""Deliveries that are handed over in one turn of the loop: about 4 ms. A fan-out to no more is small, undivided."""
BUNDLE_PUSHES = 16
"""Fan-outs of a bundle."""
BUNDLE_BYTES = 64 * 1024
"""Pushes that are together no larger leave with one system call; more would be copied for too little."""


class FanOut:
    """A push and the devices that it has still to be handed to."""

    __slots__ = ("_devices", "_position", "_rest", "push")

    def __init__(self, push: ActivePush, devices: Sequence[int]) -> None:
        self.push = push
        self._devices = devices
        self._position = 0
        self._rest: set[int] | None = None
        """The devices still to come; made when somebody asks for one of them."""

    @property
    def left(self) -> int:
        """Devices still to come, or a few less."""
        return len(self._devices) - self._position

    def next_devices(self, count: int) -> Sequence[int]:
        """The next devices, up to `count`."""
        start, self._position = self._position, self._position + count
        devices = self._devices if start == 0 and count >= len(self._devices) else self._devices[start : start + count]
        rest = self._rest
        if rest is None:
            return devices
        devices = [device_no for device_no in devices if device_no in rest]
        rest.difference_update(devices)
        return devices

    @property
    def is_whole(self) -> bool:
        """Whether no device has been taken out of it."""
        return self._rest is None

    def joins(self, bundle: list[FanOut]) -> bool:
        """Whether it may be walked through together with these. A push of ttl 0, one that needs the store, or
        one with several texts may not."""
        first = bundle[0]
        return (
            len(bundle) < BUNDLE_PUSHES
            and first._position == 0
            and all(f.push.qos == 1 and f.push.ttl and f.push.texts is None for f in (first, self))
            and self.push.size + sum(fan_out.push.size for fan_out in bundle) <= BUNDLE_BYTES
            and first._devices == self._devices
        )

    def withdraw(self, device_no: int) -> bool:
        """Take a device out; False if it is not to come."""
        if self._rest is None:
            self._rest = set(self._devices[self._position :])
        if device_no not in self._rest:
            return False
        self._rest.discard(device_no)
        return True


class FanOutQueue:
    """The fan-outs that are under way, by priority and size. Loop."""

    def __init__(self) -> None:
        self._small: list[deque[FanOut]] = [deque() for _ in PRIORITIES]
        self._large: list[deque[list[FanOut]]] = [deque() for _ in PRIORITIES]
        """Bundles by priority."""
        self._by_push: dict[int, FanOut] = {}

    def __bool__(self) -> bool:
        return bool(self._by_push)

    def add(self, push: ActivePush, devices: Sequence[int]) -> None:
        """Queue a push for these devices."""

        fan_out = FanOut(push, devices)
        self._by_push[push.no] = fan_out
        if len(devices) <= SLICE_DELIVERIES:
            self._small[push.priority].append(fan_out)
            return
        bundles = self._large[push.priority]
        if bundles and fan_out.joins(bundles[-1]):
            bundles[-1].append(fan_out)
        else:
            bundles.append([fan_out])

    def next_slice(self) -> Iterator[tuple[list[ActivePush], Sequence[int], bool]]:
        """Yield one slice: pushes with the devices to hand them to now, and whether they may overtake others."""
        count = SLICE_DELIVERIES
        for small, large in zip(self._small, self._large, strict=True):
            while small and count > 0:
                fan_out = small.popleft()
                del self._by_push[fan_out.push.no]
                devices = fan_out.next_devices(fan_out.left)
                count -= len(devices) or 1
                yield [fan_out.push], devices, any(self._large[: fan_out.push.priority + 1])
            while large and count > 0:
                bundle = large[0]
                each = max(count // len(bundle), 1)
                count -= each * len(bundle)
                whole = all(fan_out.is_whole for fan_out in bundle)
                taken = [(fan_out.push, fan_out.next_devices(each)) for fan_out in bundle]
                if bundle[0].left <= 0:
                    large.popleft()
                    for fan_out in bundle:
                        del self._by_push[fan_out.push.no]
                if whole:
                    yield [push for push, _ in taken], taken[0][1], False
                else:
                    for push, devices in taken:
                        yield [push], devices, False

    def overtaken(self, push: ActivePush, device_no: int) -> list[ActivePush]:
        """Earlier pushes that a device has to be given before this one; they leave their fan-outs."""
        return [
            fan_out.push
            for bundles in self._large[: push.priority + 1]
            for bundle in bundles
            for fan_out in bundle
            if fan_out.push.no < push.no and fan_out.withdraw(device_no)
        ]

    def withdraw(self, deliveries: Iterable[tuple[int, int]]) -> None:
        """Take out deliveries, as (push number, device number), that have ended on disk."""
        for push_no, device_no in deliveries:
            fan_out = self._by_push.get(push_no)
            if fan_out is not None:
                fan_out.withdraw(device_no)

    def has(self, push_no: int) -> bool:
        """Whether a push is still being fanned out."""
        return push_no in self._by_push

    def act_now(self) -> list[int]:
        """Numbers of the pushes of ttl 0: whether they can be handed over at once is not known yet."""
        return [no for no, fan_out in self._by_push.items() if fan_out.push.ttl == 0]
