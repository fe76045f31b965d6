"""A push on its way: seen live, taken back, explained by reasons that lead to devices, and sent again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser import Page
from tests.console.conftest import EVIL, Desk, connected
from tests.end_to_end.harness import Api, Server


def step(page: Page, name: str, count: int) -> None:
    """Wait for the number of a step of the funnel."""
    page.wait_for(f"document.querySelector('.funnel [data-step={name}] .funnel-count')?.textContent === '{count}'")


@pytest.mark.full_only
def test_a_push_moves_through_its_funnel_while_one_looks(
    console: Callable[..., Desk], api: Api, server: Server
) -> None:
    enrolled = api.enrol("live-1")
    push_id = api.push({"devices": ["live-1"]}, notification={"title": "Live"})
    desk = console("sender")
    page = desk.open(f"pushes/{push_id}")
    page.evaluate("globalThis.same = true")
    step(page, "targeted", 1)
    step(page, "delivered", 0)
    with connected(server, enrolled) as device:
        device.wait_push(push_id)
        step(page, "delivered", 1)
        desk.shows("Everybody got it.", ".groups")
        for event in ("displayed", "acted"):
            device.receipt(push_id, event)
            step(page, event, 1)
    assert page.evaluate("globalThis.same")
    desk.accessible()


def test_a_recall_says_its_number_before_and_after(console: Callable[..., Desk], api: Api) -> None:
    api.enrol_many(["recall-1", "recall-2"], tags=["recalled"])
    push_id = api.push({"tag": "recalled"}, notification={"title": "Back"})
    desk = console("sender")
    page = desk.open(f"pushes/{push_id}")
    desk.click_text("Recall")
    desk.shows("2 devices have not got it, and will not.", "dialog")
    desk.shows("recall-2", "dialog")
    desk.accessible()
    desk.click_text("Recall", "dialog")
    desk.shows("Taken back from 2 devices.", "#toasts")
    assert api.only(push_id) == {"cancelled": 2}
    desk.shows("2 devices did not get it.", ".groups")
    desk.shows("it was recalled", ".groups")
    page.wait_for("!document.querySelector('.acts .danger')")


@pytest.mark.full_only
def test_reasons_lead_to_devices_and_the_address_keeps_them(console: Callable[..., Desk], api: Api) -> None:
    ids = [f"why-{n:02}" for n in range(25)]
    api.enrol_many(ids, tags=["why"])
    push_id = api.push({"tag": "why"}, notification={"title": "Why"}, ttl=0)
    desk = console("viewer")
    page = desk.open(f"pushes/{push_id}")
    desk.shows("25 devices did not get it.", ".groups")
    page.click(".reasons [data-state=expired] .reason-toggle")
    desk.shows("why-00", ".reasons")
    desk.click_text("Next page", ".reasons")
    desk.shows("why-24", ".reasons")
    assert "state=expired&reason=ttl&cursor=" in page.evaluate("location.search")
    page.reload()
    desk.shows("why-24", ".reasons")
    desk.accessible()
    assert page.evaluate("document.querySelectorAll('.acts > *').length") == 0
    desk.click_text("why-24", ".reasons")
    page.wait_for("location.pathname === '/console/devices/why-24'")


@pytest.mark.full_only
def test_it_is_sent_again_to_those_that_missed_it(console: Callable[..., Desk], api: Api, server: Server) -> None:
    enrolled = api.enrol("again-1", tags=["again"])
    api.enrol_many(["again-2", "again-3"], tags=["again"])
    with connected(server, enrolled) as device:
        actions = [{"id": "go", "title": "Go"}]
        notification = {"title": "Again", "body": "please", "actions": actions}
        push_id = api.push({"tag": "again"}, notification=notification, ttl=0, channel="offers")
        device.wait_push(push_id)
    desk = console("sender")
    page = desk.open(f"pushes/{push_id}")
    desk.click_text("Send again to the 2 that missed it")
    desk.shows("2 devices, 0 of them connected", ".reach-place")
    assert page.evaluate("document.querySelector('[name=where]').value") == f"missed('{push_id}')"
    desk.choose("select[name=life_unit]", "hour")
    page.wait_for("document.querySelector('button.send').disabled === false")
    page.click("button.send")
    desk.shows("again-3", "dialog")
    desk.click_text("Send", "dialog")
    page.wait_for(f"location.pathname.startsWith('/console/pushes/') && !location.pathname.endsWith('{push_id}')")
    repeated = page.evaluate("location.pathname.split('/').at(-1)")
    assert set(api.deliveries(repeated)) == {"again-2", "again-3"}
    shown = api.call("GET", f"/v1/pushes/{repeated}", 200)
    assert (shown["notification"], shown["channel"], shown["ttl"]) == (notification, "offers", 3600)


@pytest.mark.full_only
def test_what_a_sender_wrote_is_text_in_lists_and_pages(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("hostile-sender-1", name=EVIL)
    bad = "javascript:document.title='owned'"
    notification = {
        "title": EVIL,
        "body": EVIL,
        "url": bad,
        "image": bad,
        "attachment": {"url": bad, "name": EVIL},
        "actions": [{"id": "x", "title": EVIL, "url": bad}],
    }
    push_id = api.push("hostile-sender-1", notification=notification, collapse_key=EVIL[:64])
    rendered = api.push(
        "hostile-sender-1", notification={"title": "{{ device.name }}"}, texts={"de": {"title": "x"}}, render="liquid"
    )
    desk = console("sender")
    page = desk.open("pushes")
    desk.shows(EVIL, "tbody")
    for each in (push_id, rendered):
        desk.go(f"pushes/{each}")
        desk.shows(EVIL, "h1")
        desk.shows(EVIL, ".content .banner")
        assert page.evaluate("document.querySelectorAll('.screen :is(img, script, iframe)').length") == 0
        addresses = page.evaluate("[...document.querySelectorAll('.screen a')].map((link) => link.protocol)")
        assert set(addresses) == {"http:"}
    assert page.evaluate("document.title") != "owned"
