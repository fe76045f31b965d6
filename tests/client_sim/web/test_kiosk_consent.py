"""What the page says about alerts: before the choice, after it, and how a person changes their mind."""

from __future__ import annotations

import json
from urllib.parse import urlencode

from tests.browser import Page
from tests.client_sim.web.conftest import WATCH, Kiosk
from tests.end_to_end.harness import Device, wait_for

CONNECTED = 'document.querySelector("#state")?.dataset.state === "connected"'
IN_GERMAN = 'Object.defineProperty(navigator, "languages", { get: () => ["de"] });'


def wait_consent(kiosk: Kiosk, consent: str) -> None:
    wait_for(lambda: kiosk.api.device(kiosk.id)["consent"] == consent, what=f"consent {consent}")


def wait_title(page: Page, title: str) -> None:
    """What the page says about the state of alerts; nothing for what needs no words."""
    shown = '(({ hidden, innerText }) => hidden ? "" : innerText.split("\\n")[0])(document.querySelector("#alerts"))'
    page.wait_for(f"{shown} === {title!r}")


def refuse(kiosk: Kiosk, page: Page) -> None:
    kiosk.permit("denied")
    page.click("#allow")
    page.wait_for('document.querySelector("#ask").hidden')
    wait_consent(kiosk, "denied")


def turn_off(kiosk: Kiosk, page: Page) -> None:
    """Permit notifications in the browser, and turn alerts off in the page."""
    kiosk.permit("granted")
    page.click("#allow")
    wait_consent(kiosk, "granted")
    page.evaluate("fleetpush.device.consent('denied')")
    wait_consent(kiosk, "denied")
    wait_title(page, "Alerts are off for this device")


def become(kiosk: Kiosk, page: Page, other: Device) -> None:
    """Open another device's address in the page, and confirm it."""
    link = urlencode({"device": other.id, "token": other.token, "url": f"ws://127.0.0.1:{kiosk.relay.port}/mqtt"})
    page.evaluate(f"location.hash = {json.dumps(link)}")
    page.click("#replace-yes")
    page.wait_for(f'document.querySelector("#name")?.textContent === {json.dumps(other.id)} && {CONNECTED}')


def wait_all_said(page: Page) -> None:
    """Until the server has acknowledged what the page had to say when it began.

    Before it connects it reads what was consented, and says something or not: that comes before a second reader's turn.
    """
    page.wait_for("fleetpush.device.consented().then(() => fleetpush.device.flush(15))")


def reload(page: Page) -> None:
    page.evaluate("globalThis.before = true")
    page.reload()
    page.wait_for(f"globalThis.before === undefined && {CONNECTED}")


def test_what_a_refusal_means_is_said_before_and_after_it_and_can_be_taken_back(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    assert "If you refuse, no alerts are sent to this device" in page.text("#ask-text")
    refuse(kiosk, page)
    suppressed = kiosk.push()
    assert kiosk.api.delivery(suppressed)["reason"] == "no_consent"
    wait_title(page, "Alerts are off for this device")
    reload(page)
    wait_title(page, "Alerts are off for this device")

    page.click("#alerts-change")
    wait_consent(kiosk, "granted")
    wait_title(page, "Alerts appear on this page only")
    push_id = kiosk.push()
    page.click(f'.banner[data-push="{push_id}"] .banner-text')
    wait_for(lambda: kiosk.api.delivery(push_id)["state"] == "opened", what="the alert to be opened")
    reload(page)
    wait_title(page, "Alerts appear on this page only")
    assert kiosk.api.device(kiosk.id)["consent"] == "granted", "the browser's setting is no newer answer"

    page.click("#alerts-change")
    wait_consent(kiosk, "denied")
    wait_title(page, "Alerts are off for this device")


def test_what_a_refusal_means_is_said_in_german(kiosk: Kiosk) -> None:
    fragment = {"device": kiosk.id, "token": kiosk.device.token, "url": f"ws://127.0.0.1:{kiosk.relay.port}/mqtt"}
    page = kiosk.context.open(f"{kiosk.origin}/#{urlencode(fragment)}", IN_GERMAN + WATCH)
    kiosk.pages.append(page)
    page.wait_for(CONNECTED)
    assert "Lehnen Sie ab, werden keine Meldungen an dieses Gerät gesendet" in page.text("#ask-text")
    refuse(kiosk, page)
    wait_title(page, "Meldungen sind für dieses Gerät aus")
    assert page.text("#alerts-change") == "Meldungen einschalten"


def test_what_was_answered_elsewhere_is_shown(kiosk: Kiosk) -> None:
    """On a settings screen, or to a push that asks."""
    kiosk.permit("granted")
    page = kiosk.connected()
    wait_consent(kiosk, "granted")
    wait_title(page, "")
    kiosk.api.call("PATCH", f"/v1/devices/{kiosk.id}/preferences", 200, json={"consent": "denied"})
    wait_title(page, "Alerts are off for this device")
    reload(page)
    wait_title(page, "Alerts are off for this device")
    kiosk.api.call("PATCH", f"/v1/devices/{kiosk.id}/preferences", 200, json={"consent": "granted"})
    wait_title(page, "")

    kiosk.relay.cut()
    page.evaluate("fleetpush.device.consent('denied')")
    kiosk.relay.mend()
    wait_title(page, "Alerts are off for this device")


def test_an_answer_on_a_banner_counts_at_once(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    push_id = kiosk.push(kind="in_app", notification={"title": "Still want offers?", "actions": "consent"})
    wait_for(lambda: kiosk.api.delivery(push_id)["state"] == "displayed", what="the question")
    kiosk.relay.cut()
    page.wait_for('document.querySelector("#state")?.dataset.state === "disconnected"')
    page.click(f'.banner[data-push="{push_id}"] [data-action="consent.denied"]')
    wait_title(page, "Alerts are off for this device")
    assert page.evaluate('document.querySelector("#ask").hidden')
    kiosk.relay.mend()
    wait_consent(kiosk, "denied")


def test_another_device_on_the_page_tells_its_server_the_browser_s_setting(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    refuse(kiosk, page)
    other = kiosk.api.enrol()
    become(kiosk, page, other)
    wait_for(lambda: kiosk.api.device(other.id)["consent"] == "denied", what="the other device's consent")
    wait_title(page, "Alerts are off for this device")


def test_a_device_that_returns_to_the_page_keeps_its_own_answer(kiosk: Kiosk) -> None:
    """The browser's setting is no newer answer because another device was here meanwhile."""
    page = kiosk.connected()
    turn_off(kiosk, page)
    other = kiosk.api.enrol()
    become(kiosk, page, other)
    wait_for(lambda: kiosk.api.device(other.id)["consent"] == "granted", what="the other device's consent")
    become(kiosk, page, kiosk.device)
    wait_all_said(page)
    assert kiosk.api.device(kiosk.id)["consent"] == "denied"
    wait_title(page, "Alerts are off for this device")


def test_what_an_earlier_page_has_told_for_whichever_device_is_kept_for_this_one(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    turn_off(kiosk, page)
    page.evaluate("""(() => {
        for (const key of Object.keys(localStorage)) if (key.startsWith("permission ")) localStorage.removeItem(key);
        localStorage.permission = "granted";
    })()""")
    reload(page)
    wait_all_said(page)
    assert kiosk.api.device(kiosk.id)["consent"] == "denied"
    assert page.evaluate('Object.keys(localStorage).filter((key) => key.startsWith("permission")).length') == 1
    assert page.evaluate("localStorage.permission === undefined")
    other = kiosk.api.enrol()
    become(kiosk, page, other)
    wait_for(lambda: kiosk.api.device(other.id)["consent"] == "granted", what="the other device's consent")
