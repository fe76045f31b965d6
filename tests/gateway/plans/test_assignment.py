"""Assignment: a hash that is stated, exact sizes, and no device in two parts."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.plans.assignment import Order, number_of, shares_of, sort_keys


def order_of(campaign_id: str, count: int) -> Order:
    order = Order()
    order.add(sort_keys(campaign_id, [(number, f"device-{number}") for number in range(count)]))
    for _ in order.sort():
        pass
    return order


def test_the_number_of_a_device_is_as_documented() -> None:
    digest = hashlib.blake2b(b"c1/kiosk-1", digest_size=4).digest()
    assert number_of("c1", "kiosk-1") == int.from_bytes(digest, "big") / 2**32


def test_the_order_is_that_of_the_numbers() -> None:
    order = order_of("c1", 500)
    places = [order.between(place, place + 1)[0] for place in range(len(order))]
    assert places == sorted(range(500), key=lambda number: number_of("c1", f"device-{number}"))
    assert order_of("c1", 500).between(0, 50) == order.between(0, 50), "stable"
    assert order_of("c2", 500).between(0, 50) != order.between(0, 50), "another one for each campaign"


@given(ends=st.lists(st.integers(0, 300), max_size=6).map(sorted))
def test_parts_are_disjoint_and_leave_nobody_out(ends: list[int]) -> None:
    order = order_of("c1", 300)
    parts = [order.between(start, end) for start, end in zip([0, *ends], [*ends, 300], strict=True)]
    assert sum(map(len, parts)) == 300
    assert BitMap.union(*parts) == BitMap(range(300))


def test_numbers_are_evenly_spread() -> None:
    """Of 10,000 devices, each tenth of [0, 1) has 1,000, give or take four standard deviations (30 each)."""
    tenths = [0] * 10
    for number in range(10_000):
        tenths[int(10 * number_of("c1", f"device-{number}"))] += 1
    assert all(880 <= count <= 1_120 for count in tenths)


@pytest.mark.parametrize(
    ("count", "weights", "sizes"),
    [(10, [50, 50], [5, 5]), (7, [1, 1, 1], [2, 2, 3]), (1, [1, 1], [0, 1]), (0, [3, 1], [0, 0]), (8, [3, 1], [6, 2])],
)
def test_shares(count: int, weights: list[int], sizes: list[int]) -> None:
    assert shares_of(count, weights) == sizes


@given(count=st.integers(0, 10**6), weights=st.lists(st.integers(1, 10_000), min_size=1, max_size=10))
def test_shares_are_given_out_to_the_last_device(count: int, weights: list[int]) -> None:
    sizes = shares_of(count, weights)
    assert sum(sizes) == count
    for size, weight in zip(sizes, weights, strict=True):
        assert abs(size - count * weight / sum(weights)) < 1
