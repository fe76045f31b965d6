"""What a first visit costs: bytes, requests, time; and that a second one asks for nothing but what has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.browser import Page
from tests.console.conftest import Desk

WEIGHT_BYTES = 150_000
REQUESTS = 30
VIEW_MS = 1_000
"""With room for a busy machine: see docs/console.md for what it takes."""


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


def test_a_second_visit_asks_for_the_page_alone(console: Callable[..., Desk]) -> None:
    desk = console("admin")
    desk.open()
    page = desk.open()
    asked = [entry for entry in entries(page) if entry["sent"] > 0]
    assert len(asked) <= 1, asked
