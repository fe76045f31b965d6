"""Handles name one delivery."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK, handle_of


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))
def test_a_handle_is_its_push_and_its_device(push_no: int, device_no: int) -> None:
    handle = handle_of(push_no, device_no)
    assert (handle >> DEVICE_BITS, handle & DEVICE_MASK) == (push_no, device_no)
    assert handle < 2**63, "SQLite's integers"
