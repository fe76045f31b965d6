"""The browser as a device, in headless Chromium, against the real server: what a person does, and what is booked."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, Page
from tests.client_sim.web.conftest import WATCH, Kiosk, Served
from tests.end_to_end.harness import wait_for

BANNERS = 'document.querySelectorAll(".banner").length'


def banner(push_id: str, inside: str) -> str:
    return f'.banner[data-push="{push_id}"] {inside}'


def wait_state(kiosk: Kiosk, push_id: str, state: str) -> dict[str, Any]:
    """The delivery of a push to one device, once it is so far."""
    wait_for(lambda: kiosk.api.delivery(push_id)["state"] == state, what=f"{push_id} to be {state}")
    return kiosk.api.delivery(push_id)


def wait_consent(kiosk: Kiosk, consent: str) -> None:
    wait_for(lambda: kiosk.api.device(kiosk.id)["consent"] == consent, what=f"consent {consent}")


def test_a_click_asks_and_with_permission_a_push_notifies(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    assert page.evaluate("asked") == []
    kiosk.permit("granted")
    page.click("#allow")
    page.wait_for('document.querySelector("#ask")?.hidden')
    assert page.evaluate("asked") == [True], "once, and a person's click was the cause"
    wait_consent(kiosk, "granted")

    push_id = kiosk.push(collapse_key="bread")
    page.wait_for("notified.length === 1")
    shown = page.evaluate("(({ title, body, tag }) => ({ title, body, tag }))(notified[0])")
    assert shown == {"title": "Fresh bread", "body": "Out of the oven.", "tag": "bread"}
    assert page.text(banner(push_id, ".banner-title")) == "Fresh bread"
    wait_state(kiosk, push_id, "displayed")
    page.evaluate("notified[0].dispatchEvent(new Event('click')) && true")
    wait_state(kiosk, push_id, "opened")
    assert page.evaluate(BANNERS) == 0


def test_without_permission_only_what_belongs_inside_comes(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    kiosk.permit("denied")
    page.click("#allow")
    wait_consent(kiosk, "denied")
    alert = kiosk.push()
    assert wait_state(kiosk, alert, "suppressed")["reason"] == "no_consent"
    push_id = kiosk.push(kind="in_app")
    page.click(banner(push_id, ".banner-text"))
    wait_state(kiosk, push_id, "opened")
    assert page.evaluate("notified.length") == 0
    assert page.evaluate(BANNERS) == 0


def test_what_was_decided_elsewhere_is_told(kiosk: Kiosk) -> None:
    """In the browser's settings, or by whoever manages the machine: no click on our button."""
    kiosk.permit("granted")
    page = kiosk.connected()
    wait_consent(kiosk, "granted")
    assert page.evaluate('document.querySelector("#ask")?.hidden')
    assert page.evaluate("asked") == []


def test_an_action_is_executed_and_booked_with_its_result(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    push_id = kiosk.push("play", "pause")
    page.click(banner(push_id, '[data-action="play"]'))
    delivery = wait_state(kiosk, push_id, "acted")
    assert delivery["action"] == "play"
    assert delivery["result"] == {"state": "playing", "title": "Morning light", "audible": True}
    assert page.text("#track-state") == "Playing"
    assert page.evaluate(BANNERS) == 0


def test_a_channel_is_muted_from_its_banner(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    offer = kiosk.push(channel="offers")
    page.click(banner(offer, ".banner-mute"))
    wait_state(kiosk, offer, "dismissed")
    wait_for(lambda: kiosk.api.device(kiosk.id)["channels"] == {"offers": False}, what="the channel to be muted")
    assert kiosk.api.accept(kiosk.id, notification={"title": "Bread"}, channel="offers")["suppressed"] == 1
    page.wait_for(f"{BANNERS} === 0")
    page.evaluate("fleetpush.device.setChannels({ offers: true })")
    wait_for(lambda: kiosk.api.device(kiosk.id)["channels"] == {"offers": True}, what="the channel to be on again")
    assert page.evaluate("fleetpush.device.channels()") == {"offers": True}


def test_a_push_that_asks_is_answered_by_a_click(kiosk: Kiosk) -> None:
    kiosk.permit("granted")
    page = kiosk.connected()
    wait_consent(kiosk, "granted")
    question = {"title": "Still want offers?", "actions": "consent"}
    push_id = kiosk.push(kind="in_app", notification=question, data={"text_version": "v7"})
    page.click(banner(push_id, '[data-action="consent.denied"]'))
    assert wait_state(kiosk, push_id, "acted")["result"] == {"consent": "denied", "text_version": "v7"}
    wait_consent(kiosk, "denied")
    page.reload()
    page.wait_for('document.querySelector("#state")?.dataset.state === "connected"')
    assert kiosk.api.device(kiosk.id)["consent"] == "denied", "the browser's permission is no newer answer"


def test_a_call_is_answered_by_the_page(kiosk: Kiosk) -> None:
    kiosk.connected()
    answer = kiosk.api.call("POST", f"/v1/devices/{kiosk.id}/call", 200, json={"command": "next"})
    assert answer["result"] == {"state": "paused", "title": "Window seat"}


@pytest.mark.full_only  # a beat is looked at when the next one is sent, ten seconds later
def test_a_heartbeat_is_answered_and_shows_nothing(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    before = page.text("#recent")
    kiosk.api.call("PUT", "/v1/heartbeats/site", 200, json={"device": kiosk.id, "every_s": 10})
    path = "/v1/heartbeats/site"
    wait_for(lambda: '"answering"' in kiosk.api.request("GET", path).text, timeout=30, what="an answer")
    assert page.text("#recent") == before
    kiosk.api.call("DELETE", path, 204)


def test_what_was_missed_is_told(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    kiosk.relay.cut()
    kiosk.api.wait_online(kiosk.id, False)
    missed = kiosk.push(ttl=1)
    kiosk.api.wait_counts(missed, expired=1)
    kiosk.relay.mend()
    page.wait_for('document.querySelector("#recent")?.innerText.includes("1 expired")')
    assert "Missed while away" in page.text("#recent")


def test_a_command_is_executed_without_anybody_and_answers(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    results = [wait_state(kiosk, kiosk.command(action), "acted")["result"] for action in ("next", "nonsense")]
    assert results == [{"state": "paused", "title": "Window seat"}, {"error": "unknown command 'nonsense'"}]
    assert page.text("#track") == "Window seat"


def test_an_action_that_the_page_does_not_know_is_booked_without_a_result(kiosk: Kiosk) -> None:
    """Also one that every object of the language knows."""
    page = kiosk.connected()
    push_id = kiosk.push("constructor")
    page.click(banner(push_id, '[data-action="constructor"]'))
    delivery = wait_state(kiosk, push_id, "acted")
    assert (delivery["action"], delivery["result"]) == ("constructor", None)


def test_offline_and_back(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    first = kiosk.push()
    wait_state(kiosk, first, "displayed")
    kiosk.relay.cut()
    page.wait_for('document.querySelector("#state")?.dataset.state === "disconnected"')
    kiosk.api.wait_online(kiosk.id, False)
    page.click(banner(first, ".banner-close"))
    second = kiosk.push()
    assert kiosk.api.only(second) == {"waiting": 1}
    kiosk.relay.mend()
    wait_state(kiosk, second, "displayed")
    wait_state(kiosk, first, "dismissed")
    assert page.text(banner(second, ".banner-title")) == "Fresh bread"


def test_what_was_said_offline_survives_a_reload(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    push_ids = [kiosk.push() for _ in range(3)]
    for push_id in push_ids:
        wait_state(kiosk, push_id, "displayed")
    kiosk.relay.cut()
    page.wait_for('document.querySelector("#state")?.dataset.state === "disconnected"')
    for left, push_id in reversed(list(enumerate(push_ids))):
        page.click(banner(push_id, ".banner-close"))
        page.wait_for(f"{BANNERS} === {left}")
    page.reload()
    kiosk.relay.mend()
    for push_id in push_ids:
        wait_state(kiosk, push_id, "dismissed")


def test_a_page_that_goes_in_its_effect_does_not_repeat_it(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    push_id = kiosk.command("never")
    page.wait_for('localStorage.effects === "1"')
    assert kiosk.api.only(push_id) == {"sent": 1}, "the acknowledgement follows the effect"
    page.reload()
    assert wait_state(kiosk, push_id, "acted")["result"] == {"error": "interrupted"}
    assert page.evaluate("localStorage.effects") == "1"
    assert "interrupted" in page.text("#recent")


ALL_FINISHED = """
(async () => {
  const answer = (request) => new Promise((resolve) => { request.onsuccess = () => resolve(request.result); });
  const [{ name }] = await indexedDB.databases();
  const database = await answer(indexedDB.open(name));
  try {
    const handled = await answer(database.transaction("handled").objectStore("handled").getAll());
    return handled.length > 0 && handled.every((row) => row.finished);
  } finally {
    database.close();
  }
})()
"""
"""Whether the page's journal has every push that it began as finished."""


def test_a_page_that_goes_before_the_acknowledgement_does_not_repeat_its_effect(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    push_id = kiosk.command("when_told")
    page.wait_for("globalThis.tell !== undefined")
    kiosk.relay.cut()
    page.wait_for('document.querySelector("#state")?.dataset.state === "disconnected"')
    page.evaluate("tell()")
    page.wait_for('document.querySelector("#recent")?.innerText.includes("when_told")')
    page.wait_for(ALL_FINISHED)  # on disk: a page that goes before that is interrupted
    page.reload()
    kiosk.relay.mend()
    assert wait_state(kiosk, push_id, "acted")["result"] == {"done": True}
    kiosk.api.wait_online(kiosk.id)
    assert page.evaluate("localStorage.effects") == "1"


def test_a_slow_effect_stops_neither_receipts_nor_the_connection(kiosk: Kiosk) -> None:
    """MQTT.js reads nothing while its own message handler waits."""
    page = kiosk.connected()
    shown = kiosk.push()
    wait_state(kiosk, shown, "displayed")
    slow = kiosk.command("when_told")
    page.wait_for("globalThis.tell !== undefined")
    page.click(banner(shown, ".banner-close"))
    wait_state(kiosk, shown, "dismissed")
    page.evaluate("tell()")
    wait_state(kiosk, slow, "acted")


def test_a_second_tab_waits_until_the_first_is_closed(kiosk: Kiosk) -> None:
    first = kiosk.connected()
    since = kiosk.api.device(kiosk.id)["connected_at"]
    second = kiosk.open()
    second.wait_for('document.querySelector("#state")?.innerText === "Not this tab: another tab is connected"')
    assert kiosk.api.device(kiosk.id)["connected_at"] == since
    first.close()
    second.wait_for('document.querySelector("#state")?.dataset.state === "connected"')
    push_id = kiosk.push()
    second.click(banner(push_id, ".banner-text"))
    wait_state(kiosk, push_id, "opened")


def test_the_credential_leaves_the_address_bar(kiosk: Kiosk, served: Served) -> None:
    page = kiosk.connected()
    assert page.evaluate("location.href") == f"{served.origin}/"
    assert kiosk.device.token not in page.evaluate("document.documentElement.outerHTML")
    page.reload()
    page.wait_for('document.querySelector("#state")?.dataset.state === "connected"')


def test_the_credential_can_be_typed(browser: Browser, served: Served, kiosk: Kiosk) -> None:
    page = kiosk.context.open(f"{served.origin}/", WATCH)
    kiosk.pages.append(page)
    typed = {"url": f"ws://127.0.0.1:{kiosk.relay.port}/mqtt", "device": kiosk.id, "token": kiosk.device.token}
    for name, text in typed.items():
        page.click(f'#setup [name="{name}"]')
        page.type(text)
    page.press("Enter", 13, "\r")
    page.wait_for('document.querySelector("#state")?.dataset.state === "connected"')
    assert page.evaluate("location.href") == f"{served.origin}/"
    assert page.text("#name") == kiosk.id


def test_a_wrong_token_says_so_and_asks_for_another(kiosk: Kiosk) -> None:
    kiosk.device.token = "wrong"
    page = kiosk.open()
    page.wait_for('document.querySelector("#state")?.dataset.state === "refused"')
    assert page.text("#state") == "Refused by the server: Bad username or password"
    page.wait_for('document.querySelector("#setup")?.hidden === false')


def test_everything_is_answered_by_keyboard(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    older, newer = kiosk.push("next"), kiosk.push()
    wait_state(kiosk, newer, "displayed")
    assert page.evaluate("document.activeElement === document.body"), "a banner takes no focus away"
    page.evaluate(f"document.querySelector('{banner(newer, '.banner-text')}').focus()")
    page.press("Escape", 27)
    wait_state(kiosk, newer, "dismissed")
    assert page.evaluate("document.activeElement.closest('.banner').dataset.push") == older
    page.press("Tab", 9)
    page.press("Enter", 13, "\r")
    wait_state(kiosk, older, "acted")
    page.wait_for('document.activeElement.id === "name"')


def test_a_push_is_text_and_its_addresses_are_web_addresses(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    hostile = "<img src=x onerror=\"document.title='owned'\">"
    push_id = kiosk.push(
        notification={"title": hostile, "body": hostile, "url": "javascript:alert(1)", "image": "data:image/png,x"}
    )
    wait_state(kiosk, push_id, "displayed")
    assert page.text(banner(push_id, ".banner-title")) == hostile
    assert page.evaluate('document.querySelectorAll("img").length') == 0
    page.evaluate("window.open = (...given) => (globalThis.opened = given)")
    page.click(banner(push_id, ".banner-text"))
    wait_state(kiosk, push_id, "opened")
    assert page.evaluate("globalThis.opened") is None
    linked = kiosk.push(notification={"url": "https://shop.example/bread"})
    page.click(banner(linked, ".banner-text"))
    assert page.wait_for("globalThis.opened") == ["https://shop.example/bread", "_blank", "noopener,noreferrer"]


def test_an_action_that_asks_is_answered_in_words(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    reply = {"id": "reply", "title": "Reply", "input": "How many?"}
    push_id = kiosk.push(notification={"actions": [reply, {"id": "none", "title": "None"}]})
    page.click(banner(push_id, '[data-action="reply"]'))
    page.wait_for('document.activeElement.className === "banner-input"')
    assert page.evaluate('document.activeElement.getAttribute("aria-label")') == "How many?"
    page.press("Escape", 27)
    page.wait_for('document.activeElement.dataset.action === "reply"')
    page.press("Enter", 13, "\r")
    page.wait_for('document.activeElement.className === "banner-input"')
    page.press("Enter", 13, "\r")
    assert page.evaluate(BANNERS) == 1, "nothing is no answer"
    page.evaluate('document.activeElement.value = " three ", true')
    page.press("Enter", 13, "\r")
    delivery = wait_state(kiosk, push_id, "acted")
    assert (delivery["action"], delivery["result"]) == ("reply", "three")
    page.wait_for(f"{BANNERS} === 0")


def test_an_action_runs_the_command_that_it_names(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    page.evaluate("window.open = (...given) => (globalThis.opened = given)")
    actions = [
        {"id": "go", "title": "Listen", "command": "next", "url": "https://radio.example/"},
        {"id": "no", "title": "No", "command": "constructor"},
    ]
    chosen = kiosk.push(notification={"actions": actions})
    page.click(banner(chosen, '[data-action="go"]'))
    assert wait_state(kiosk, chosen, "acted")["result"] == {"state": "paused", "title": "Window seat"}
    assert page.evaluate("globalThis.opened")[0] == "https://radio.example/"
    unknown = kiosk.push(notification={"actions": actions})
    page.click(banner(unknown, '[data-action="no"]'))
    assert wait_state(kiosk, unknown, "acted")["result"] == {"error": "unknown command 'constructor'"}


def test_what_is_recalled_leaves_the_screen(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    first, second = kiosk.push(notification={"title": "Old"}), kiosk.push(notification={"title": "New"})
    wait_state(kiosk, second, "displayed")
    kiosk.api.call("DELETE", f"/v1/pushes/{first}", 200)
    page.wait_for(f"{BANNERS} === 1")
    assert page.text(banner(second, ".banner-title")) == "New"
    page.wait_for('document.querySelector("#recent").innerText.includes("withdrawn")')
    assert kiosk.api.delivery(first)["state"] == "displayed", "nobody has answered it"


def test_a_picture_that_the_server_keeps_is_fetched_with_the_token(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    headers = {"Content-Type": "image/png"}
    made = kiosk.api.call("POST", "/v1/attachments", 201, content=picture(3, 2), headers=headers)
    push_id = kiosk.push(notification={"image": f"attachment:{made['id']}"})
    page.wait_for(f"document.querySelector('{banner(push_id, 'img')}')?.naturalWidth === 3")


def test_the_token_goes_to_the_server_of_the_push_only_and_with_tls_nowhere_in_the_clear(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    kept = "/v1/attachments/" + "a" * 64
    asked = [
        ("ws:", "http://push.example:8080", f"http://push.example:8080{kept}"),
        ("wss:", "https://push.example", f"https://push.example{kept}"),
        ("ws:", "http://push.example:8080", f"http://push.example:9999{kept}"),
        ("ws:", "http://push.example", f"http://push.example:9999{kept}"),
        ("ws:", "http://push.example", f"http://push.example{kept}?x"),
        ("ws:", None, f"http://push.example{kept}"),
        ("wss:", "http://push.example", f"http://push.example{kept}"),
    ]
    keeps = page.evaluate(
        f"""import("./device.js").then(({{ FleetpushDevice, Push }}) => {json.dumps(asked)}.map(([scheme, from, url]) =>
          new FleetpushDevice({{ deviceId: "d", token: "t", url: `${{scheme}}//push.example/mqtt` }})
            .keeps(new Push({{ push_id: "p", fetch_from: from }}), url)))"""
    )
    assert keeps == [True, True, False, False, False, False, False]


def test_a_file_that_the_server_keeps_is_fetched_with_the_token_and_saved(kiosk: Kiosk, tmp_path: Path) -> None:
    kiosk.context.save_downloads(tmp_path)
    page = kiosk.connected()
    made = kiosk.api.call("POST", "/v1/attachments", 201, content=b"%PDF-", headers={"Content-Type": "application/pdf"})
    enclosed = {"url": f"attachment:{made['id']}", "name": "menu.pdf"}
    push_id = kiosk.push(notification={"attachment": enclosed})
    link = banner(push_id, ".banner-file")
    page.click(link)
    wait_for(lambda: (tmp_path / "menu.pdf").exists(), what="the file")
    assert (tmp_path / "menu.pdf").read_bytes() == b"%PDF-"
    assert page.text(link) == "menu.pdf"


def test_a_file_that_is_not_there_is_told(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    made = kiosk.api.call("POST", "/v1/attachments", 201, content=b"%PDF-gone", headers={"Content-Type": "x/y"})
    push_id = kiosk.push(notification={"attachment": {"url": made["url"], "name": "menu.pdf"}})
    link = banner(push_id, ".banner-file")
    wait_state(kiosk, push_id, "displayed")
    kiosk.api.call("DELETE", f"/v1/attachments/{made['id']}", 204)
    page.evaluate("(Math.random = () => 0) && null")  # it tries again, soon
    page.click(link)
    page.wait_for(f"document.querySelector('{link}').innerText === 'menu.pdf: not to be had'")
    assert page.evaluate(BANNERS) == 1, "it is there to be answered"
    kiosk.forgive(made["url"])


def test_a_file_from_elsewhere_is_a_link(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    link = "({ href, target, rel, innerText }) => [href, target, rel, innerText]"
    for enclosed, drawn in (
        ({"url": "https://shop.example/files/menu%20of%20today.pdf"}, "menu of today.pdf"),
        ({"url": "https://shop.example/", "name": "Our <b>shop</b>"}, "Our <b>shop</b>"),
        ({"url": "https://shop.example/"}, "shop.example"),
    ):
        push_id = kiosk.push(notification={"attachment": enclosed})
        wait_state(kiosk, push_id, "displayed")
        found = page.evaluate(f"({link})(document.querySelector('{banner(push_id, '.banner-file')}'))")
        assert found == [enclosed["url"], "_blank", "noopener noreferrer", drawn]


def picture(width: int, height: int) -> bytes:
    """A PNG, all black."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(width)) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_newer_push_takes_the_place_of_the_one_with_its_collapse_key(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    for price in (1, 2):
        push_id = kiosk.push(collapse_key="price", notification={"title": f"Bread: {price} €"})
        wait_state(kiosk, push_id, "displayed")
    assert page.evaluate("[...document.querySelectorAll('.banner-title')].map((e) => e.innerText)") == ["Bread: 2 €"]


def test_a_silent_push_is_for_the_pages_scripts(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    page.evaluate("addEventListener('fleetpush-data', ({ detail }) => (globalThis.brought = detail.data)) ?? true")
    push_id = kiosk.api.push(kiosk.id, data={"price": 3})
    assert page.wait_for("globalThis.brought") == {"price": 3}
    wait_state(kiosk, push_id, "delivered")
    assert page.evaluate(BANNERS) == 0


def test_what_a_hidden_page_shows_is_displayed_when_somebody_looks(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    hide(page, True)
    push_id = kiosk.push(kind="in_app")
    wait_state(kiosk, push_id, "delivered")
    hide(page, False)
    wait_state(kiosk, push_id, "displayed")


def hide(page: Page, hidden: bool) -> None:
    """A headless page is always visible: the state is said to it."""
    page.evaluate(
        f"Object.defineProperty(document, 'hidden', {{ value: {json.dumps(hidden)}, configurable: true }});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
