"""Counts of devices as sets: how many alerts each device of a segment has had, in a few bitmaps.

A number for each device would be a row, or a dictionary, for each device. Here the binary digits are sets: the devices
whose count has a 1 in that place (a *bit-sliced* counter, O'Neil and Quass 1997). To add one to all devices of a push
is a few operations on sets, whatever their number; so is to add two counts, or to find the devices with at least so
many.

Counts end at MAX_COUNTED_ALERTS: one more leaves them there. On disk the digits stand one behind the other in a single
roaring bitmap, each moved by as many numbers as a segment has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from pyroaring import BitMap

from gateway.store.audience.device_sets import SEGMENT_BITS, pack, unpack, whole_segment

COUNT_DIGITS = 8
MAX_COUNTED_ALERTS = (1 << COUNT_DIGITS) - 1
"""Highest count of a device. Buckets end far below it, and it bounds a row to eight containers of 8 KiB."""
SEGMENT_SIZE = 1 << SEGMENT_BITS


class DeviceCounts:
    """A count for each device of a segment, by its place in it (0 to 65,535)."""

    __slots__ = ("digits",)

    def __init__(self, digits: Iterable[BitMap] = ()) -> None:
        self.digits = [*digits]
        self.digits += [BitMap() for _ in range(COUNT_DIGITS - len(self.digits))]

    @classmethod
    def from_blob(cls, blob: bytes) -> DeviceCounts:
        return cls(unstack(unpack(blob), COUNT_DIGITS))

    def to_blob(self) -> bytes:
        return pack(stack(self.digits))

    def add_one(self, devices: BitMap) -> None:
        """Count one more for each of these devices."""
        carry = devices
        for place, digit in enumerate(self.digits):
            if not carry:
                return
            self.digits[place], carry = digit ^ carry, digit & carry
        self._keep_at_most(carry)

    def add_each(self, added: Counter[int]) -> None:
        """Count more for each device, as many as are said."""
        rest = {device: count for device, count in added.items() if count > 0}
        while rest:
            self.add_one(BitMap(rest))
            rest = {device: count - 1 for device, count in rest.items() if count > 1}

    def add(self, other: DeviceCounts) -> None:
        """Add the counts of another one."""
        carry = BitMap()
        for place, (digit, more) in enumerate(zip(self.digits, other.digits, strict=True)):
            either = digit ^ more
            self.digits[place], carry = either ^ carry, (digit & more) | (carry & either)
        self._keep_at_most(carry)

    def _keep_at_most(self, above: BitMap) -> None:
        if above:
            self.digits = [digit | above for digit in self.digits]

    def counted(self) -> BitMap:
        """The devices with at least one."""
        return BitMap.union(*self.digits)

    def at_least(self, count: int, among: BitMap) -> BitMap:
        """The devices among these with `count` or more."""
        if count > MAX_COUNTED_ALERTS:
            return BitMap()
        above, equal = BitMap(), among
        for place in reversed(range(COUNT_DIGITS)):
            digit = self.digits[place]
            if count >> place & 1:
                equal = equal & digit
            else:
                above |= equal & digit
                equal = equal - digit
        return above | equal

    def total(self, among: BitMap) -> int:
        """The sum of the counts of these devices."""
        return sum(digit.intersection_cardinality(among) << place for place, digit in enumerate(self.digits) if digit)


def stack(sets: Iterable[BitMap]) -> BitMap:
    """Put sets of places one behind the other."""
    stacked = BitMap()
    for place, devices in enumerate(sets):
        if devices:
            stacked |= devices.shift(place << SEGMENT_BITS) if place else devices
    return stacked


def unstack(stacked: BitMap, count: int) -> Iterator[BitMap]:
    """Take the first sets apart again."""
    for place in range(count):
        first = place << SEGMENT_BITS
        if stacked and first <= stacked.max():
            yield (stacked & whole_segment(place)).shift(-first)
        else:
            yield BitMap()
