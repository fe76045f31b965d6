"""Assignment of devices to the parts of a campaign, by a hash that anybody can compute again.

Each device of the frozen target has a number in [0, 1): the first 32 bits of BLAKE2b of `CAMPAIGN_ID/DEVICE_ID`, over
2^32. Sorted by it (then by their order of enrolment) the devices stand in an order that has nothing to do with what
they are, and that is another one for each campaign. Places in that order are given out from the first on: to the
holdout, to the canary if that is a number or a share, to the groups one after the other; and the places of a group to
its variants by their weights. So every part is a random sample, its size is exact, and no device is in two.

A canary that names its devices, or their tag, takes those out before: they are in no holdout.

Cost: 2 us for each device on a reader, ADDED_DEVICES at a time, and half as much for sorting, on the loop between its
turns: keys go into 4,096 drawers by their first bits, and a drawer is sorted alone. A million devices are 16 MB
meanwhile.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from pyroaring import BitMap

HASH_BYTES = 4
ADDED_DEVICES = 5_000
"""Devices whose numbers one read makes, about 10 ms."""
DRAWER_BITS = 12
_DRAWER_SHIFT = 64 - DRAWER_BITS
_DEVICE_MASK = 0xFFFF_FFFF


def number_of(campaign_id: str, device_id: str) -> float:
    """The number of a device in a campaign, from 0 to before 1."""
    return sort_keys(campaign_id, [(0, device_id)])[0] / 2**64


def sort_keys(campaign_id: str, devices: Iterable[tuple[int, str]]) -> array[int]:
    """The keys by which devices (number, id) are sorted: bits of the hash, then the device's number."""
    prefix = f"{campaign_id}/"
    return array(
        "Q",
        (
            int.from_bytes(hashlib.blake2b(f"{prefix}{device_id}".encode(), digest_size=HASH_BYTES).digest(), "big")
            << 32
            | device_no
            for device_no, device_id in devices
        ),
    )


class Order:
    """The devices of a target, in the order of a campaign."""

    def __init__(self) -> None:
        self._drawers: list[array[int]] = [array("Q") for _ in range(1 << DRAWER_BITS)]
        self._sorted = array("I")

    def add(self, keys: array[int]) -> None:
        """Add devices by their keys (`sort_keys`)."""
        drawers = self._drawers
        for key in keys:
            drawers[key >> _DRAWER_SHIFT].append(key)

    def sort(self) -> Iterator[None]:
        """Sort what was added; yields where the loop may have a turn."""
        for drawer in self._drawers:
            self._sorted.extend([key & _DEVICE_MASK for key in sorted(drawer)])
            yield
        self._drawers = []

    def __len__(self) -> int:
        return len(self._sorted)

    def between(self, first: int, end: int) -> BitMap:
        """The devices at the places from `first` to before `end`."""
        return BitMap(self._sorted[first:end])


def shares_of(count: int, weights: Sequence[int]) -> list[int]:
    """Divide so many devices by weights: each gets its share rounded down or up, and all of them are given out.

    Rounded as the running sum is, so that what comes later cannot change what came before.
    """
    total = sum(weights)
    ends = [count * reached // total for reached in accumulate(weights)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
