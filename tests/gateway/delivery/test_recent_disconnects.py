from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.delivery import recent_disconnects
from gateway.delivery.recent_disconnects import OF_DEVICE_DISCONNECTS, Disconnect, RecentDisconnects

KEPT = 24


@example([1] * 9 + [2] * 7 + [3] * 4 + [1] + [2] * 3 + [4, 3])
@given(st.lists(st.integers(1, 6), max_size=80))
def test_of_each_device_the_last_are_kept_and_of_all_those_of_the_last_devices(devices: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recent_disconnects, "KEPT_DISCONNECTS", KEPT)
        recent = RecentDisconnects(0)
        everything: dict[int, list[Disconnect]] = {}
        """All that was ever said, by device."""
        for at, device_no in enumerate(devices, 1):
            end = Disconnect(at, at * 1_000, "network", f"{at}")
            recent.add(device_no, end)
            everything.setdefault(device_no, []).append(end)
            found = {number: recent.of(number) for number in everything}
            assert sum(map(len, found.values())) == recent._count <= KEPT
            assert found[device_no][0] == end
            for number, ends in everything.items():
                last = ends[: -OF_DEVICE_DISCONNECTS - 1 : -1]
                here = len(found[number])
                assert list(found[number]) == last[:here]
                assert all(end.at <= recent.since for end in last[here:]), "what has made room is before `since`"
            gone = [ends[-1].at for number, ends in everything.items() if not found[number]]
            kept = [ends[-1].at for number, ends in everything.items() if found[number]]
            assert max(gone, default=0) < min(kept)


def test_a_device_that_never_left_has_none() -> None:
    assert RecentDisconnects(7).of(1) == ()
    assert RecentDisconnects(7).since == 7
