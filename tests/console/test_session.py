"""Signing in and out with a mouse, a session that ends while something is open, and what another tab does."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.browser import Page
from tests.console.conftest import Desk, imported, make_key
from tests.end_to_end.harness import Api

HERE = "location.pathname + location.search"


def give_key(desk: Desk, key: str, within: str = "", page: Page | None = None) -> None:
    desk.fill(f"{within} input[name=key]", key, page)
    (page or desk.page).click(f"{within} .sign-in button[type=submit]")


@pytest.mark.full_only
def test_a_key_opens_what_was_asked_for_and_stays_nowhere(console: Callable[..., Desk], api: Api) -> None:
    desk, key = console(None), make_key(api, "viewer")
    page = desk.open("fleet?q=shop")
    give_key(desk, "fp_wrong")
    desk.shows("This key is not valid.", ".sign-in")
    desk.accessible()
    give_key(desk, key)
    page.wait_for(f"{HERE} === '/console/fleet?q=shop'")
    desk.ready(page)
    desk.shows("Viewer", ".who")
    kept = page.evaluate(
        "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, document.documentElement.outerHTML])"
    )
    assert key not in kept
    assert page.evaluate("document.cookie") == "", "no script can read it"
    assert page.evaluate("indexedDB.databases().then((all) => all.length)") == 0


def test_who_signs_out_is_out_in_all_tabs_and_back_shows_nothing(console: Callable[..., Desk]) -> None:
    desk = console("viewer")
    first, second = desk.open(), desk.open("fleet")
    first.click("#sign-out")
    first.wait_for("location.pathname === '/console/sign-in'")
    second.wait_for("location.pathname === '/console/sign-in'")
    first.evaluate("history.back()")
    first.wait_for("location.pathname === '/console/sign-in' && !!document.querySelector('.sign-in')")
    assert not first.evaluate("document.body.innerText.includes('Devices online')")


@pytest.mark.full_only
def test_a_session_that_ends_is_renewed_above_what_is_open(console: Callable[..., Desk], api: Api) -> None:
    desk = console("viewer")
    page = desk.open()
    desk.fill("main input[type=search]", "half a na")
    page.evaluate("globalThis.same = true")
    desk.context.clear_cookies()
    desk.look_again()
    page.wait_for("!!document.querySelector('dialog .sign-in')")
    desk.accessible()
    give_key(desk, desk.key, "dialog")
    page.wait_for("!document.querySelector('dialog')")
    page.wait_for("!!document.querySelector('[data-figure=online] .value')")
    assert page.evaluate("document.querySelector('main input[type=search]').value") == "half a na"
    assert page.evaluate("globalThis.same")


@pytest.mark.full_only
def test_a_session_of_somebody_else_begins_anew(console: Callable[..., Desk], api: Api) -> None:
    desk = console("viewer")
    page = desk.open()
    page.evaluate("globalThis.same = true")
    desk.context.clear_cookies()
    desk.look_again()
    page.wait_for("!!document.querySelector('dialog .sign-in')")
    give_key(desk, make_key(api, "operator"), "dialog")
    page.wait_for("globalThis.same === undefined")
    desk.ready(page)
    desk.shows("Operator", ".who")


@pytest.mark.full_only
def test_a_revoked_key_ends_what_its_person_sees(console: Callable[..., Desk], api: Api) -> None:
    desk = console("viewer")
    page = desk.open()
    (key,) = [key for key in api.items("/v1/keys") if key["name"] == "the viewer"]
    api.call("DELETE", f"/v1/keys/{key['id']}", 204)
    desk.look_again()
    page.wait_for("!!document.querySelector('dialog .sign-in')")
    give_key(desk, desk.key, "dialog")
    desk.shows("This key is not valid.", "dialog")
    page.press("Escape", 27)
    page.wait_for("location.pathname === '/console/sign-in'")


@pytest.mark.full_only
def test_signing_in_leads_to_the_console_and_nowhere_else(console: Callable[..., Desk]) -> None:
    page = console(None).open("sign-in")
    for to in (
        "https://elsewhere.example/console/",
        "//elsewhere.example/console/",
        "/\\elsewhere.example/console/",
        "javascript:alert(1)",
        "/console/../docs",
        "/docs",
        "/console/sign-in",
        "http://[",
    ):
        target = f"{imported('sign-in.js')}.then(({{ safeTarget }}) => safeTarget({json.dumps(to)}))"
        assert page.evaluate(target) == "/console/", to
