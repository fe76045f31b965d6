"""Every shell block of the documents works as it is pasted, page by page.

Fenced as `sh`, it is pasted; as `sh endless`, it is pasted and still runs after two seconds; as `sh excerpt`, it is not
(it needs another machine, or minutes); as `sh nodes`, `test_many_machines` pastes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.documents.markdown import Block, blocks
from tests.documents.shell_world import ShellWorld
from tests.empty_ledger import make_data_directory

ROOT = Path(__file__).resolve().parents[2]
MARKS: Final = {"", "endless", "excerpt", "nodes"}
ELSEWHERE: Final = {"excerpt", "nodes"}
"""Marks of blocks that are not pasted here."""
SERVED: Final = """\
fleetpush serve
API=http://127.0.0.1:8080/v1
AUTH="Authorization: Bearer $(cat fleetpush-data/admin.key)"
fleetpush devices add kiosk-1 > /dev/null
"""
"""What pages take for granted that do not begin with `serve` themselves: the quickstart."""
ALONE: Final = ("README.md", "docs/quickstart.md", "docs/operate/tls.md")
LISTENING: Final = {"README.md": "Hello", "docs/quickstart.md": "Hello"}
"""What the terminal shows in which `listen` runs."""
PRINTED: Final = {
    "docs/quickstart.md": '"delivered":1',
    "docs/device-contract.md": '"title":"Fresh bread"',
    "docs/device-python.md": '"playing"',
    "docs/operate/backup.md": '"Drill"',
    "docs/signed-commands.md": "refused: nobody has signed it",
}
"""What the shell shows: that it did more than end with 0."""


def shell_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "sh"]


def pages() -> list[str]:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(
        str(page.relative_to(ROOT))
        for page in found
        if any(block.mark not in ELSEWHERE for block in shell_blocks(page))
    )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ShellWorld]:
    world = ShellWorld(tmp_path)
    yield world
    world.close()


@pytest.mark.parametrize("page", pages())
def test_the_shell_blocks_of_a_page_work(page: str, world: ShellWorld, tmp_path: Path) -> None:
    pasted = [block for block in shell_blocks(ROOT / page) if block.mark not in ELSEWHERE]
    if page not in ALONE:
        make_data_directory(tmp_path / "fleetpush-data")
    said = world.run(pasted, "" if page in ALONE else SERVED)
    assert PRINTED.get(page, "") in said
    world.wait_output(LISTENING.get(page, ""))


def test_every_shell_block_says_how_it_is_tested() -> None:
    every = [block for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] for block in blocks(page)]
    assert [block.place for block in every if block.language in ("bash", "shell", "console")] == []
    assert [block.place for block in every if block.language == "sh" and block.mark not in MARKS] == []


def test_a_command_that_does_not_work_is_found(world: ShellWorld, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```sh\nfleetpush devices show nobody\n```\n")
    with pytest.raises(AssertionError, match=r"--- page\.md:3\n(?s:.*)exit code 1"):
        world.run(shell_blocks(page), SERVED)
