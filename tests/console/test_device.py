"""One device: why it did not show a push, for each state and reason there is, and what is done to it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client_sim.device import Device
from client_sim.push import Push
from gateway.delivery_states import ENDS_A_RECEIPT_REVIVES, DeliveryState
from gateway.measurements import KNOWN_ENDS
from tests.console.conftest import EVIL, Desk, imported
from tests.end_to_end.harness import Api, Server
from tests.end_to_end.wire_device import WireDevice

ROOT = Path(__file__).resolve().parents[2]
OF_DEVICES = ("ttl", "screen_full", "collapse_key")
"""Reasons for which the device clients put a push away (docs/device-contract.md)."""


def reasons_of_documents() -> list[tuple[str, str]]:
    """The states and reasons that docs/push.md names."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", (ROOT / "docs/push.md").read_text(), flags=re.MULTILINE)
    return [(state, reason) for state, cell in rows for reason in re.findall(r"`(\w+)`", cell)]


def refusals_of_devices() -> set[str]:
    """The reasons for which a device refuses what is signed, or what should be."""
    found: set[str] = set()
    for name in ("trust.py", "signatures.py"):
        found |= set(re.findall(r"PushRefused\(\s*\"([a-z_]+)\"", (ROOT / "client_sim" / name).read_text()))
    return found


def deliveries() -> list[dict[str, Any]]:
    """A delivery in each state, for each reason."""
    plain = [(state.label, None) for state in DeliveryState]
    revived = [("displayed", f"after_{end.label}") for end in ENDS_A_RECEIPT_REVIVES]
    by_device = [("dismissed", reason) for reason in {*OF_DEVICES, *refusals_of_devices()}]
    ends = {(state, f"{reason}_0x97" if reason == "reason_code" else reason) for state, reason in KNOWN_ENDS}
    found = [*plain, *revived, *by_device, *ends, *reasons_of_documents()]
    waits: list[dict[str, Any]] = [{"not_before": "2026-12-01T08:00:00.000Z"}, {"attempts": 3}]
    return [{"state": state, "reason": reason} for state, reason in found] + [
        {"state": "waiting", **one} for one in waits
    ]


@pytest.mark.parametrize("language", ["en", pytest.param("de", marks=pytest.mark.full_only)])
def test_every_state_and_reason_has_words(console: Callable[..., Desk], language: str) -> None:
    assert len(reasons_of_documents()) > 15
    assert len(refusals_of_devices()) > 5
    page = console("viewer", language=language).open("fleet")
    program = f"""
        (async () => {{
          const {{ load }} = await {imported("texts.js")};
          await load('explanations');
          const {{ explanationOf, explainDelivery }} = await {imported("parts/explanation.js")};
          return {json.dumps(deliveries())}.flatMap((one) => [true, false, null].map(
            (online) => [one, explanationOf(one, online).key, explainDelivery(one, online)])).concat([
              [{{ state: 'waiting' }}, explanationOf({{ state: 'waiting' }}, true, false).key,
                explainDelivery({{ state: 'waiting' }}, true, false)]]);
        }})()"""
    found = page.evaluate(program)
    assert len(found) > 100
    for delivery, key, words in found:
        assert key not in ("unknown", "dismissed_other"), delivery
        assert len(words["why"]) > 10, delivery
        assert len(words["todo"]) > 5, delivery
        assert "{" not in words["why"] + words["todo"], delivery
        if delivery.get("reason"):
            state, reason = delivery["state"], delivery["reason"]
            assert key in (f"{state}_{reason}", "refused_reason_code", "sent", state) or reason.startswith("after_")
            assert key != state or reason.startswith("after_"), delivery
    assert page.evaluate("document.documentElement.lang") == language
    short = {reason for _, reason in KNOWN_ENDS if reason != "reason_code"}
    nameless = f"{json.dumps(sorted(short))}.filter((reason) => !t.has('reasons.' + reason))"
    assert page.evaluate(f"{imported('texts.js')}.then(({{ t }}) => {nameless})") == []


def test_the_question_is_answered_within_three_clicks(console: Callable[..., Desk], api: Api) -> None:
    device = api.enrol("kiosk-17", name="Hall 17").id
    titles: dict[str, str] = {}

    def end(title: str, words: str, **fields: Any) -> str:
        titles[title] = words
        return api.push(device, notification={"title": title}, **fields)

    end("at once", "Its lifetime was over before the device could take it.", ttl=0)
    end("old price", "A newer push with the same collapse key took its place", collapse_key="price")
    end("new price", "The device is not connected.", collapse_key="price", kind="in_app")
    recalled = end("recalled", "Somebody has recalled the push before it arrived here.")
    api.call("DELETE", f"/v1/pushes/{recalled}", 200)
    taken = end("taken", "Somebody has taken this one push out of the mailbox of this device.")
    api.call("DELETE", f"/v1/devices/{device}/mailbox/{taken}", 200)
    api.call("PATCH", f"/v1/devices/{device}/preferences", 200, json={"channels": {"offers": False}})
    end("muted", "The person has muted the channel of this push.", channel="offers")
    api.call("PATCH", f"/v1/devices/{device}/preferences", 200, json={"consent": "denied"})
    end("unwanted", "The person at the device does not want notifications.")
    desk = console("viewer")
    page = desk.open("overview", ready=False)
    desk.click_text("Fleet", "#nav")
    desk.click_text("Hall 17", "tbody")
    desk.shows("old price", ".timeline")
    for title, words in titles.items():
        found = (
            f"[...document.querySelectorAll('.timeline li')].find((li) => li.innerText.includes({json.dumps(title)}))"
        )
        page.evaluate(f"{found}.id = 'asked-here'")
        page.click("#asked-here summary")
        desk.shows(words, "#asked-here .why")
        assert page.evaluate("document.querySelector('#asked-here .what-to-do').innerText.length > 5")
        page.evaluate("document.querySelector('#asked-here').removeAttribute('id')")


@pytest.mark.full_only
def test_the_address_asks_about_one_push(console: Callable[..., Desk], api: Api) -> None:
    device = api.enrol("asks-1").id
    push_id = api.push(device, notification={"title": "Fresh bread"}, ttl=0)
    other = api.enrol("asks-2").id
    desk = console("viewer")
    desk.open(f"devices/{device}?push={push_id}")
    desk.shows("Why did it not show “Fresh bread”?", ".asked")
    desk.shows("Its lifetime was over", ".asked .why")
    desk.go(f"devices/{other}?push={push_id}")
    desk.shows("This device was not a target of the push", ".asked .why")
    desk.go(f"devices/{other}?push=nothing")
    desk.shows("No push has this id.", ".asked")
    desk.open("devices/nobody", ready=False)
    desk.shows("no device 'nobody'", page=desk.tabs[-1])


@pytest.mark.full_only
def test_it_is_said_whether_it_is_subscribed_and_why_at_a_glance(
    console: Callable[..., Desk], api: Api, server: Server, device_of: Callable[..., Device]
) -> None:
    """As the server says it: a device that listens is not accused, one that does not is; neither needs a click."""
    deaf = api.enrol("deaf-1")
    api.push("deaf-1", data=1)
    desk = console("viewer")
    page = desk.open("devices/deaf-1")
    desk.shows("The device is not connected.", ".timeline summary")
    wire = WireDevice(server.mqtt_port, deaf.client_id, deaf.token)
    wire.connect()
    desk.look_again()
    desk.shows("no: it gets none", ".facts")
    desk.shows("has not subscribed to its pushes", ".timeline summary")
    wire.drop()
    listening = api.enrol("listens-1")
    with device_of(listening) as device:
        assert device.wait_connected(10)
        desk.go("devices/listens-1")
        page.wait_for("document.querySelector('.facts').innerText.includes('to its pushes')")


@pytest.mark.full_only
def test_a_test_push_is_seen_on_its_way(
    console: Callable[..., Desk], api: Api, device_of: Callable[..., Device]
) -> None:
    enrolled = api.enrol("tested-1")
    desk = console("sender")
    page = desk.open("devices/tested-1")
    page.click("#test-push")
    desk.fill("dialog input[name=title]", "Is anybody there?")
    desk.click_text("Send", "dialog")
    desk.shows("Why did it not show “Is anybody there?”?", ".asked")
    desk.shows("The device is not connected.", ".asked .why")
    with device_of(enrolled) as device:
        desk.shows("delivered", ".asked .badge")
        desk.shows("online", ".head")
        device.uplink("door", json.dumps({"said": EVIL}))
        desk.shows("onerror", ".timeline")
        desk.shows("Connected", ".timeline")
    desk.shows("Disconnected", ".timeline")
    desk.shows("The device said goodbye.", ".timeline")
    assert page.evaluate("document.querySelectorAll('.timeline :is(img, script)').length") == 0


@pytest.mark.full_only
def test_a_command_is_called_and_answered(
    console: Callable[..., Desk], api: Api, device_of: Callable[..., Device]
) -> None:
    enrolled = api.enrol("called-1")
    device = device_of(enrolled)

    @device.command("add")
    def add(push: Push) -> dict[str, Any]:
        return {"sum": push.data["a"] + 1, "by": EVIL}

    desk = console("sender")
    with device:
        api.wait_online(enrolled.id)
        page = desk.open("devices/called-1")
        page.click("#call-command")
        desk.fill("dialog input[name=command]", "add")
        desk.fill("dialog textarea[name=data]", "no json")
        desk.click_text("Call", "dialog")
        desk.shows("This is not a JSON object.", "dialog")
        desk.fill("dialog textarea[name=data]", '{"a": 41}')
        desk.click_text("Call", "dialog")
        desk.shows("It has answered", "dialog")
        desk.shows('"sum": 42', "dialog .answer")
        assert page.evaluate("document.querySelectorAll('dialog :is(img, script)').length") == 0


@pytest.mark.full_only
def test_a_mailbox_is_emptied_one_by_one_and_altogether(console: Callable[..., Desk], api: Api) -> None:
    device = api.enrol("full-1").id
    pushes = [api.push(device, data=n, priority=priority) for n, priority in enumerate(("low", "critical", "normal"))]
    desk = console("operator")
    page = desk.open(f"devices/{device}")
    order = "[...document.querySelectorAll('.waiting > li')].map((one) => one.dataset.key)"
    assert page.wait_for(f"{order}.length === 3 && {order}") == [pushes[1], pushes[2], pushes[0]]
    page.click(f"li[data-key='{pushes[2]}'] .cancel")
    desk.shows(pushes[2], "dialog")
    desk.click_text("Take out", "dialog")
    desk.shows("It was taken out.", "#toasts")
    page.wait_for(f"{order}.length === 2")
    assert api.delivery(pushes[2])["reason"] == "removed_from_mailbox"
    page.click("#empty-mailbox")
    desk.shows(pushes[0], "dialog")
    desk.click_text("Empty", "dialog")
    desk.shows("2 pushes were cancelled.", "#toasts")
    desk.shows("Nothing waits for it.", "#mailbox")


@pytest.mark.full_only
def test_it_is_changed_given_a_new_token_and_removed(console: Callable[..., Desk], api: Api) -> None:
    enrolled = api.enrol("owned-1", name="Old name")
    desk = console("operator")
    page = desk.open("devices/owned-1")
    page.click("#edit-device")
    desk.fill("dialog input[name=name]", "New name")
    desk.fill("dialog input[name=tags]", "hall, window")
    desk.fill("dialog input[name=timezone]", "Mars/Olympus")
    desk.click_text("Save", "dialog")
    desk.shows("time zone", "dialog form > .error")
    desk.fill("dialog input[name=timezone]", "Asia/Tokyo")
    desk.click_text("Save", "dialog")
    desk.shows("New name", "h1")
    desk.shows("in Asia/Tokyo", ".facts")
    assert api.device("owned-1")["tags"] == ["hall", "window"]
    page.click("#rotate-token")
    desk.shows("owned-1", "dialog")
    desk.click_text("New token", "dialog")
    token = page.wait_for("document.querySelector('dialog .token')?.textContent")
    assert token != enrolled.token
    assert api.request(
        "GET", "/v1/devices/owned-1/preferences", headers={"Authorization": f"Bearer {token}"}
    ).is_success
    desk.click_text("Close", "dialog")
    page.click("#revoke-device")
    desk.shows("New name (owned-1)", "dialog")
    desk.click_text("Remove", "dialog")
    desk.shows("owned-1 was removed.", "#toasts")
    page.wait_for("location.pathname === '/console/fleet'")
    assert api.request("GET", "/v1/devices/owned-1").status_code == 404


@pytest.mark.full_only
def test_a_viewer_can_change_nothing(console: Callable[..., Desk], api: Api) -> None:
    device = api.enrol("viewed-1").id
    push_id = api.push(device, data=1)
    desk = console("viewer")
    page = desk.open(f"devices/{device}")
    page.wait_for("!!document.querySelector('.waiting > li')")
    assert page.evaluate("[...document.querySelectorAll('.screen button:not(#older)')].map((one) => one.id)") == []
    for method, path in (
        ("POST", f"/v1/devices/{device}/token"),
        ("POST", f"/v1/devices/{device}/call"),
        ("DELETE", f"/v1/devices/{device}"),
        ("PATCH", f"/v1/devices/{device}"),
        ("DELETE", f"/v1/devices/{device}/mailbox"),
        ("DELETE", f"/v1/devices/{device}/mailbox/{push_id}"),
    ):
        assert desk.asks(method, path, {}) == 403, path


@pytest.mark.full_only
def test_what_a_device_and_senders_say_is_text(
    console: Callable[..., Desk], api: Api, server: Server, app: str, device_of: Callable[..., Device]
) -> None:
    enrolled = api.enrol("evil-9", name=EVIL, attributes={EVIL: EVIL, "nested": {"a": [EVIL]}})
    api.push(enrolled.id, notification={"title": EVIL}, collapse_key=EVIL[:60])
    with device_of(enrolled) as device:
        device.uplink("evil", EVIL)
        assert device.flush(10)
    wire = WireDevice(server.mqtt_port, enrolled.client_id, enrolled.token)
    wire.connect()
    wire.publish(f"{app}/devices/{EVIL.replace('/', '')}", b"denied", qos=1)
    wire.disconnect()
    assert "<img" in api.wait_last_error(enrolled.id)
    desk = console("operator")
    page = desk.open("devices/evil-9")
    desk.shows(EVIL, "h1")
    desk.shows(EVIL, ".facts")
    desk.shows(EVIL, "[data-kind=message] pre")
    desk.shows("<img", ".last-error")
    page.click("#revoke-device")
    desk.shows(EVIL, "dialog")
    page.press("Escape", 27)
    assert page.evaluate("document.querySelectorAll('.screen :is(img, script, iframe)').length") == 0
    assert page.evaluate("document.title").startswith("<img")


@pytest.mark.full_only
def test_kinds_and_states_narrow_the_timeline(
    console: Callable[..., Desk], api: Api, device_of: Callable[..., Device]
) -> None:
    enrolled = api.enrol("narrow-1")
    api.push(enrolled.id, notification={"title": "gone"}, ttl=0)
    api.push(enrolled.id, notification={"title": "waits"}, channel="offers")
    with device_of(enrolled):
        api.wait_online(enrolled.id)
    desk = console("viewer")
    page = desk.open("devices/narrow-1")
    desk.click_text("Connections", ".chips")
    page.wait_for("location.search === '?kind=connection'")
    desk.shows("Disconnected", ".timeline")
    kinds = "[...new Set([...document.querySelectorAll('.timeline li')].map((one) => one.dataset.kind))]"
    assert page.evaluate(kinds) == ["connection"]
    desk.click_text("Pushes", ".chips")
    desk.shows("gone", ".timeline")
    desk.choose("#state", "expired")
    page.wait_for("location.search === '?kind=push&state=expired'")
    page.wait_for("document.querySelectorAll('.timeline li').length === 1")
    desk.shows("gone", ".timeline")


@pytest.mark.full_only
def test_older_things_are_loaded_on_demand(console: Callable[..., Desk], api: Api) -> None:
    device = api.enrol("long-1").id
    api.push_batch([{"target": {"device": device}, "data": n, "ttl": 0} for n in range(70)])
    desk = console("viewer")
    page = desk.open(f"devices/{device}?kind=push")
    shown = "document.querySelectorAll('.timeline li').length"
    page.wait_for(f"{shown} >= 30 && {shown} < 70")
    page.wait_for(f"(document.querySelector('#older')?.click(), {shown} === 70)")
    page.wait_for("!document.querySelector('#older')")


@pytest.mark.full_only
def test_another_apps_device_is_not_there(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("mine-1")
    desk = console("operator", app="default")
    desk.open("devices/mine-1", ready=False)
    desk.shows("no device 'mine-1'")


@pytest.mark.full_only
def test_everybody_can_use_it(console: Callable[..., Desk], api: Api) -> None:
    enrolled = api.enrol("axe-device", name="A long name of a device", tags=["hall"], timezone="Asia/Tokyo")
    push_id = api.push(enrolled.id, notification={"title": "Soup"}, ttl=0)
    api.push(enrolled.id, data=1)
    desk = console("operator")
    page = desk.open(f"devices/axe-device?push={push_id}")
    desk.shows("Soup", ".timeline")
    page.click(".timeline summary")
    desk.accessible()
    page.click("#call-command")
    page.wait_for("!!document.querySelector('dialog[open]')")
    desk.accessible()
    page.press("Escape", 27)
    desk.fits_a_phone()
