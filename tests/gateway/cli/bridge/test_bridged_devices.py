"""The devices that are bridged: those that were named, and of what they say of themselves what can be true."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.cli.bridge import bridged_devices
from gateway.cli.bridge.bridge_options import BridgeOptions
from gateway.cli.bridge.bridged_devices import MAX_COMMANDS, BridgedDevices, battery_of, version_of
from gateway.cli.server_client import RequestRefused
from tests.gateway.cli.bridge.fakes import OPTIONS
from tests.gateway.cli.fake_server import FakeServer, Request, pages_of, problem


def answered(device_id: str, *tags: str, **attributes: Any) -> dict[str, Any]:
    return {"device_id": device_id, "name": None, "tags": [*tags], "online": True, "attributes": attributes}


def source(fake: FakeServer, **options: Any) -> BridgedDevices:
    return BridgedDevices(fake.client(), replace(OPTIONS, **options))


NAMED: dict[str, Any] = {"devices": ("kiosk-1", "kiosk-2"), "tags": ()}


def test_tags_are_lists_of_the_server() -> None:
    fake = FakeServer()
    fake.answer = lambda request: pages_of([answered("kiosk-1"), answered(f"of-{request.query['tag']}")])(request)
    found = source(fake, tags=("lobby", "till")).read()
    assert [*found] == ["kiosk-1", "of-lobby", "of-till"]
    assert found["kiosk-1"].name == "kiosk-1"
    assert [request.query["tag"] for request in fake.requests] == ["lobby", "till"]


def test_named_devices_are_asked_for_one_by_one() -> None:
    fake = FakeServer()

    def answer(request: Request) -> Any:
        return problem(404, "device_not_found") if request.path.endswith("2") else answered("kiosk-1")

    fake.answer = answer
    assert [*source(fake, **NAMED).read()] == ["kiosk-1"]
    fake.answer = lambda request: problem(404, "not_found")
    with pytest.raises(RequestRefused):  # another server, perhaps: nobody is removed for that
        source(fake, **NAMED).read()


def test_more_than_the_most_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridged_devices, "MAX_DEVICES", 3)
    fake = FakeServer()
    fake.answer = pages_of([answered(f"kiosk-{number}") for number in range(5)], page=2)
    everybody = source(fake, tags=(), every_device=True)
    assert [*everybody.read()] == ["kiosk-0", "kiosk-1", "kiosk-2"]
    assert everybody.left_out
    assert len(fake.requests) == 2


def test_a_device_that_has_lost_its_tag_is_bridged_no_more() -> None:
    fake = FakeServer()
    fake.answer = lambda request: answered("kiosk-1", "till")
    assert source(fake).read_one("kiosk-1") is None
    assert source(fake, tags=("lobby", "till")).read_one("kiosk-1") is not None
    assert source(fake, tags=(), every_device=True).read_one("kiosk-1") is not None
    fake.answer = lambda request: problem(404, "device_not_found")
    assert source(fake).read_one("kiosk-1") is None


def test_a_delivery_that_is_forgotten_is_none() -> None:
    fake = FakeServer()
    fake.answer = lambda request: {"items": [{"state": "acted"}], "next_cursor": None}
    assert source(fake).read_delivery("p/1") == {"state": "acted"}
    assert fake.only.path == "/v1/pushes/p/1/deliveries"
    answers = [problem(404, "push_not_found"), problem(410, "gone")]
    fake.answer = lambda request: answers.pop()
    assert source(fake).read_delivery("p1") is None
    assert source(fake).read_delivery("p1") is None
    fake.answer = lambda request: problem(503, "busy")
    with pytest.raises(RequestRefused):
        source(fake).read_delivery("p1")


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"tags": ("lobby",)}, True), ({"tags": (), "every_device": True}, True), (NAMED, False)],
)
def test_who_may_be_wanted_is_known_without_asking(options: dict[str, Any], expected: bool) -> None:
    assert source(FakeServer(), **options).may_be_wanted("new") is expected


def commands(declared: Any, options: BridgeOptions = OPTIONS) -> tuple[str, ...]:
    fake = FakeServer()
    fake.answer = lambda request: answered("kiosk-1", "lobby", commands=declared)
    found = BridgedDevices(fake.client(), options).read_one("kiosk-1")
    assert found is not None
    return found.commands


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (["identify", "wipe", "reboot", "identify"], ("identify", "reboot")),
        (["reboot/../wipe", 7, None, ["reboot"], ""], ()),
        ("reboot", ()),
        ({"reboot": 1}, ()),
        (None, ()),
    ],
)
def test_commands_are_declared_by_the_device_and_allowed_by_the_operator(declared: Any, expected: Any) -> None:
    assert commands(declared) == expected


def test_a_device_has_so_many_buttons() -> None:
    declared = [f"c{number}" for number in range(100)]
    assert commands(declared, replace(OPTIONS, commands=("*",))) == tuple(declared[:MAX_COMMANDS])


@pytest.mark.parametrize(
    ("value", "expected"), [(81, 81), (0, 0), (99.5, 99.5), (101, None), (-1, None), (True, None), ("81", None)]
)
def test_a_battery_is_a_percentage(value: Any, expected: Any) -> None:
    assert battery_of(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("2.3", "2.3"), (2.3, "2.3"), ("a\x1b[2Jb", "a[2Jb"), ("x" * 100, "x" * 64), ("", None), (True, None), ([], None)],
)
def test_a_version_is_a_short_text(value: Any, expected: Any) -> None:
    assert version_of(value) == expected
