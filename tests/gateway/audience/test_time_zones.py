from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from gateway.audience import time_zones as time_zones_module
from gateway.audience.time_zones import is_time_zone, time_zone, time_zones
from gateway.delivery.push import PushRequest
from gateway.plans.timing import Timing


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"])
def test_iana_names_are_time_zones(name: str) -> None:
    assert is_time_zone(name)


@pytest.mark.parametrize(
    "name", ["", "Europe", "europe/berlin", "Mars/Olympus", "../../etc/passwd", "+01:00", None, 7, [], {}]
)
def test_anything_else_is_not(name: object) -> None:
    assert not is_time_zone(name)


def test_a_look_in_many_zones_reads_the_file_of_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def read_zone(name: str) -> ZoneInfo:
        read.append(name)
        return ZoneInfo(name)

    monkeypatch.setattr(time_zones_module, "ZoneInfo", read_zone)
    time_zone.cache_clear()
    request = PushRequest.model_validate(
        {"target": {"all": True}, "data": 1, "repeat": {"cron": "0 9 * * *", "zone": "device"}}
    )
    timing = Timing.of(request, "UTC", 0)
    zones = sorted(time_zones())
    first = timing.first_due(86_400_000, zones)
    assert timing.first_due(86_400_000, zones) == first == 86_400_000 - 14 * 3_600_000
    assert sorted(read) == zones
