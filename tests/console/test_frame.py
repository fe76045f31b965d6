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


def test_a_role_sees_what_it_may_open(console: Callable[..., Desk]) -> None:
    page = console("viewer").open()
    listed = page.evaluate("[...document.querySelectorAll('#nav a')].map((a) => a.textContent)")
    assert "Overview" in listed
    assert not {"Compose", "Keys", "Audit log"} & set(listed)
    desk = console("viewer")
    desk.open("compose")
    desk.shows("Your role does not permit this")


def test_who_is_not_signed_in_is_asked_and_comes_back(console: Callable[..., Desk]) -> None:
    desk = console(None)
    page = desk.open("fleet?where=a%20%3D%201")
    page.wait_for("location.pathname === '/console/sign-in'")
    assert page.evaluate("new URLSearchParams(location.search).get('to')") == "/console/fleet?where=a%20%3D%201"


def test_an_address_that_is_none_says_so(console: Callable[..., Desk]) -> None:
    desk = console("admin")
    desk.open("nothing/here")
    desk.shows("There is no such page")


def test_everybody_can_use_the_frame(console: Callable[..., Desk]) -> None:
    desk = console("admin")
    desk.open()
    desk.accessible()
    desk.page.resize(360, 800)
    desk.page.click("#menu")
    desk.accessible()


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
