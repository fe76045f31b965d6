"""Lists of the API, printed whole: page by page while they are read, as a table or as JSON.

A list ends where the API's list ends, however long it is, and holds one page in memory. With `--limit` it may end
earlier: then standard error says so, and the cursor with which it goes on, which JSON has as `next_cursor`. A list that
breaks off in the middle is no JSON document, so that no script takes a part for the whole.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

from gateway.cli.server_client import ServerClient
from gateway.cli.terminal import console, is_terminal, isolated, json_text, note
from gateway.printable import printable

Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many. Default: all")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Go on where a list with --limit ended")]
COLUMN_GAP_CHARACTERS = 2
"""Blanks between two columns, as rich draws them."""
Item = dict[str, Any]
Columns = Mapping[str, str | Callable[[Item], Any]]
"""Heading -> the field of an item, or what makes the cell of it."""


def print_list(
    client: ServerClient,
    path: str,
    columns: Columns,
    *,
    empty: str,
    as_json: bool,
    limit: int | None = None,
    cursor: str | None = None,
    **parameters: Any,
) -> int:
    """Print a list of the API up to `limit` items, and how many these are. `empty` is said of a list without any."""
    output = _JsonList() if as_json else _Table(columns)
    shown, following = 0, cursor
    for page in client.pages(path, limit, cursor, **parameters):
        output.add(page["items"])
        shown += len(page["items"])
        following = page.get("next_cursor")
    output.end(following)
    if not shown and not as_json and cursor is None:
        note(empty)
    if following is not None:
        these = "this one" if shown == 1 else f"these {shown}"
        note(f"There are more than {these}. The next ones: --cursor {shlex.quote(following)}; all: no --limit.")
    return shown


class _JsonList:
    """Prints a list as JSON, an item in each line, so that it can be read without a parser."""

    def __init__(self) -> None:
        self._separator = '{"items": ['

    def add(self, items: Iterable[Item]) -> None:
        for item in items:
            text = json_text(item, indent=2 if is_terminal() else None)
            print(self._separator + "\n" + textwrap.indent(text, "  "), end="")
            self._separator = ","

    def end(self, next_cursor: str | None) -> None:
        print(('{"items": [' if self._separator != "," else "\n") + f'], "next_cursor": {json_text(next_cursor)}}}')


class _Table:
    """Columns as wide as the first page needs, on a terminal; lines with tabs elsewhere."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._widths: list[int] | None = None

    def add(self, items: Sequence[Item]) -> None:
        rows = [[_cell(item, column) for column in self._columns.values()] for item in items]
        if rows and is_terminal():
            self._draw(rows)
        elif rows:
            headings = [[heading.upper() for heading in self._columns]] if self._widths is None else []
            self._widths = []
            for row in (*headings, *rows):
                print("\t".join(printable(cell.replace("\t", " ").replace("\n", " ")) for cell in row))

    def _draw(self, rows: list[list[str]]) -> None:
        from rich.cells import cell_len
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", show_header=self._widths is None)
        if self._widths is None:
            longest = zip(*(map(cell_len, row) for row in (list(self._columns), *rows)), strict=True)
            self._widths = [max(lengths) for lengths in longest]
        # The first column is an id, which somebody will copy: it is whole. Nothing else is cut off either, but wrapped.
        first, *others = zip(self._columns, self._widths, strict=True)
        table.add_column(first[0], min_width=first[1], no_wrap=True)
        share = (console().width - first[1]) // max(len(others), 1) - COLUMN_GAP_CHARACTERS
        for heading, width in others:
            table.add_column(heading, min_width=min(width, max(share, 1)), overflow="fold")
        for row in rows:
            table.add_row(*(Text(isolated(cell)) for cell in row))
        console().print(table)

    def end(self, next_cursor: str | None) -> None:
        """The note beside it says what there is to say."""


def _cell(item: Item, column: str | Callable[[Item], Any]) -> str:
    value = item.get(column) if isinstance(column, str) else column(item)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
