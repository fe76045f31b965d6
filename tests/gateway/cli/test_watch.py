"""What `fleetpush watch` says while a push is under way, and when it has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from gateway.cli.server_client import ServerClient
from gateway.cli.terminal import Failure
from gateway.cli.watch import watch_push
from tests.gateway.cli.deliveries import Deliveries


def test_what_waits_until_a_time_is_told_with_the_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        later, sooner = ("waiting", None, "2026-12-01T07:00:00.000Z"), ("waiting", None, "2026-12-01T06:00:00.000Z")
        for server, words in (
            (Deliveries(sooner), "1 waiting; 1 deferred by caps or quiet hours, until 2026-12-01 07:00 CET"),
            (Deliveries(later, ("waiting", None, None), sooner), "2 deferred by caps or quiet hours, the first until"),
            (Deliveries(("waiting", None, None)), "still open after 0 s: 1 targeted: 1 waiting"),
        ):
            with pytest.raises(Failure) as failure:
                watch_push(cast(ServerClient, server), "p1", timeout=0, as_json=False)
            assert words in str(failure.value)
            assert str(failure.value).removeprefix("still open after 0 s: ") in capsys.readouterr().out
    finally:
        monkeypatch.undo()
        time.tzset()


def test_losses_beyond_those_shown_are_counted_and_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lost = [("expired", "ttl", None)] * 1990 + [("refused", "not_acknowledged", None)] * 11
    server = Deliveries(("delivered", None, None), *lost)
    with pytest.raises(Failure, match="2001 of 2002 ended undelivered"):
        watch_push(cast(ServerClient, server), "p1", timeout=None, as_json=False)
    printed = capsys.readouterr()
    assert printed.out.count("\texpired\tttl") == 20
    assert "And 1981 more." in printed.err
    assert "`fleetpush pushes deliveries p1 --state expired`" in printed.err
    assert "`fleetpush pushes deliveries p1 --state refused`" in printed.err


def test_few_losses_are_all_shown(capsys: pytest.CaptureFixture[str]) -> None:
    server = Deliveries(("expired", "ttl", None), ("cancelled", "recalled", None))
    with pytest.raises(Failure, match="2 of 2 ended undelivered"):
        watch_push(cast(ServerClient, server), "p1", timeout=None, as_json=False)
    printed = capsys.readouterr()
    assert [line.split("\t")[1] for line in printed.out.splitlines()[-2:]] == ["expired", "cancelled"]
    assert "more" not in printed.err


class AcknowledgedMeanwhile(Deliveries):
    """Acknowledges what is in flight between an answer's counts and the list of what is in flight."""

    def items(self, path: str, limit: int | None = None, *, state: str) -> Iterator[dict[str, Any]]:
        for delivery in self.deliveries:
            delivery["state"] = "delivered"
        return super().items(path, limit, state=state)


def test_the_last_line_is_the_end_and_not_what_was_in_flight_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.watch.WATCH_INTERVAL_SECONDS", 0)
    watch_push(cast(ServerClient, AcknowledgedMeanwhile(("sent", None, None))), "p1", timeout=10, as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == "p1  1 targeted: 1 delivered"


def test_what_was_sent_at_qos_0_is_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    server = Deliveries(("sent", None, None))
    server.deliveries[0]["qos"] = 0
    watch_push(cast(ServerClient, server), "p1", timeout=0, as_json=False)
    assert capsys.readouterr().out == "p1  1 targeted: 1 sent\n"
