"""Funnels in a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from gateway.cli.analytics import print_raw
from tests.gateway.cli.fake_server import FakeServer

FUNNEL: dict[str, Any] = {
    "targeted": 10,
    "eligible": 8,
    "delivered": 4,
    "displayed": 2,
    "dismissed": 0,
    "opened": 1,
    "acted": 0,
    "opted_out": 0,
    "rates": {"delivered": 0.5, "displayed": 0.5, "opened": 0.5, "acted": 0.0, "opted_out": None},
    "time_to_deliver_ms": {"p50": 12, "p90": 40, "p99": 90},
    "time_to_open_ms": None,
}


def test_the_funnel_of_a_push(fake: FakeServer) -> None:
    fake.answer = lambda request: FUNNEL | {"push_id": "p1", "counted_at": "now"}
    facts = [line.split(maxsplit=1) for line in fake.run("analytics", "push", "p1").stdout.splitlines()]
    assert fake.only.path == "/v1/analytics/pushes/p1"
    assert ["delivered", "4 50.0%"] in facts
    assert ["time_to_deliver", "p50 12 ms, p90 40 ms, p99 90 ms"] in facts


def test_funnels_of_a_time(fake: FakeServer) -> None:
    fake.answer = lambda request: {"items": [FUNNEL | {"channel": None}], "limited": True, "uncounted": 2}
    shown = fake.run("analytics", "by", "channel", "--from", "2026-11-01T00:00Z", "--to", "2026-12-01T00:00Z")
    query = fake.only.query
    assert query["by"] == "channel"
    assert [datetime.fromisoformat(query[name]) for name in ("from", "to")] == [
        datetime(2026, 11, 1, tzinfo=UTC),
        datetime(2026, 12, 1, tzinfo=UTC),
    ]
    heading, line = (row.split("\t") for row in shown.stdout.splitlines())
    assert len(heading) == len(line)
    assert dict(zip(heading, line, strict=True))["DELIVERED"] == "4 50.0%"
    assert line[0] == "(none)"
    assert "There may be more" in shown.stderr
    assert "2 pushes have changed" in shown.stderr


def test_files_come_as_the_server_made_them(fake: FakeServer, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    content = "tag,targeted\r\ncafé,1\r\n".encode()
    print_raw(content)
    assert capsysbinary.readouterr().out == content
    fake.answer = lambda request: httpx2.Response(200, content=content)
    assert "café,1" in fake.run("analytics", "by", "tag", "--format", "csv").stdout
    assert fake.only.query == {"by": "tag", "format": "csv"}
    assert "which of them?" in fake.run("analytics", "by", "tag", "--format", "csv", "--json").stderr


def bucket(name: str, opted_out: str | None) -> dict[str, Any]:
    share = {"rate": 0.0125, "low": 0.01, "high": 0.02}
    verdicts = {"opted_out": {"verdict": opted_out, "z": 3.1}, "dismissed": {"verdict": "not_higher", "z": 0.2}}
    return {
        "bucket": name,
        "device_days": 800,
        "alerts": 900,
        "opened": 12,
        "dismissed": 12,
        "opted_out": 10,
        "rates": {"opened": None, "opted_out": share, "dismissed": share},
        "time_to_open_ms": None,
        "compared": None if opted_out is None else verdicts,
    }


def test_the_frequency_at_which_people_leave(fake: FakeServer) -> None:
    answer: dict[str, Any] = {
        "since": "2026-11-03",
        "until": "2026-12-01",
        "buckets": [bucket("0-1", None), bucket("2-3", "higher")],
        "leave_from": {"opted_out": "2-3", "dismissed": None},
        "verdict": "people_leave",
    }
    fake.answer = lambda request: answer
    shown = fake.run("analytics", "fatigue", "--channel", "offers", "--from", "2026-11-03T00:00Z")
    assert fake.only.path == "/v1/analytics/fatigue"
    assert (fake.only.query["channel"], "tag" in fake.only.query) == ("offers", False)
    _, few, many = (line.split("\t") for line in shown.stdout.splitlines())
    assert few == ["0-1", "800", "10 1.25%", "900", "12 1.25%", "12", ""]
    assert many[2] == "10 1.25% *"
    assert "From 2-3 on more people opt out." in shown.stderr
    answer |= {"verdict": "not_enough_yet", "leave_from": {"opted_out": None, "dismissed": None}}
    assert "There is not enough yet" in fake.run("analytics", "fatigue", "--tag", "vip").stderr
