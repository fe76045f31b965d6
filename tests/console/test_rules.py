"""Channels and the policy: read by everybody, changed by admins, and never over somebody else's change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.console.conftest import EVIL_SCRIPT, Desk
from tests.end_to_end.harness import Api


def test_a_channel_is_made_changed_and_removed(console: Callable[..., Desk], api: Api) -> None:
    desk = console("admin")
    page = desk.open("channels?new=1")
    desk.fill("input[name=id]", "deals")
    desk.fill("input[name=name]", EVIL_SCRIPT)
    desk.click_text("Add a limit")
    desk.fill("input[name=count]", "2")
    desk.click_text("Other limits for some devices")
    desk.fill("input[name=group]", "vip")
    desk.click_text("There are quiet hours")
    desk.click_text("Make the channel")
    desk.shows(EVIL_SCRIPT, "tbody")
    desk.shows("2 an hour; with the tag vip: no limit; what is more is dropped", "tbody")
    assert "owned" not in page.evaluate("document.title")
    api.enrol("mutes")
    api.call("PATCH", "/v1/devices/mutes/preferences", 200, json={"channels": {"deals": False}})
    page.click("tbody a")
    page.wait_for("location.search === '?channel=deals'")
    desk.fill("input[name=name]", "Deals")
    # Somebody else changes another field meanwhile.
    api.call("PATCH", "/v1/channels/deals", 200, json={"description": "of the day"})
    desk.click_text("The limit sets itself, by what people do")
    desk.click_text("Save")
    desk.shows("sets itself between 1 and 8 a day", "tbody")
    found = api.call("GET", "/v1/channels/deals", 200)
    assert (found["name"], found["description"], found["quiet_hours"]["start"]) == ("Deals", "of the day", "22:00")
    page.click("tbody a")
    page.click("#remove")
    desk.shows("1 person has muted it", "dialog")
    desk.shows("Deals (deals)", "dialog")
    desk.click_text("Remove the channel", "dialog")
    desk.shows("Deals was removed.", "#toasts")
    api.call("GET", "/v1/channels/deals", 404)


@pytest.mark.full_only
def test_a_policy_is_not_saved_over_another_ones(console: Callable[..., Desk], api: Api) -> None:
    desk = console("admin")
    page = desk.open("policy")
    desk.fill("input[name=timezone]", "Asia/Tokyo")
    desk.click_text("Save")
    desk.shows("The policy is saved.", "#toasts")
    page.wait_for("document.querySelector('input[name=timezone]')?.value === 'Asia/Tokyo'")
    api.call("PUT", "/v1/policy", 200, json={"approve_above": 50})
    desk.fill("input[name=critical]", "3")
    desk.click_text("Save")
    desk.shows("Somebody has changed the policy since you opened it. Nothing was saved.")
    assert api.call("GET", "/v1/policy", 200)["approve_above"] == 50
    desk.accessible()
    desk.click_text("Show it as it is now")
    page.wait_for("document.querySelector('input[name=approve_above]')?.value === '50'")
    desk.fill("input[name=timezone]", "Nowhere/Never")
    desk.click_text("Save")
    desk.shows("unknown time zone", "form.card > .error")


@pytest.mark.full_only
def test_a_viewer_reads_the_rules(console: Callable[..., Desk], api: Api) -> None:
    api.call("POST", "/v1/channels", 201, json={"id": "seen", "name": "Seen"})
    desk = console("viewer")
    page = desk.open("policy")
    desk.shows("no limit")
    assert page.evaluate("document.querySelector('.screen :is(form, button)')") is None
    assert desk.asks("PUT", "/v1/policy", {}) == 403
    desk.go("channels?channel=seen")
    desk.shows("as the policy says", ".card")
    assert page.evaluate("document.querySelector('.screen :is(form, button, .primary)')") is None
    assert desk.asks("DELETE", "/v1/channels/seen") == 403
    desk.fits_a_phone()
