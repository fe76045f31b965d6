"""What is on the screen of a kiosk: it outlives the page, leaves for a reason, and is in the reader's language."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.browser import Page
from tests.client_sim.web.conftest import WATCH, Kiosk
from tests.end_to_end.harness import wait_for

CONNECTED = 'document.querySelector("#state")?.dataset.state === "connected"'
TITLES = '[...document.querySelectorAll(".banner-title")].map((title) => title.textContent)'
IN_GERMAN = 'Object.defineProperty(navigator, "languages", { get: () => ["de-AT", "de"] });'


def ended(kiosk: Kiosk, push_id: str, state: str = "dismissed") -> dict[str, Any]:
    wait_for(lambda: kiosk.api.delivery(push_id)["state"] == state, what=f"{push_id} to be {state}")
    return kiosk.api.delivery(push_id)


def reload(page: Page) -> None:
    page.evaluate("globalThis.before = true")
    page.reload()
    page.wait_for(f"globalThis.before === undefined && {CONNECTED}")


def test_a_reload_keeps_what_nobody_has_answered(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    answered, opened, waiting = (kiosk.push("play", notification={"title": title}) for title in ("one", "two", "three"))
    page.wait_for(f"{TITLES}.length === 3")
    page.click(f'.banner[data-push="{answered}"] .banner-close')
    ended(kiosk, answered)
    page.wait_for(f"{TITLES}.length === 2")
    page.click(f'.banner[data-push="{opened}"] .banner-text')
    ended(kiosk, opened, "opened")
    reload(page)
    assert page.evaluate(TITLES) == ["three", "two"]
    page.click(f'.banner[data-push="{waiting}"] [data-action="play"]')
    assert ended(kiosk, waiting, "acted")["result"]["state"] == "playing"
    page.wait_for(f"{TITLES}.length === 1")
    reload(page)
    assert page.evaluate(TITLES) == ["two"]


def test_a_page_that_dies_while_it_is_away_comes_back_with_its_screen(kiosk: Kiosk) -> None:
    """The server is not asked: the push is acknowledged, and the journal has it."""
    page = kiosk.connected()
    push_id = kiosk.push()
    ended(kiosk, push_id, "displayed")
    kiosk.relay.cut()
    page.close()
    kiosk.pages.remove(page)
    page = kiosk.open()
    page.wait_for(f"{TITLES}.length === 1")
    page.click(f'.banner[data-push="{push_id}"] .banner-text')
    page.wait_for(f"{TITLES}.length === 0")
    kiosk.relay.mend()
    ended(kiosk, push_id, "opened")


def test_what_was_recalled_does_not_come_back(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    push_id = kiosk.push()
    ended(kiosk, push_id, "displayed")
    kiosk.api.call("DELETE", f"/v1/pushes/{push_id}", 200)
    page.wait_for(f"{TITLES}.length === 0")
    reload(page)
    assert page.evaluate(TITLES) == []


def test_the_card_that_a_full_screen_drops_is_named(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    pushes = [kiosk.push(notification={"title": str(number)}) for number in range(21)]
    delivery = ended(kiosk, pushes[0])
    assert delivery["reason"] == "screen_full"
    ended(kiosk, pushes[1], "displayed")
    reload(page)
    assert page.evaluate(TITLES) == [str(number) for number in range(20, 0, -1)]


def test_the_card_that_a_newer_one_replaces_is_named(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    old = kiosk.push(collapse_key="bread")
    ended(kiosk, old, "displayed")
    kiosk.push(collapse_key="bread", notification={"title": "Last bread"})
    assert ended(kiosk, old)["reason"] == "collapse_key"
    page.wait_for(f"{TITLES}.join() === 'Last bread'")


def test_a_push_leaves_the_screen_with_its_lifetime_if_it_says_so(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    stays = kiosk.push(ttl=1, notification={"title": "stays"})
    goes = kiosk.push(ttl=3, notification={"title": "goes", "expires": "screen"})
    ended(kiosk, goes, "displayed")
    reload(page)
    assert page.evaluate(TITLES) == ["goes", "stays"], "its lifetime goes on, it does not begin again"
    assert ended(kiosk, goes)["reason"] == "ttl"
    page.wait_for(f"{TITLES}.join() === 'stays'")
    assert kiosk.api.delivery(stays)["state"] == "displayed"


UNSEEN = """
[...document.querySelectorAll(%s)].filter((element) => {
  const { left, top, right, bottom } = element.getBoundingClientRect();
  const seen = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
  return left < 0 || top < 0 || right > innerWidth || bottom > innerHeight || !element.contains(seen);
}).map((element) => element.id || element.className)
"""
"""Elements of a selector that are not whole on the screen, or lie under another one."""


@pytest.mark.parametrize(("width", "height"), [(360, 640), (900, 600), (1920, 1080)])
def test_banners_leave_the_page_to_the_person(kiosk: Kiosk, width: int, height: int) -> None:
    kiosk.permit("granted")
    page = kiosk.connected()
    page.resize(width, height)
    first = kiosk.push("next", channel="offers", notification={"body": "Out of the oven. " * 6})
    ended(kiosk, first, "displayed")
    parts = "#name, #state, #clock, .banner-title, .banner-body, .banner-close"
    page.wait_for(f"document.getAnimations().length === 0 && {UNSEEN % json.dumps(parts)}.length === 0")
    for _ in range(5):
        ended(kiosk, kiosk.push("play"), "displayed")
    page.wait_for("document.getAnimations().length === 0")
    assert page.evaluate(UNSEEN % json.dumps("#name, #state, #clock")) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    for name, state in (("#play", "Playing"), ("#next", "Playing"), ("#play", "Paused")):
        page.click(name)
        page.wait_for(f"document.querySelector('#track-state').textContent === '{state}'")
    assert page.text("#track") == "Window seat"
    page.click(f'.banner[data-push="{first}"] .banner-close')
    ended(kiosk, first)


def test_a_low_screen_scrolls_as_one(kiosk: Kiosk) -> None:
    kiosk.permit("granted")
    page = kiosk.connected()
    page.resize(640, 360)
    for _ in range(2):
        ended(kiosk, kiosk.push("play"), "displayed")
    page.click("#play")
    page.wait_for("document.querySelector('#track-state').textContent === 'Playing' && scrollY > 0")


def test_a_link_does_not_make_the_page_another_device(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    for _ in range(3):  # cards that could lie over the question
        ended(kiosk, kiosk.push("play"), "displayed")
    other = kiosk.api.enrol()
    url = f"ws://127.0.0.1:{kiosk.relay.port}/mqtt"
    link = f"location.hash = {json.dumps(urlencode({'device': other.id, 'token': other.token, 'url': url}))}"
    page.evaluate(link)
    page.wait_for('document.querySelector("#replace").open')
    assert page.evaluate("location.hash") == "", "the token has left the address bar"
    assert other.id in page.text("#replace-text")
    page.click("#replace-no")
    reload(page)
    assert page.text("#name") == kiosk.id
    page.evaluate(link)
    page.click("#replace-yes")
    page.wait_for(f'document.querySelector("#name")?.textContent === {json.dumps(other.id)} && {CONNECTED}')
    kiosk.api.wait_online(other.id)


def test_the_page_speaks_the_browser_s_language(kiosk: Kiosk) -> None:
    fragment = {"device": kiosk.id, "token": kiosk.device.token, "url": f"ws://127.0.0.1:{kiosk.relay.port}/mqtt"}
    page = kiosk.context.open(f"{kiosk.origin}/#{urlencode(fragment)}", IN_GERMAN + WATCH)
    kiosk.pages.append(page)
    page.wait_for(CONNECTED)
    assert page.text("#state-text") == "Verbunden"
    assert page.evaluate("document.documentElement.lang") == "de"
    untranslated = '[...document.querySelectorAll("[data-text]")].filter((element) => !element.textContent).length'
    assert page.evaluate(untranslated) == 0
    push_id = kiosk.push(channel="offers")
    assert "stummschalten" in page.wait_for('document.querySelector(".banner-mute")?.textContent')
    ended(kiosk, push_id, "displayed")


def test_text_from_right_to_left_is_drawn_so(kiosk: Kiosk) -> None:
    page = kiosk.connected()
    kiosk.push(notification={"title": "שלום עולם!", "body": "Fresh bread"})
    page.wait_for(f"{TITLES}.length === 1")
    style = """(({ direction, textAlign }) => `${direction} ${textAlign}`)(
        getComputedStyle(document.querySelector('.banner-%s')))"""
    assert [page.evaluate(style % part) for part in ("title", "body")] == ["rtl start", "ltr start"]


def test_a_language_of_the_operator_is_spoken_from_right_to_left(kiosk: Kiosk) -> None:
    own = {"ar": {"direction": "rtl", "connected": "متصل"}}
    answer = f"""globalThis.fetch = ((real) => (to, ...more) => to === "texts.json"
        ? Promise.resolve(new Response({json.dumps(json.dumps(own))})) : real(to, ...more))(fetch);"""
    arabic = 'Object.defineProperty(navigator, "languages", { get: () => ["ar-EG"] });'
    fragment = {"device": kiosk.id, "token": kiosk.device.token, "url": f"ws://127.0.0.1:{kiosk.relay.port}/mqtt"}
    page = kiosk.context.open(f"{kiosk.origin}/#{urlencode(fragment)}", arabic + answer + WATCH)
    kiosk.pages.append(page)
    page.wait_for(CONNECTED)
    assert page.text("#state-text") == "متصل"
    assert page.evaluate("document.documentElement.dir") == "rtl"
    assert page.text("#recent-title") == "Recently", "what is missing is said in English"
