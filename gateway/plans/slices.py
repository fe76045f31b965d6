"""Slices of time: devices are given a push over minutes, so that what they share is not used by all at once.

A device's slice follows from its number alone, by a permutation of the 65,536 numbers of a segment whose neighbours lie
far apart: devices that were enrolled one after the other, as those of a site are, have their turns apart. It needs no
row for a device, and is the same after a restart.
"""

from __future__ import annotations

from functools import lru_cache

from pyroaring import BitMap

from gateway.store.audience.device_sets import SEGMENT_BITS, segments_of

MAX_SLICES = 100
"""Slices of a run, each of which is a push: they are listed with it, and each costs a commit."""
SLICE_DEVICES = 5
"""Devices of a slice at least, on average: a part for each device would be a row for each."""
_SEGMENT = 1 << SEGMENT_BITS
_STEP = pow(40_503, -1, _SEGMENT)
"""Distance between two devices with neighbouring turns. Its inverse is the golden ratio of a segment, so that
neighbouring devices have turns as far apart as can be."""


def slice_count(spread_s: int | None, devices: int, starts: int) -> int:
    """Over how many slices a run is spread. `starts`: how many instants it begins at, in zones."""
    if spread_s is None:
        return 1
    return max(1, min(spread_s, MAX_SLICES // max(starts, 1), -(-devices // SLICE_DEVICES)))


def in_slices(devices: BitMap, count: int, first: int, behind: int) -> BitMap:
    """Choose devices that are in slices `first` up to, but not, `behind`, of `count`."""
    if first <= 0 and behind >= count:
        return devices
    pattern = _pattern(count, max(first, 0), min(behind, count))
    found = BitMap()
    for segment, here in segments_of(devices):
        found |= here & pattern.shift(segment << SEGMENT_BITS)
    return found


@lru_cache(maxsize=64)  # at most 8 KiB each
def _pattern(count: int, first: int, behind: int) -> BitMap:
    """The lower bits of the device numbers in these slices."""
    places = range(first * _SEGMENT // count, behind * _SEGMENT // count)
    return BitMap([place * _STEP % _SEGMENT for place in places])
