"""The reference pages say what the code says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.documents import command_line
from tests.documents.reference import FOLDER, pages
from tests.gateway.api.house import House


async def test_the_reference_pages_are_up_to_date(tmp_path: Path) -> None:
    """`python -m tests.documents` writes them anew."""
    house = await House.build(tmp_path, asyncio.get_running_loop())
    try:
        made = pages(house)
    finally:
        await house.close()
    assert {path.name for path in FOLDER.iterdir()} == set(made)
    assert [name for name, text in made.items() if (FOLDER / name).read_text() != text] == []


def rows(page: str) -> list[list[str]]:
    """The cells of each line of the tables of a reference page."""
    lines = (FOLDER / page).read_text().splitlines()
    cells = (re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if re.match(r"\| (`|[0-9])", line))
    return [[cell.strip() for cell in line] for line in cells]


def test_every_option_setting_error_and_metric_has_a_text() -> None:
    """Fields, parameters and operations of the HTTP API: `test_nothing_is_without_a_text`."""
    for page in ("command-line.md", "settings.md", "errors.md", "metrics.md"):
        found = rows(page)
        assert len(found) > 30
        meaning = -2 if page == "errors.md" else -1
        without = [cells[0] for cells in found if len(re.sub(r"\[.*?\]", "", cells[meaning]).strip()) < 8]
        assert without == [], page


def test_every_command_is_in_the_reference() -> None:
    text = (FOLDER / "command-line.md").read_text()
    assert {"--mqtt-port", "--data-dir"} <= command_line.flags("serve")
    for name in ("serve", "devices enrol", "webhooks dead-letters", "tls init", "simulate"):
        assert f"# `fleetpush {name}`" in text
