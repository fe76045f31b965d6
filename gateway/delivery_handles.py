"""Handles: the name of a delivery at the engine and in lists, one integer of its push's and its device's number."""

from __future__ import annotations

from collections.abc import Iterable

DEVICE_BITS = 32
DEVICE_MASK = (1 << DEVICE_BITS) - 1


def handle_of(push_no: int, device_no: int) -> int:
    """The handle of a delivery; `>> DEVICE_BITS` is its push again, `& DEVICE_MASK` its device."""
    return push_no << DEVICE_BITS | device_no


def by_push(handles: Iterable[int]) -> dict[int, list[int]]:
    """Group handles: push number -> device numbers."""
    grouped: dict[int, list[int]] = {}
    for handle in handles:
        grouped.setdefault(handle >> DEVICE_BITS, []).append(handle & DEVICE_MASK)
    return grouped
