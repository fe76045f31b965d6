"""What the tests need of Markdown: tables, headings and their anchors, links, fenced blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FENCE: Final = re.compile(r"^( *)```(.*)$")
_HEADING: Final = re.compile(r"^#{1,6} +(.+?)\s*$")
_LINK: Final = re.compile(
    r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)|<img[^>]*src=\"([^\"]+)\"|!\[[^\]]*\]\(([^()\s]+)\)"
)
_CODE: Final = re.compile(r"`[^`]*`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page. `language` and `mark` are the first and the second word behind the fence."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar or a line break in a cell does not end it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |".replace("|  |", "| |") for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    inside: tuple[int, str, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if inside is None:
            if fence:
                language, _, mark = fence[2].strip().partition(" ")
                inside, lines = (number, fence[1], language, mark.strip()), []
        elif fence and not fence[2]:
            yield Block(page, inside[0], inside[2], inside[3], "".join(f"{text}\n" for text in lines))
            inside = None
        else:
            lines.append(line.removeprefix(inside[1]))
    assert inside is None, f"{page}:{inside}: the block does not end"


def prose(page: Path) -> list[str]:
    """The lines of a page that are in no fenced block; the others are empty, so that numbers stay."""
    found, inside = [], False
    for line in page.read_text().splitlines():
        fence = _FENCE.match(line) is not None
        inside ^= fence
        found.append("" if inside or fence else line)
    return found


def anchors(page: Path) -> set[str]:
    """What a link to a heading of this page may name, made as GitHub makes it."""
    found: set[str] = set()
    for line in prose(page):
        if heading := _HEADING.match(line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            number = 1
            while anchor in found:
                anchor = f"{anchor.rsplit('-', 1)[0] if number > 1 else anchor}-{number}"
                number += 1
            found.add(anchor)
    return found


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Line and address of each link and picture."""
    for number, line in enumerate(prose(page), 1):
        for match in _LINK.finditer(_CODE.sub(lambda found: "`" * len(found[0]), line)):
            yield number, next(group for group in match.groups() if group)
