"""Output of the command line: tables, counts, notifications as a person sees them, failures with their remedy.

On a terminal it draws; into a pipe it prints plain lines without colour, boxes or cursor movement. What a script would
read goes to standard output; what a person should know besides goes to standard error.

What others wrote (a device its errors, a sender its texts) is printed by way of this module, whose functions all take
out what a terminal would obey (`gateway.printable`). Text from right to left is isolated on a terminal, so that it does
not turn the frame or the column beside it around.

rich is loaded where something is drawn: most commands draw nothing, and `serve` least of all.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from gateway.printable import UNPRINTABLE_BUT_LINES, printable
from gateway.program import PROGRAM as PROGRAM  # for the commands, which say everything by way of this module

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

ENDED_UNDELIVERED = ("expired", "superseded", "cancelled", "suppressed", "overflowed", "refused", "revoked")
RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
"""Hebrew, Arabic and the other blocks that Unicode reserves for such scripts (UAX 9, table 4)."""
CARD_COLUMNS = 60
BORDERS = {"critical": "bold red", "high": "yellow", "normal": "cyan", "low": "dim"}


class Failure(Exception):
    """The command cannot do what was asked; the message names the remedy."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def console() -> Console:
    """Standard output as it is now (tests and pipes replace it). Looks up no markup in what others wrote."""
    from rich.console import Console

    return Console(markup=False, highlight=False, soft_wrap=not is_terminal())


def is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # None: it is closed


def note(text: str) -> None:
    """Print a line for the person, beside the output."""
    print(printable(text), file=sys.stderr)


def print_line(text: str) -> None:
    """A line of the output."""
    print(printable(text), flush=True)


def abandon_output() -> None:
    """Standard output cannot be written: what is left of it goes nowhere, or Python would fail with it at its end."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def fail(message: str, code: int = 1) -> NoReturn:
    note(f"fleetpush: {message}")
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    print(json_text(value, indent=2 if is_terminal() else None), flush=True)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON says the same of a character and its escape: those that a terminal would obey are escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return UNPRINTABLE_BUT_LINES.sub(lambda found: json.dumps(found[0])[1:-1], text)


def isolated(text: str) -> str:
    """Printable, and on a terminal text from right to left between U+2068 and U+2069, which have no width."""
    text = printable(text)
    return f"\u2068{text}\u2069" if RIGHT_TO_LEFT.search(text) and is_terminal() else text


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str, *, aligned: bool = False) -> None:
    """A drawn table on a terminal (or where a person will read it anyway), tab-separated with a heading elsewhere."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        note(empty)
    elif aligned or is_terminal():
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, header_style="bold", box=None, pad_edge=False)
        for row in cells:
            table.add_row(*(Text(isolated(cell)) for cell in row))
        console().print(table)
    else:
        for row in [[column.upper() for column in columns], *cells]:
            print("\t".join(printable(cell.replace("\t", " ").replace("\n", " ")) for cell in row))


def print_facts(facts: Mapping[str, Any]) -> None:
    """One `name: value` line each; what is not set is left out."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        if value not in (None, "", [], {}):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            print(f"{name.ljust(width)}  {isolated(text)}")


def print_facts_and_hints(facts: Mapping[str, Any]) -> None:
    """Print facts, and say what is probably a mistake (`hints`), if the API has found anything."""
    print_facts({name: value for name, value in facts.items() if name != "hints"})
    for hint in facts.get("hints") or ():
        note(hint)


def print_answer(answer: Mapping[str, Any], as_json: bool) -> None:
    """Print all that the API answers of one thing."""
    print_json(answer) if as_json else print_facts(answer)


def describe_counts(counts: Mapping[str, int]) -> str:
    """Format the counts of a push: `3 targeted: 2 delivered, 1 waiting`."""
    states = [f"{number} {state}" for state, number in counts.items() if number and state != "targeted"]
    return f"{counts['targeted']} targeted: {', '.join(states) or 'none'}"


def describe_devices(target: Mapping[str, Any]) -> str:
    """Format a target: `tag:guards`, `kiosk-1,kiosk-2`, `all`, or its name and value."""
    if not target.keys() & {"device", "devices", "tag"}:
        return ", ".join(name if value is True else f"{name}:{value}" for name, value in target.items())
    return f"tag:{target['tag']}" if "tag" in target else ",".join(target.get("devices") or [target["device"]])


def ended_undelivered(counts: Mapping[str, int]) -> int:
    return sum(counts[state] for state in ENDED_UNDELIVERED)


def draw_notification(heading: str, message: Mapping[str, Any]) -> None:
    """A push as a person sees it: a card on a terminal, the same lines without the frame elsewhere."""
    from rich.text import Text

    found = message.get("notification")
    notification: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    lines: list[Text] = []
    if title := notification.get("title"):
        lines.append(Text(printable(str(title)), style="bold"))
    if body := notification.get("body"):
        lines.append(Text(printable(str(body))))
    more = [(name, notification.get(name)) for name in ("image", "url", "sound")]
    if isinstance(enclosed := notification.get("attachment"), Mapping):
        more.append((str(enclosed.get("name") or "attachment"), enclosed.get("url")))
    lines.extend(Text(f"{name}: {printable(str(value))}", style="dim") for name, value in more if value)
    if "data" in message and message.get("kind") not in ("alert", "in_app"):
        lines.append(Text(printable(json.dumps(message["data"], ensure_ascii=False)), style="dim"))
    if choices := action_choices(message):
        buttons = Text()
        for key, (_, label) in choices.items():
            buttons.append(f" [{key}] {isolated(label)} ", style="reverse")
            buttons.append("  ")
        lines.append(buttons)
    if is_terminal():
        from rich.console import Group
        from rich.panel import Panel

        content: RenderableType = Group(*(row for line in lines for row in isolated_rows(line)))
        style = BORDERS.get(str(message.get("priority")), "cyan")
        panel = Panel(
            content, title=Text(isolated(heading)), title_align="left", border_style=style, width=CARD_COLUMNS
        )
        console().print(panel)
    else:
        print(f"-- {printable(heading)}")
        for line in lines:
            print(f"   {line.plain.rstrip()}")
        sys.stdout.flush()


def isolated_rows(line: Text) -> list[Text]:
    """The rows that a line takes on a card, each isolated: what begins on one row cannot end on another."""
    if not RIGHT_TO_LEFT.search(line.plain) or "\u2068" in line.plain:
        return [line]
    rows = list(line.wrap(console(), CARD_COLUMNS - len("│  │")))
    for row in rows:
        row.plain = isolated(row.plain)
    return rows


def action_choices(message: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Key to press -> (action id, label), in the order of the push."""
    found = message.get("notification")
    actions = found.get("actions") if isinstance(found, Mapping) else None
    if not isinstance(actions, list):
        return {}
    named = [action for action in actions if isinstance(action, Mapping) and "id" in action]
    return {
        str(number): (str(action["id"]), str(action.get("title", action["id"])))
        for number, action in enumerate(named[:9], start=1)
    }
