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
