"""Campaigns and schedules: followed, and held in hand by whoever may, with the numbers said before."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.console.conftest import EVIL_IMAGE, Desk, imported
from tests.end_to_end.harness import Api

PATH = "location.pathname"


def campaign(api: Api, name: str, devices: int = 4, **fields: Any) -> str:
    """A campaign to devices of its own, whose first group is one of them."""
    api.enrol_many([f"{name}-{n}" for n in range(devices)], tags=[name])
    push = {"target": {"tag": name}, "notification": {"title": name}}
    body = {"name": name, "push": push, "canary": 1, "observe": "1h", **fields}
    made = api.call("POST", "/v1/campaigns", 201, json=body)
    return str(made["campaign_id"])


def state(api: Api, campaign_id: str) -> str:
    return str(api.call("GET", f"/v1/campaigns/{campaign_id}", 200)["state"])


def test_a_campaign_is_paused_resumed_and_aborted_with_its_numbers(console: Callable[..., Desk], api: Api) -> None:
    campaign_id = campaign(api, "walk")
    desk = console("sender")
    page = desk.open("campaigns?state=running")
    desk.click_text("walk", "tbody")
    page.wait_for(f"{PATH} === '/console/campaigns/{campaign_id}'")
    desk.shows("Sent to 1 of 4")
    page.click("#pause")
    desk.shows("3 devices that nothing was sent to have to wait", "dialog")
    desk.fill("dialog input[name=reason]", "lunch")
    desk.click_text("Pause", "dialog")
    desk.shows("lunch", ".note")
    assert state(api, campaign_id) == "paused"
    page.click("#resume")
    page.click("dialog input[name=next_group]")
    desk.click_text("Go on", "dialog")
    desk.shows("Sent to 4 of 4")
    page.click("#abort")
    desk.shows("4 deliveries that have not arrived are recalled. 0 devices are never sent it.", "dialog")
    desk.click_text("Abort the campaign", "dialog")
    desk.shows("Type 4", "dialog form > .error")
    desk.fill("dialog input[name=typed]", "4")
    desk.click_text("Abort the campaign", "dialog")
    desk.shows("aborted", ".head")
    page.wait_for("document.querySelector('.head button') === null")
    assert state(api, campaign_id) == "aborted"


@pytest.mark.full_only
def test_what_another_tab_has_done_is_said_and_nothing_is_done_twice(console: Callable[..., Desk], api: Api) -> None:
    campaign_id = campaign(api, "tabs")
    desk = console("sender")
    first = desk.open(f"campaigns/{campaign_id}")
    second = desk.open(f"campaigns/{campaign_id}")
    first.click("#pause")
    second.click("#pause")
    desk.click_text("Pause", "dialog", second)
    second.wait_for("!!document.querySelector('#resume')")
    desk.click_text("Pause", "dialog", first)
    desk.shows("it is paused now. Nothing was done.", "dialog form > .error", first)
    first.press("Escape", 27)
    first.wait_for("!!document.querySelector('#resume')")


@pytest.mark.full_only
def test_a_campaign_is_approved_by_somebody_else(console: Callable[..., Desk], api: Api) -> None:
    campaign_id = campaign(api, "asked", ask_approval=True)
    desk = console("sender")
    page = desk.open(f"campaigns/{campaign_id}")
    desk.shows("It goes to 4 devices, and starts when somebody with another key", ".note")
    page.click("#approve")
    desk.click_text("Approve for 4 devices", "dialog")
    desk.shows("asked is approved.", "#toasts")
    assert state(api, campaign_id) == "running"


@pytest.mark.full_only
def test_a_viewer_follows_and_has_no_hand_on_it(console: Callable[..., Desk], api: Api) -> None:
    campaign_id = campaign(api, "seen", variants=[{"id": "a"}, {"id": "b", "weight": 2}], holdout="25%")
    desk = console("viewer")
    page = desk.open(f"campaigns/{campaign_id}")
    desk.shows("Too few answers yet")
    desk.shows("Left out, to compare with")
    assert page.evaluate("document.querySelector('.screen button')") is None
    for act in ("pause", "abort", "approve", "resume"):
        assert desk.asks("POST", f"/v1/campaigns/{campaign_id}/{act}", {}) == 403
    desk.accessible()
    desk.fits_a_phone()


PLAIN_DATES = {
    "en": {
        "5 8 * * 1-5": "every Monday to Friday at 08:05 (UTC)",
        "0 16 * * 2,7": "every Tuesday and Sunday at 16:00 (UTC)",
        "0  6 24 * *": "on day 24 of every month at 06:00 (UTC)",
        "0 6 24 * 1": "again and again: cron 0 6 24 * 1 (UTC)",
        "*/5 * * * *": "again and again: cron */5 * * * * (UTC)",
    },
    "de": {"30 9 * * 0": "jeden Sonntag um 09:30 (UTC)", "0 7 * * *": "jeden Tag um 07:00 (UTC)"},
}


@pytest.mark.full_only
@pytest.mark.parametrize("language", PLAIN_DATES)
def test_plain_dates_are_said_in_words(console: Callable[..., Desk], language: str) -> None:
    """Who plans a greeting for the morning need not read cron; what is not plain is shown as it is."""
    page = console("viewer", language=language).open("schedules")
    program = f"""
        {imported("parts/plan.js")}.then(({{ timingText }}) => {{
          const inWords = (cron) => timingText({{ repeat: {{ cron, zone: 'UTC' }} }});
          return {json.dumps(list(PLAIN_DATES[language]))}.map(inWords);
        }})"""
    assert page.evaluate(program) == list(PLAIN_DATES[language].values())


@pytest.mark.full_only
def test_a_schedule_is_run_paused_and_cancelled(console: Callable[..., Desk], api: Api) -> None:
    api.enrol_many(["tea-1", "tea-2"], tags=["tea"])
    push = {
        "target": {"tag": "tea"},
        "notification": {"title": EVIL_IMAGE},
        "repeat": {"cron": "0 16 * * *", "zone": "Europe/Vienna"},
    }
    made = api.call("POST", "/v1/schedules", 202, json={"name": EVIL_IMAGE, "push": push})
    desk = console("sender")
    page = desk.open("schedules?state=active")
    desk.shows("every day at 16:00 (Europe/Vienna)")
    desk.click_text(EVIL_IMAGE, "tbody")
    page.wait_for(f"{PATH} === '/console/schedules/{made['schedule_id']}'")
    page.wait_for("document.querySelectorAll('.dates li').length === 5")
    page.click("#run")
    desk.shows("it is sent to 2 devices now", "dialog")
    desk.fill("dialog input[name=typed]", "2")
    desk.click_text("Send to 2 devices", "dialog")
    desk.shows("asked for", "tbody")
    page.click("#pause")
    desk.click_text("Pause", "dialog")
    desk.shows("paused", ".head")
    page.click("#cancel")
    desk.click_text("Also recall 2 deliveries that have not arrived", "dialog")
    desk.click_text("Cancel the schedule", "dialog")
    desk.shows("cancelled", ".head")
    assert api.mailbox("tea-1") == []
    assert page.evaluate("document.querySelector('.screen :is(img, script), .head button')") is None
    assert page.evaluate("document.title") == f"{EVIL_IMAGE} \N{EN DASH} Fleetpush"
    viewer = console("viewer")
    viewer.open("schedules")
    viewer.shows(EVIL_IMAGE, "tbody")
    assert viewer.asks("POST", f"/v1/schedules/{made['schedule_id']}/run") == 403
    viewer.accessible()
