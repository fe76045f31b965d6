"""Counts as sets of digits: equal to a dictionary of numbers."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.store.analytics.alert_counts import MAX_COUNTED_ALERTS, DeviceCounts

places = st.sets(st.sampled_from([0, 1, 2, 3, 40_000, 65_535]))
additions = st.lists(st.tuples(places, st.sampled_from([1, 1, 1, 3, 100, 200])), max_size=6)


def counted(added: list[tuple[set[int], int]]) -> tuple[DeviceCounts, Counter[int]]:
    counts, numbers = DeviceCounts(), Counter[int]()
    for devices, times in added:
        if times == 1:
            counts.add_one(BitMap(devices))
        else:
            counts.add_each(Counter(dict.fromkeys(devices, times)))
        for device in devices:
            numbers[device] = min(numbers[device] + times, MAX_COUNTED_ALERTS)
    return DeviceCounts.from_blob(counts.to_blob()), numbers


@given(first=additions, second=additions, among=places)
def test_counts_are_those_of_a_dictionary(
    first: list[tuple[set[int], int]], second: list[tuple[set[int], int]], among: set[int]
) -> None:
    counts, numbers = counted(first)
    more, more_numbers = counted(second)
    counts.add(more)
    expected = {
        device: min(numbers[device] + more_numbers[device], MAX_COUNTED_ALERTS) for device in numbers | more_numbers
    }
    assert set(counts.counted()) == {device for device, number in expected.items() if number}
    assert counts.total(BitMap(among)) == sum(expected.get(device, 0) for device in among)
    for least in (1, 2, 15, 100, MAX_COUNTED_ALERTS, MAX_COUNTED_ALERTS + 1):
        found = {device for device in among if expected.get(device, 0) >= least}
        assert set(counts.at_least(least, BitMap(among))) == found
