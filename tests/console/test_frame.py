"""The frame around the screens: navigation, roles, addresses, languages, and a connection that is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.console.conftest import Desk


def test_the_first_screen_opens_and_links_lead_without_a_new_document(console: Callable[..., Desk]) -> None:
    desk = console("admin")
    page = desk.open()
    page.evaluate("globalThis.same = true")
    desk.click_text("Keys", "#nav")
    page.wait_for("location.pathname === '/console/keys'")
    page.wait_for("document.querySelector('#nav [aria-current]')?.textContent === 'Keys'")
    assert page.evaluate("globalThis.same")
    page.evaluate("history.back()")
    page.wait_for("document.querySelector('#nav [aria-current]')?.textContent === 'Overview'")


@pytest.mark.full_only
def test_a_role_sees_what_it_may_open(console: Callable[..., Desk]) -> None:
    page = console("viewer").open()
    listed = page.evaluate("[...document.querySelectorAll('#nav a')].map((a) => a.textContent)")
    assert "Overview" in listed
    assert not {"Compose", "Keys", "Audit log"} & set(listed)
    desk = console("viewer")
    desk.open("compose")
    desk.shows("Your role does not permit this")


@pytest.mark.full_only
def test_who_is_not_signed_in_is_asked_and_comes_back(console: Callable[..., Desk]) -> None:
    desk = console(None)
    page = desk.open("fleet?where=a%20%3D%201")
    page.wait_for("location.pathname === '/console/sign-in'")
    assert page.evaluate("new URLSearchParams(location.search).get('to')") == "/console/fleet?where=a%20%3D%201"


@pytest.mark.full_only
def test_an_address_that_is_none_says_so(console: Callable[..., Desk]) -> None:
    desk = console("admin")
    desk.open("nothing/here")
    desk.shows("There is no such page")


@pytest.mark.full_only
def test_another_language_is_spoken_everywhere_and_stays(console: Callable[..., Desk]) -> None:
    desk = console("viewer", language="fr")
    page = desk.open()
    assert page.evaluate("document.documentElement.lang") == "en", "French is not complete"
    desk.choose("select[name=language]", "de")
    page.wait_for("document.querySelector('html')?.lang === 'de' && !!document.querySelector('main h1')")
    desk.shows("Verbundene Geräte", "main")
    assert desk.open().text("h1") == "Übersicht"


@pytest.mark.full_only
def test_a_browser_that_speaks_german_is_answered_so(console: Callable[..., Desk]) -> None:
    assert console("viewer", language="de-AT").open().text("h1") == "Übersicht"


@pytest.mark.full_only
def test_colours_are_the_systems_or_as_chosen(console: Callable[..., Desk]) -> None:
    desk = console("viewer")
    page = desk.open()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = page.evaluate(ground)
    assert dark != light
    desk.choose("select[name=theme]", "light")
    assert page.evaluate(ground) == light
    desk.choose("select[name=theme]", "auto")
    assert page.evaluate(ground) == dark


@pytest.mark.full_only
def test_a_screen_looks_the_same_whatever_was_visited_before(console: Callable[..., Desk]) -> None:
    desk = console("admin")
    page = desk.open("compose")
    styles = "[...document.styleSheets].filter((one) => !one.disabled).map((one) => one.href)"
    first = page.evaluate(styles)
    for place, name in (("fleet", "Fleet"), ("compose", "Compose")):
        desk.click_text(name, "#nav")
        page.wait_for(f"!!document.querySelector('[data-screen={place}]:not([aria-busy])')")
        assert (page.evaluate(styles) == first) is (place == "compose"), place


HASTE = """
// Timers in a twentieth of their time; how many have run.
globalThis.timers = 0;
const real = setTimeout;
globalThis.setTimeout = (fn, milliseconds) => real(() => { timers += 1; fn(); }, milliseconds / 20);
Object.defineProperty(document, "hidden", { get: () => globalThis.isAway === true });
"""


@pytest.mark.full_only
def test_what_nobody_sees_asks_nothing(console: Callable[..., Desk]) -> None:
    desk = console("viewer", script=HASTE)
    page = desk.open()
    asked = "performance.getEntriesByType('resource').filter((e) => e.name.includes('/v1/stats')).length"
    page.wait_for(f"{asked} > 2")
    page.evaluate("isAway = true; before = timers")
    page.wait_for("timers > before")
    page.evaluate(f"before = {asked}")
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 10_000)).then(() => 0)")
    assert page.evaluate(f"{asked} - before") <= 1, "one may have been on its way"
    page.evaluate("isAway = false")
    desk.look_again()
    page.wait_for(f"{asked} > before + 2")


def test_without_a_mouse(console: Callable[..., Desk]) -> None:
    """The first key leads past the navigation; a screen that opens begins at its heading."""
    page = console("admin").open()
    page.press("Tab", 9)
    assert page.evaluate("document.activeElement.id") == "skip"
    page.press("Enter", 13, "\r")
    page.wait_for("document.activeElement.id === 'main'")
    page.evaluate("document.querySelector('#nav a[data-place=fleet]').focus()")
    page.press("Enter", 13, "\r")
    page.wait_for("location.pathname === '/console/fleet' && document.activeElement.tagName === 'H1'")


def test_no_other_page_shows_it_in_a_frame(console: Callable[..., Desk]) -> None:
    desk = console("admin")
    page = desk.context.open(f"{desk.origin}/healthz")
    page.wait_for("document.readyState === 'complete'")

    def is_shown(path: str) -> bool:
        return bool(
            page.evaluate(
                f"""new Promise((resolve) => {{
                    const frame = document.createElement("iframe");
                    frame.onload = () => resolve(frame.contentDocument !== null);
                    frame.src = "{path}";
                    document.body.append(frame);
                }})"""
            )
        )

    assert is_shown("/healthz"), "of the same origin: what is shown can be read"
    assert not is_shown("/console/")
    assert not is_shown("/console/sign-in")


@pytest.mark.full_only
def test_everybody_can_use_the_frame(console: Callable[..., Desk]) -> None:
    desk = console("admin")
    desk.open()
    desk.accessible()
    desk.page.resize(360, 800)
    desk.page.click("#menu")
    desk.accessible()


@pytest.mark.full_only
def test_a_fault_is_found(console: Callable[..., Desk]) -> None:
    desk = console("admin")
    desk.open()
    desk.page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    with pytest.raises(AssertionError, match="label"):
        desk.accessible()


def test_everybody_can_sign_in(console: Callable[..., Desk]) -> None:
    desk = console(None)
    desk.open("sign-in")
    desk.accessible()
