"""Webhooks: made with a secret that is shown once, tested, disabled, and what was given up sent again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.console.conftest import EVIL_SCRIPT, Desk
from tests.end_to_end.harness import Api, Server, wait_for
from tests.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def give_up(server: Server, webhook_id: str, count: int) -> None:
    """Dead letters, as a day of refusals would leave them."""
    with closing(sqlite3.connect(server.data_dir / "fleetpush.db", timeout=10)) as ledger, ledger:
        (number,) = ledger.execute("SELECT no FROM webhook WHERE id = ?", (webhook_id,)).fetchone()
        for n in range(count):
            event = {
                "id": f"e{n}",
                "type": "device.uplink",
                "timestamp": "2026-11-01T00:00:00.000Z",
                "data": {"text": EVIL_SCRIPT},
            }
            row = (number, json.dumps([event]), 30, f"answered 500: {EVIL_SCRIPT}", 0)
            ledger.execute(
                "INSERT INTO dead_letter (webhook_no, events, attempts, error, at) VALUES (?, ?, ?, ?, ?)", row
            )


def test_a_webhook_is_made_and_its_secret_shown_once(
    console: Callable[..., Desk], api: Api, receiver: Receiver
) -> None:
    desk = console("admin")
    page = desk.open("webhooks?new=1")
    desk.fill("input[name=url]", receiver.url)
    desk.fill("textarea[name=types]", "delivery.nothing")
    desk.click_text("Make the webhook")
    page.wait_for("document.querySelector('form.card > .error').textContent !== ''")
    desk.fill("textarea[name=types]", "delivery.*")
    desk.click_text("Make the webhook")
    first = page.wait_for("document.querySelector('dialog .once')?.textContent")
    desk.accessible()
    desk.click_text("I have kept it", "dialog")
    page.wait_for("location.pathname.startsWith('/console/webhooks/wh_')")
    page.wait_for("!!document.querySelector('#test')")
    assert first not in page.evaluate("document.documentElement.outerHTML")
    page.click("#test")
    desk.shows("The receiver took the test: 200", ".tested")
    assert receiver.taken[-1].is_signed_with(first)
    page.click("#rotate")
    desk.click_text("Make a new secret", "dialog")
    second = page.wait_for("document.querySelector('dialog .once')?.textContent")
    assert first != second
    desk.click_text("I have kept it", "dialog")
    receiver.answer = lambda request: (500, {})
    page.click("#test")
    desk.shows("The receiver did not take the test: answered 500", ".tested")
    page.click("#toggle")
    desk.click_text("Disable", "dialog")
    desk.shows("by its operator", ".note")
    page.click("#toggle")
    desk.shows("enabled", ".head")


@pytest.mark.full_only
def test_dead_letters_are_sent_again_with_their_number(
    console: Callable[..., Desk], api: Api, server: Server, receiver: Receiver
) -> None:
    made = api.call("POST", "/v1/webhooks", 201, json={"url": receiver.url, "types": ["webhook.disabled"]})
    give_up(server, made["id"], 3)
    desk = console("admin")
    page = desk.open(f"webhooks/{made['id']}")
    desk.shows("3 dead letters")
    desk.shows(EVIL_SCRIPT, "tbody")
    assert page.evaluate("document.querySelector('.screen :is(script, img)')") is None
    page.click("tbody tr:first-child input[type=checkbox]")
    page.click("#replay-chosen")
    desk.shows("1 dead letter is sent to", "dialog")
    desk.click_text("Send 1 again", "dialog")
    desk.shows("2 dead letters")
    page.click("#replay-all")
    desk.shows("2 dead letters are sent to", "dialog")
    desk.shows("1 event: device.uplink", "dialog .names")
    desk.click_text("Send 2 again", "dialog")
    wait_for(lambda: len(receiver.events()) == 3)
    page.wait_for("document.querySelector('.screen').innerText.includes('Nothing was given up.')")
    page.click("#remove")
    desk.shows("its 0 dead letters are lost", "dialog")
    desk.click_text("Remove the webhook", "dialog")
    page.wait_for("location.pathname === '/console/webhooks'")
    api.call("GET", f"/v1/webhooks/{made['id']}", 404)


@pytest.mark.full_only
def test_a_viewer_sees_whether_events_arrive(console: Callable[..., Desk], api: Api, server: Server) -> None:
    body = {"url": "https://hooks.example/a", "enabled": False, "description": EVIL_SCRIPT}
    made = api.call("POST", "/v1/webhooks", 201, json=body)
    give_up(server, made["id"], 1)
    desk = console("viewer")
    page = desk.open("webhooks")
    desk.shows(EVIL_SCRIPT, "tbody")
    desk.click_text("https://hooks.example/a")
    desk.shows("1 dead letter")
    assert page.evaluate("document.querySelector('.screen :is(form, button, input, script)')") is None
    for method, what in (("POST", "/test"), ("POST", "/secret"), ("POST", "/dead-letters/replay"), ("DELETE", "")):
        assert desk.asks(method, f"/v1/webhooks/{made['id']}{what}") == 403
    desk.accessible()
    desk.fits_a_phone()
