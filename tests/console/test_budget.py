"""What a first visit costs: bytes, requests, time; and that a second one asks for nothing but what has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser import Page
from tests.console.conftest import Desk
from tests.end_to_end.harness import Api

WEIGHT_BYTES = 150_000
REQUESTS = 30
VIEW_MS = 1_000
FLEET_DEVICES = 10_000
SEEN = """
new MutationObserver(() => {
  if (!globalThis.seen && document.querySelector("[data-figure=online] .value")) globalThis.seen = performance.now();
}).observe(document, { subtree: true, childList: true });
"""
"""Notes when the figures are there: milliseconds after the address was entered."""


def entries(page: Page) -> list[dict[str, Any]]:
    """Name, decoded and transferred bytes of everything that the page has fetched of the console, the page included."""
    found: list[dict[str, Any]] = page.evaluate(
        """performance.getEntries().filter((e) => ["navigation", "resource"].includes(e.entryType))
          .map(({ name, decodedBodySize, transferSize }) => ({ name, size: decodedBodySize, sent: transferSize }))"""
    )
    return [entry for entry in found if "/console/" in entry["name"]]


def test_a_first_visit_is_small(console: Callable[..., Desk]) -> None:
    page = console("admin").open()
    fetched = entries(page)
    weight = sum(entry["size"] for entry in fetched)
    assert weight < WEIGHT_BYTES, sorted((entry["size"], entry["name"]) for entry in fetched)
    assert len(fetched) < REQUESTS, [entry["name"] for entry in fetched]
    assert sum(entry["sent"] for entry in fetched) < weight / 2, "compressed"


@pytest.mark.full_only
def test_a_second_visit_asks_for_the_page_alone(console: Callable[..., Desk]) -> None:
    desk = console("admin")
    desk.open()
    page = desk.open()
    asked = [entry for entry in entries(page) if entry["sent"] > 0]
    assert len(asked) <= 1, asked


@pytest.mark.full_only
def test_a_first_view_takes_less_than_a_second_whatever_the_fleet(console: Callable[..., Desk], api: Api) -> None:
    """The middle of five browsers that have never been here."""
    api.enrol_many([f"budget-{number}" for number in range(FLEET_DEVICES)])
    took = []
    for _ in range(5):
        page = console("admin", script=SEEN).open()
        took.append(page.wait_for("globalThis.seen"))
    assert sorted(took)[2] < VIEW_MS, took
