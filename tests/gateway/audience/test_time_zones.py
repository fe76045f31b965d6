from __future__ import annotations

import pytest

from gateway.audience.time_zones import is_time_zone


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"])
def test_iana_names_are_time_zones(name: str) -> None:
    assert is_time_zone(name)


@pytest.mark.parametrize(
    "name", ["", "Europe", "europe/berlin", "Mars/Olympus", "../../etc/passwd", "+01:00", None, 7, [], {}]
)
def test_anything_else_is_not(name: object) -> None:
    assert not is_time_zone(name)
