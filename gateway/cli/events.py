"""`fleetpush events`: what happens, as it happens, over the public HTTP interface."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Annotated, Any

import typer

from gateway.cli.event_stream import Event, follow
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of
from gateway.cli.terminal import is_terminal, isolated, json_text, note


def events(
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="As delivery.acted, or 'device.*' for all that begin so; may be repeated"),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="EVENT_ID", help="What came after it; 0: all kept. Default: from now on"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many. Default: never")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Follow what happens, until Ctrl-C or SIGTERM: receipts, ends, devices that come and go, what they say.

    A stream that breaks off is asked for again and goes on where it was. --json prints one event in each line."""
    last, shown = since, 0
    with client_of(server, data_dir) as client, ended_by_signals():
        try:
            with closing(follow(client, ",".join(types) if types else None, since)) as stream:
                for event in islice(stream, limit):
                    print(json_text(event) if as_json else line_of(event), flush=True)
                    last, shown = event["id"], shown + 1
        except KeyboardInterrupt:
            pass  # how a person ends it
        finally:
            if shown:
                note(f"{shown} shown. What comes after them: --since {last}")


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM is as Ctrl-C. In the background of a script a process inherits that it ignores that, and Python leaves it
    so."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def line_of(event: Event) -> str:
    """Time, type, device and what else there is: columns on a terminal, tabs elsewhere."""
    data = dict(event["data"])
    device = str(data.pop("device_id", None) or "")
    details = " ".join(f"{name}={_word(value)}" for name, value in data.items() if value is not None)
    cells = [str(event["timestamp"]), str(event["type"]), device, details]
    if is_terminal():
        cells = [cells[0], cells[1].ljust(19), cells[2].ljust(12), cells[3]]
    return ("  " if is_terminal() else "\t").join(isolated(cell.replace("\n", " ")) for cell in cells).rstrip()


def _word(value: Any) -> str:
    """A word as it is, everything else as JSON: on one line, and its end can be told."""
    is_word = isinstance(value, str) and value != "" and value.isprintable() and " " not in value
    return str(value) if is_word else json_text(value)
