"""The overview: figures that move by themselves, what needs attention, and the way to the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from client_sim.device import Device
from tests.console.conftest import Desk
from tests.end_to_end.harness import Api


@pytest.mark.full_only
def test_a_push_and_its_delivery_are_seen_without_a_click(
    console: Callable[..., Desk], api: Api, online: Callable[..., Device]
) -> None:
    desk = console("viewer")
    page = desk.open()
    before = int(page.text("[data-figure=online] .value span"))
    online("overview-1")
    page.wait_for(f"document.querySelector('[data-figure=online] .value span').innerText === '{before + 1}'")
    api.push("overview-1", notification={"title": "Seen at the overview"})
    desk.shows("Seen at the overview", "main table")
    desk.shows("1 of 1", "main table")
    page.wait_for("/[1-9]\\d* arrived/.test(document.querySelector('[data-figure=deliveries]').innerText)")
    tall = "document.querySelector('[data-figure=online] .bar:not(.none)').getBoundingClientRect().height"
    assert page.evaluate(tall) > 10, "its curve is drawn"
    desk.accessible()


@pytest.mark.parametrize(
    ("typed", "screen"),
    [
        ("overview-find", "/console/devices/overview-find"),
        pytest.param("shop 4", "/console/fleet?q=shop+4", marks=pytest.mark.full_only),
    ],
)
def test_a_device_is_one_field_away(console: Callable[..., Desk], api: Api, typed: str, screen: str) -> None:
    api.enrol("overview-find")
    desk = console("viewer")
    page = desk.open()
    desk.fill("main input[type=search]", typed)
    desk.click_text("Find")
    page.wait_for(f"location.pathname + location.search === '{screen}'")
