"""A server that goes away and comes back, and one that comes back as another version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.console.conftest import Desk, seat
from tests.end_to_end.harness import Server

LOST = "document.querySelector('#connection').innerText"


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    """A server that a test may kill."""
    with Server(tmp_path / "data") as server:
        yield server


@pytest.fixture
def desk(browser: Browser, mortal: Server) -> Iterator[Desk]:
    with browser.context() as context:
        yield seat(context, mortal, "admin")


def test_a_lost_server_is_said_and_what_is_there_goes_on_when_it_is_back(mortal: Server, desk: Desk) -> None:
    page = desk.open()
    page.evaluate("globalThis.same = true")
    mortal.kill9()
    page.wait_for(f"{LOST} !== ''")
    assert "No connection" in page.evaluate(LOST)
    assert page.evaluate("!!document.querySelector('[data-figure=online] .value')"), "what is there stays"
    desk.click_text("Keys", "#nav")
    desk.shows("The server does not answer.", "main")
    page.evaluate("history.back()")
    mortal.start()
    page.wait_for(f"{LOST} === ''", timeout=40)
    desk.ready(page, "")
    page.wait_for("!!document.querySelector('[data-figure=online] .value')")
    assert page.evaluate("globalThis.same"), "no new document"


@pytest.mark.full_only
def test_a_page_of_the_version_before_begins_again_and_is_never_a_mixture(console: Callable[..., Desk]) -> None:
    """As an upgrade leaves it: the files of the page's version are gone, and `/console/` names others."""
    desk = console("admin")
    page = desk.open()
    page.evaluate("globalThis.before = true")
    page.call("Network.enable")
    page.call("Network.setBlockedURLs", urls=["*/screens/keys.js"])
    page.evaluate(
        """(() => {
          const real = fetch;
          globalThis.fetch = async (address, options) => {
            const answer = await real(address, options);
            if (address !== "/console/") return answer;
            return new Response((await answer.text()).replaceAll(/static\\/[0-9a-f]+/g, "static/0123456789abcdef"));
          };
        })()"""
    )
    desk.forgive("ERR_BLOCKED_BY_CLIENT")
    desk.click_text("Keys", "#nav")
    page.wait_for("globalThis.before === undefined && location.pathname === '/console/keys'")
    page.call("Network.setBlockedURLs", urls=[])
