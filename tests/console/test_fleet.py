"""The fleet: searched and filtered by its address, changed together after a number was read, and enrolled by a code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.audience.segment_language import names
from tests.browser import Page
from tests.console.conftest import EVIL, Desk
from tests.end_to_end.harness import Api

IDS = "[...document.querySelectorAll('tbody tr')].map((row) => row.dataset.key)"
EXPRESSION = "textarea[name=where]"


def made(api: Api, prefix: str, count: int, **fields: Any) -> list[str]:
    ids = [f"{prefix}-{n:02}" for n in range(count)]
    api.enrol_many(ids, **fields)
    return ids


def rows(page: Page, ids: list[str]) -> None:
    page.wait_for(f"JSON.stringify({IDS}) === {json.dumps(json.dumps(ids, separators=(',', ':')))}")


@pytest.mark.full_only
def test_a_search_is_in_the_address_and_the_address_is_a_search(console: Callable[..., Desk], api: Api) -> None:
    ids = made(api, "find", 3)
    api.call("PATCH", f"/v1/devices/{ids[1]}", 200, json={"name": "By the door"})
    desk = console("viewer")
    page = desk.open("fleet?q=find-")
    rows(page, ids)
    desk.fill("input[name=q]", "the DOOR")
    rows(page, ids[1:2])
    assert page.evaluate("new URLSearchParams(location.search).get('q')") == "the DOOR"
    desk.shows("1 device", ".count")
    desk.choose("select[name=online]", "true")
    desk.shows("No device is like that.")
    page.reload()
    desk.shows("No device is like that.")
    assert page.evaluate("document.querySelector('select[name=online]').value") == "true"
    desk.click_text("Clear")
    page.wait_for("location.search === ''")


def test_an_expression_selects_and_its_mistake_is_shown_where_it_is(console: Callable[..., Desk], api: Api) -> None:
    ids = made(api, "expr", 2, tags=["expr-tag"])
    desk = console("viewer")
    page = desk.open("fleet")
    page.click(EXPRESSION)
    page.type("'expr-tag' in tgas")
    page.press("Enter", 13)
    desk.shows("did you mean 'tags'", ".expression .error")
    shown = page.evaluate("document.querySelector('.expression .place').textContent").split("\n")
    assert (shown[0], shown[1].strip(), shown[1].index("^")) == ("'expr-tag' in tgas", "^^^^", shown[0].index("tgas"))
    assert page.evaluate(f"document.querySelector('{EXPRESSION}').getAttribute('aria-invalid')") == "true"
    desk.fill(EXPRESSION, "'expr-tag' in tags && !online")
    page.press("Enter", 13)
    rows(page, ids)
    assert page.evaluate("document.querySelector('.expression .error').textContent") == ""


@pytest.mark.full_only
def test_names_and_tags_are_completed(console: Callable[..., Desk], api: Api) -> None:
    made(api, "comp", 2, tags=["completed"])
    desk = console("viewer")
    page = desk.open("fleet")
    page.click(EXPRESSION)
    page.type("att")
    desk.shows("attributes.model == 'K2'", ".offers")
    page.press("ArrowDown", 40)
    assert page.evaluate(f"document.querySelector('{EXPRESSION}').getAttribute('aria-activedescendant')")
    page.press("Enter", 13)
    page.type(".model.st")
    desk.shows("startsWith", ".offers")
    page.press("Tab", 9)
    assert page.evaluate(f"document.querySelector('{EXPRESSION}').value") == "attributes.model.startsWith("
    desk.fill(EXPRESSION, "'compl")
    desk.shows("completed", ".offers")
    page.press("Tab", 9)
    assert page.evaluate(f"document.querySelector('{EXPRESSION}').value") == "'completed' in tags"
    page.press("Enter", 13)
    desk.shows("2 devices", ".count")


@pytest.mark.full_only
def test_pages_of_fifty_and_what_waits(console: Callable[..., Desk], api: Api) -> None:
    ids = made(api, "page", 52)
    api.push(ids[0], data=1)
    desk = console("viewer")
    page = desk.open("fleet?q=page-")
    rows(page, ids[:50])
    desk.shows("52 devices", ".count")
    assert page.evaluate("document.querySelector('tbody tr td.number').textContent") == "1"
    desk.click_text("Next page")
    rows(page, ids[50:])
    assert "cursor=" in page.evaluate("location.search")
    page.evaluate("history.back()")
    rows(page, ids[:50])


def test_tags_of_chosen_devices(console: Callable[..., Desk], api: Api) -> None:
    ids = made(api, "tagged", 3, tags=["before"])
    desk = console("operator")
    page = desk.open("fleet?q=tagged-")
    rows(page, ids)
    for device_id in ids[:2]:
        page.click(f"tr[data-key={device_id}] input[type=checkbox]")
    desk.shows("2 chosen", ".bar")
    page.click("#bulk-tag")
    desk.shows("Of 2 devices:", "dialog")
    desk.shows(ids[1], "dialog")
    desk.fill("dialog input[name=add]", "new, other")
    page.click("dialog input[name=remove]")
    page.type("before")
    desk.click_text("Change 2 devices", "dialog")
    desk.shows("2 devices are done.", "#toasts")
    assert [api.device(device_id)["tags"] for device_id in ids] == [["new", "other"]] * 2 + [["before"]]


LIST_ENDS_NOWHERE = """(() => {
  const ask = fetch;
  globalThis.fetch = async (address, options) => {
    const answer = await ask(address, options);
    if (!String(address).includes("limit=1000")) return answer;
    return new Response(JSON.stringify({ ...(await answer.json()), next_cursor: "more" }), { headers: answer.headers });
  };
})();
"""
"""As if there were more devices than can be listed."""


@pytest.mark.full_only
def test_those_that_were_counted_are_removed_and_no_others(console: Callable[..., Desk], api: Api) -> None:
    """One leaves and one comes between the question and the answer: their number is the same."""
    ids = made(api, "swap", 2)
    desk = console("operator")
    page = desk.open("fleet?where=id.startsWith(%27swap-%27)")
    desk.click_text("Choose all 2")
    page.click("#bulk-revoke")
    desk.fill("dialog input[name=typed]", "2")
    api.call("DELETE", f"/v1/devices/{ids[0]}", 204)
    api.enrol("swap-late")
    desk.click_text("Remove 2 devices", "dialog")
    desk.shows("1 device was removed.", "#toasts")
    desk.shows(ids[0], "dialog .names")
    left = api.call("GET", "/v1/devices?q=swap-", 200)["items"]
    assert [device["device_id"] for device in left] == ["swap-late"]


@pytest.mark.full_only
def test_everything_that_matches_is_removed_after_its_number_is_typed(console: Callable[..., Desk], api: Api) -> None:
    ids = made(api, "many", 53)
    desk = console("operator", script=LIST_ENDS_NOWHERE)
    page = desk.open("fleet?where=id.startsWith(%27many-%27)")
    desk.shows("53 devices", ".count")
    desk.click_text("Choose all 53")
    desk.shows("All 53 that match are chosen", ".bar")
    page.click("#bulk-revoke")
    desk.shows("53 devices are removed", "dialog")
    desk.shows("many-04", "dialog")
    desk.shows("and 48 more", "dialog")
    desk.fill("dialog input[name=typed]", "52")
    desk.click_text("Remove 53 devices", "dialog")
    desk.shows("Type 53", "dialog .error")
    desk.fill("dialog input[name=typed]", "53")
    api.enrol("many-late")
    desk.click_text("Remove 53 devices", "dialog")
    desk.shows("selects another number of devices by now", "dialog .error")
    assert api.device(ids[0])["device_id"] == ids[0]
    api.call("DELETE", "/v1/devices/many-late", 204)
    desk.click_text("Remove 53 devices", "dialog")
    desk.shows("53 devices were removed.", "#toasts")
    assert api.call("GET", "/v1/devices?q=many-", 200)["items"] == []


@pytest.mark.full_only
def test_a_push_to_what_is_chosen_goes_to_the_composer(console: Callable[..., Desk], api: Api) -> None:
    ids = made(api, "push", 2)
    desk = console("sender")
    page = desk.open("fleet?where=id.startsWith(%27push-%27)&online=false")
    rows(page, ids)
    target = "new URL(document.querySelector('a#bulk-push').href).search"
    desk.click_text("Choose all 2")
    page.wait_for("!!document.querySelector('a#bulk-push')")
    assert page.evaluate(f"new URLSearchParams({target}).get('where')") == "(id.startsWith('push-')) && !online"
    desk.click_text("Choose none")
    page.click(f"tr[data-key={ids[1]}] input")
    assert page.wait_for(f"new URLSearchParams({target}).get('device')") == ids[1]
    page.click(f"tr[data-key={ids[0]}] input")
    assert page.wait_for(f"new URLSearchParams({target}).get('where')") == f"id in ['{ids[1]}', '{ids[0]}']"
    assert page.evaluate("document.querySelector('#bulk-revoke, #bulk-tag, #enrol')") is None


@pytest.mark.full_only
def test_a_viewer_can_change_nothing(console: Callable[..., Desk], api: Api) -> None:
    ids = made(api, "look", 1)
    desk = console("viewer")
    page = desk.open("fleet?q=look-")
    rows(page, ids)
    assert page.evaluate("document.querySelector('.screen :is(.bar, #enrol, td.choice, [type=checkbox])')") is None
    for path, body in (
        ("/v1/devices/tags", {"devices": ids, "add": ["x"]}),
        ("/v1/devices/removal", {"devices": ids}),
        ("/v1/invitations", {}),
    ):
        assert desk.asks("POST", path, body) == 403


@pytest.mark.full_only
def test_a_code_is_shown_and_seen_to_be_used(console: Callable[..., Desk], api: Api) -> None:
    desk = console("operator")
    page = desk.open("fleet")
    page.click("#enrol")
    desk.fill("dialog input[name=device_id]", "by-code")
    page.click("dialog input[name=tags]")
    page.type("hall, store-7")
    desk.click_text("Make a code", "dialog")
    code = page.wait_for("document.querySelector('dialog .letters')?.textContent")
    page.wait_for("document.querySelector('dialog img.qr').naturalWidth > 0")
    answer = api.request("POST", "/v1/enrol", json={"code": code})
    assert answer.status_code == 201
    desk.shows("Enrolled: by-code", "dialog")
    assert api.device("by-code")["tags"] == ["hall", "store-7"]
    desk.click_text("by-code", "dialog")
    page.wait_for("location.pathname === '/console/devices/by-code' && !document.querySelector('dialog')")


@pytest.mark.full_only
def test_what_devices_call_themselves_is_text(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("evil-1", name=EVIL, attributes={"version": EVIL})
    desk = console("operator")
    page = desk.open("fleet?q=evil-1")
    desk.shows(EVIL, "tbody")
    assert page.evaluate("document.querySelectorAll('tbody :is(img, script)').length") == 0
    page.click("tr[data-key=evil-1] input")
    page.click("#bulk-revoke")
    page.wait_for("!!document.querySelector('dialog[open]')")
    page.evaluate(f"history.replaceState(null, '', '/console/fleet?q=' + encodeURIComponent({json.dumps(EVIL + '!')}))")
    page.reload()
    desk.shows("No device is like that.")
    assert "owned" not in page.evaluate("document.title")


@pytest.mark.full_only
def test_the_list_stays_live(console: Callable[..., Desk], api: Api) -> None:
    ids = made(api, "live", 1)
    desk = console("viewer")
    page = desk.open("fleet?q=live-")
    rows(page, ids)
    api.push(ids[0], data=1)
    desk.look_again()
    page.wait_for("document.querySelector('tbody td.number').textContent === '1'")


@pytest.mark.full_only
def test_the_completions_are_the_language() -> None:
    source = (Path(__file__).resolve().parents[2] / "gateway/console/parts/expression.js").read_text()
    listed = source.split("export const NAMES = {")[1].split("};")[0]
    found = dict(re.findall(r'^  (\w+): "(.*)",$', listed, flags=re.MULTILINE))
    assert found == {**names.FIELDS, **names.FUNCTIONS, **names.METHODS}


@pytest.mark.full_only
def test_everybody_can_use_it(console: Callable[..., Desk], api: Api) -> None:
    ids = made(api, "usable", 2, tags=["hall"])
    desk = console("operator")
    page = desk.open("fleet?q=usable-")
    rows(page, ids)
    page.click(f"tr[data-key={ids[0]}] input")
    desk.accessible()
    page.click("#bulk-tag")
    page.wait_for("!!document.querySelector('dialog[open]')")
    desk.accessible()
    page.press("Escape", 27)
    page.wait_for("!document.querySelector('dialog')")
    page.click(EXPRESSION)
    page.type("online &&")
    page.press("Enter", 13)
    page.wait_for("!document.querySelector('.place').hidden")
    desk.accessible()
    page.click("#enrol")
    desk.click_text("Make a code", "dialog")
    page.wait_for("!!document.querySelector('dialog img.qr')")
    desk.accessible()
    desk.fits_a_phone()
