"""The reference pages say what the code says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

from tests.documents import command_line
from tests.documents.markdown import blocks
from tests.documents.reference import EXAMPLE, EXAMPLE_PATH, FOLDER, pages
from tests.documents.test_blocks import documents
from tests.gateway.in_process import InProcessGateway

COOKIES = {"fleetpush_session"}
"""Names that are spelt like metrics."""

NO_COMMANDS = ("test", "bench", "broker", "compile", "deb", "ready")
"""Commands of `run.py` alone, and what `serve` prints."""


async def test_the_reference_pages_are_up_to_date(tmp_path: Path) -> None:
    """`python -m tests.documents` writes them anew."""
    gateway = await InProcessGateway.build(tmp_path, asyncio.get_running_loop())
    try:
        made = pages(gateway)
        answered = await gateway.http.get(EXAMPLE_PATH)
    finally:
        await gateway.close()
    assert answered.json() == EXAMPLE.document()
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


def test_every_metric_that_a_document_names_exists() -> None:
    known = {cells[0].strip("`") for cells in rows("metrics.md")}
    known |= {name.removesuffix("_total") for name in known}
    text = "\n".join(page.read_text() for page in documents())
    named = set(re.findall(r"\b(fleetpush_[a-z_]+[a-z])\b(?!=)", text))
    assert len(named) > 20
    assert named - known - COOKIES == set()


def commands_of(page: Path) -> Iterator[str]:
    """What a page says to type behind `fleetpush` or `run.py`, in blocks and between backticks."""
    lines = [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    lines += re.findall(r"`[^`\n]+`", page.read_text())
    return (
        found for line in lines for found in re.findall(r"(?:fleetpush|run\.py) (?!fleetpush )([a-z][^`|#;)]*)", line)
    )


def test_every_command_that_a_document_names_exists_and_has_its_options() -> None:
    known = command_line.flags()
    wrong = []
    for page in documents():
        for command in commands_of(page):
            words = command.split()
            name = next((name for name in (" ".join(words[:2]), words[0]) if name in known), None)
            used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", command))
            if name is None and words[0] not in NO_COMMANDS:
                wrong.append(f"{page.name}: {command}")
            elif name is not None and not used <= known[name]:
                wrong.append(f"{page.name}: {command}: {used - known[name]}")
    assert wrong == []


def test_every_command_is_in_the_reference() -> None:
    text = (FOLDER / "command-line.md").read_text()
    assert {"--mqtt-port", "--data-dir"} <= command_line.flags()["serve"]
    for name in ("serve", "devices enrol", "webhooks dead-letters", "tls init", "simulate"):
        assert f"# `fleetpush {name}`" in text
