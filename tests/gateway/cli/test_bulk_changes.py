"""Changes of many devices: what their commands send, what they ask before, and how they print it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from gateway.cli import bulk_changes
from tests.gateway.cli.fake_server import FakeServer, Request

WHERE = "id.startsWith('k')"


def answers(request: Request) -> Any:
    if request.path == "/v1/segments/preview":
        return {"devices": 3, "examples": ["k1", "k2"]}
    ids = request.json.get("devices") or (["k3"] if "cursor" in request.json else ["k1", "k2"])
    more = "k2" if "filter" in request.json and "cursor" not in request.json else None
    return {"selected": 3, "devices": [{"device_id": one, "result": "changed"} for one in ids], "next_cursor": more}


def test_listed_devices_are_sent_by_the_thousand(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_changes, "CHANGED_DEVICES", 2)
    fake.answer = answers
    done = fake.run("devices", "tag", "a", "b", "c", "--add", "t", "--remove", "u")
    assert [one.json for one in fake.requests] == [
        {"add": ["t"], "remove": ["u"], "devices": ["a", "b"]},
        {"add": ["t"], "remove": ["u"], "devices": ["c"]},
    ]
    assert done.stdout == "3 changed\n"


def test_an_expression_is_carried_out_part_by_part(fake: FakeServer) -> None:
    fake.answer = answers
    done = fake.run("devices", "remove", "--where", WHERE, "--expect", "3")
    assert [one.json for one in fake.requests] == [
        {"filter": {"where": WHERE}, "expected": 3},
        {"filter": {"where": WHERE}, "cursor": "k2", "expected": 1},
    ]
    assert (done.stdout, done.stderr) == ("3 removed\n", "2 of 3 ..\n")


def test_without_a_terminal_nothing_is_done_unasked(fake: FakeServer) -> None:
    fake.answer = answers
    done = fake.run("devices", "remove", "--where", WHERE)
    assert fake.only.path == "/v1/segments/preview"
    assert (done.exit_code, done.stderr) == (
        2,
        "fleetpush: it selects 3 devices (k1, k2, ..): give --expect 3 to do it\n",
    )


@pytest.mark.parametrize(("typed", "requests"), [("3", 3), ("y", 1)])
def test_a_person_answers_with_the_number(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, typed: str, requests: int
) -> None:
    monkeypatch.setattr(bulk_changes, "is_asked", lambda: True)
    fake.answer = answers
    done = fake.run("devices", "tag", "--where", WHERE, "--add", "t", input=f"{typed}\n".encode())
    assert "other tags for 3 devices: k1, k2, ..\n" in done.stderr
    assert len(fake.requests) == requests
    assert done.exit_code == (0 if typed == "3" else 1)


def test_what_could_not_be_changed_is_said(fake: FakeServer) -> None:
    refusal = {"device_id": "b", "error": {"detail": "no device 'b' in this app"}}
    results = [{"device_id": "a", "result": "unchanged"}, refusal]
    fake.answer = lambda request: {"selected": None, "devices": results, "next_cursor": None}
    done = fake.run("devices", "tag", "a", "b", "--add", "t")
    assert (done.exit_code, done.stdout) == (1, "0 changed, 1 unchanged\n")
    assert done.stderr == "b: no device 'b' in this app\n"
    assert fake.run("devices", "tag", "a", "b", "--add", "t", "--json").exit_code == 1


def test_nobody_and_nothing(fake: FakeServer) -> None:
    assert fake.run("devices", "tag", "a").exit_code == 2
    assert fake.run("devices", "remove").exit_code == 2
    assert fake.run("devices", "remove", "a", "--expect", "1").exit_code == 2
    assert fake.run("devices", "remove", "a", "--where", WHERE).exit_code == 2
    assert not fake.requests
    fake.answer = lambda request: {"devices": 0, "examples": []}
    assert fake.run("devices", "remove", "--where", WHERE).stderr == "fleetpush: it selects no device\n"


def test_one_device_is_removed_as_before(fake: FakeServer) -> None:
    assert fake.run("devices", "remove", "kiosk-1").stderr == "removed kiosk-1\n"
    assert (fake.only.method, fake.only.path) == ("DELETE", "/v1/devices/kiosk-1")


def test_one_push_leaves_a_mailbox(fake: FakeServer) -> None:
    outcomes = {"cancelled": "cancelled\n", "in_flight": "not cancelled: it is on its way to the device\n"}
    outcomes["too_late"] = "not cancelled: it was delivered, or has ended before\n"
    for outcome, text in outcomes.items():
        counts = {name: int(name == outcome) for name in outcomes}
        fake.answer = partial(lambda counts, request: counts, counts)
        done = fake.run("mailbox", "cancel", "kiosk-1", "p1")
        assert (done.stdout, done.exit_code) == (text, int(outcome != "cancelled"))
        assert fake.run("mailbox", "cancel", "kiosk-1", "p1", "--json").exit_code == done.exit_code
    assert fake.requests[0].path == "/v1/devices/kiosk-1/mailbox/p1"
