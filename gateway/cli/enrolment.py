"""`fleetpush devices enrol`: many devices from a table, over the public HTTP interface.

A line that cannot be enrolled is named and leaves the others alone. The table is read while it is enrolled, some
hundred lines at a time, and the tokens of each part are on disk before the next is asked for: whoever is interrupted
has the tokens of all that was enrolled, but for the part that was under way, whose lines are named.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import typer

from gateway.cli.credentials import dialled
from gateway.cli.options import AsJson, DataDir, ServerUrl, attribute_value, client_of, open_input, value_of
from gateway.cli.server_client import RequestRefused, ServerClient, for_terminals
from gateway.cli.terminal import PROGRAM, Failure, abandon_output, fail, json_text, note

COLUMNS = ("device_id", "name", "tags", "locale", "timezone", "token_days")
ATTRIBUTE = "attribute."
"""The prefix of an attribute's name, in the heading of its column."""
DELIMITERS = ",;\t"
"""Spreadsheets write a semicolon where the comma separates decimals."""
MAX_DEVICES = 1_000_000
"""Devices of a table: their ids are remembered, to find one that is there twice."""
PART_DEVICES = 500
PART_BYTES = 4 * 1024 * 1024
"""Bytes of a request, about; the API takes 16 MiB."""
TOKEN_COLUMNS = ("device_id", "token", "client_id", "username", "host", "port", "tls", "websocket")


class TableRow(NamedTuple):
    """A device of the table, and the line where it stands."""

    line: int
    device: dict[str, Any]


class BadTable(Exception):
    """The table as a whole cannot be read."""


class BadTableRow(NamedTuple):
    """A line of the table that is no device, and why."""

    line: int
    complaint: str


def devices_enrol(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The table (CSV in UTF-8); - reads it in")],
    tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A new file for the tokens, which only you can read. Default: printed"),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Devices that are enrolled already are no error")
    ] = False,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Enrol many devices from a table. Their tokens are shown this once.

    Its first line names the columns, in any order: device_id, name, tags (several: separated by blanks), locale,
    timezone, token_days, and attribute.NAME for attributes. An empty cell is not set; without a device_id the server
    chooses one.

    Lines that cannot be enrolled are named, the others are enrolled; exit code 1 if there was one. Tokens come as CSV,
    with --json as one JSON object in each line."""
    with client_of(server, data_dir) as client, open_table(file) as table, token_file(tokens) as output:
        enrolment = Enrolment(client, output, as_json=as_json, skip_existing=skip_existing)
        try:
            for part in parts_of(rows_of(table)):
                enrolment.enrol(part)
        except BadTable as complaint:
            raise Failure(f"{file}: {complaint}. {enrolment.summary()}") from None
    note(enrolment.summary() + (f" Their tokens are in {tokens}." if tokens is not None and enrolment.enrolled else ""))
    if enrolment.refused:
        raise typer.Exit(1)


class Enrolment:
    """The progress of the enrolment of a table."""

    def __init__(self, client: ServerClient, output: IO[str], *, as_json: bool, skip_existing: bool) -> None:
        self.enrolled = 0
        self.existing = 0
        self.refused = 0
        self._client = client
        self._output = output
        self._as_json = as_json
        self._skip_existing = skip_existing
        self._host: tuple[str, str] | None = None
        """The broker's host, as the server says it and as it is dialled."""

    def summary(self) -> str:
        skipped = f", {self.existing} were there already" if self._skip_existing else ""
        return f"{self.enrolled} enrolled{skipped}, {self.refused} not enrolled."

    def enrol(self, part: list[TableRow | BadTableRow]) -> None:
        """Enrol a part of the table. Raises Failure if the server does not answer, or its tokens cannot be kept."""
        rows = [row for row in part if isinstance(row, TableRow)]
        answers: Iterator[dict[str, Any]] = iter(self._answers(rows) if rows else ())
        made = []
        for row in part:
            if isinstance(row, BadTableRow):
                self._refuse(row.line, row.complaint)
                continue
            answer = next(answers)
            if "token" in answer:
                made.append(answer)
            elif self._skip_existing and answer["error"]["code"] == "device_exists":
                self.existing += 1
            else:
                error = answer["error"]
                named = f"{row.device['device_id']}: " if "device_id" in row.device else ""
                self._refuse(row.line, f"{named}{for_terminals(str(error['detail']))} ({error['code']})")
        try:
            self._keep(made)
        except OSError as error:
            if self._output is sys.stdout:
                abandon_output()
            raise Failure(
                f"the tokens of {_lines(rows)} cannot be written: {error.strerror}. {self.summary()} Besides, "
                f"{len(made)} of {_lines(rows)}: `{PROGRAM} devices rotate ID` gives a device a new token"
            ) from None
        self.enrolled += len(made)

    def _answers(self, rows: list[TableRow]) -> list[dict[str, Any]]:
        body = {"devices": [row.device for row in rows]}
        try:
            answer = self._client.call("POST", "/v1/devices/bulk", json=body)
        except (Failure, KeyboardInterrupt) as error:
            reason = f"{(str(error) or 'interrupted').rstrip('.')}. {self.summary()}"
            if isinstance(error, RequestRefused) and not error.retryable:
                raise Failure(f"{reason} Not {_lines(rows)} and what follows.") from None
            raise Failure(
                f"{reason} What is in {_lines(rows)} may be, without its token: go on with --skip-existing; "
                f"`{PROGRAM} devices rotate ID` gives a device a new token"
            ) from None
        found: list[dict[str, Any]] = answer["devices"]
        if len(found) != len(rows):
            raise Failure(f"{len(rows)} devices were sent, and {len(found)} answered: is it another server?")
        return found

    def _refuse(self, line: int, complaint: str) -> None:
        self.refused += 1
        note(f"line {line}: {complaint}")

    def _keep(self, made: list[dict[str, Any]]) -> None:
        """Store the tokens of enrolled devices. Raises OSError; then they may be lost."""
        if self._as_json:
            text = "".join(f"{json_text(answer)}\n" for answer in made)
        else:
            lines = io.StringIO()
            writer = csv.writer(lines, lineterminator="\n")
            if not self.enrolled and made:
                writer.writerow(TOKEN_COLUMNS)
            for answer in made:
                mqtt = answer["mqtt"]
                facts = answer | mqtt | {"host": self._dialled(mqtt["host"])}
                writer.writerow(str(facts[name]).lower() if name == "tls" else facts[name] for name in TOKEN_COLUMNS)
            text = lines.getvalue()
        self._output.write(text)
        self._output.flush()
        if self._output is not sys.stdout:
            os.fsync(self._output.fileno())

    def _dialled(self, host: str) -> str:
        if self._host is None or self._host[0] != host:
            self._host = host, dialled(self._client, host)
        return self._host[1]


def _lines(rows: list[TableRow]) -> str:
    first, last = rows[0].line, rows[-1].line
    return f"line {first}" if first == last else f"lines {first} to {last}"


def open_table(file: str) -> IO[str]:
    """A table's text; what is not UTF-8 in it is kept as surrogates, for the line to be named."""
    return io.TextIOWrapper(open_input(file), encoding="utf-8-sig", errors="surrogateescape", newline="")


@contextmanager
def token_file(path: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a new file that only its owner can read; it is removed again if nothing was written."""
    if path is None:
        yield sys.stdout
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        fail(f"{str(path)!r} exists, and may hold tokens: name a new file", 2)
    except OSError as error:
        fail(f"{str(path)!r} cannot be written: {error.strerror}", 2)
    file = open(descriptor, "w", encoding="utf-8")  # noqa: SIM115  # closed below, whatever it says
    try:
        yield file
    finally:
        empty = os.fstat(descriptor).st_size == 0
        try:
            file.close()
        except OSError:
            pass  # what could not be written has been said
        if empty:
            path.unlink(missing_ok=True)


def parts_of(rows: Iterable[TableRow | BadTableRow]) -> Iterator[list[TableRow | BadTableRow]]:
    """Divide the rows into parts that fit into one request each."""
    part: list[TableRow | BadTableRow] = []
    size = 0
    for row in rows:
        part.append(row)
        size += len(json.dumps(row.device)) if isinstance(row, TableRow) else 0
        if len(part) == PART_DEVICES or size > PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def rows_of(table: IO[str]) -> Iterator[TableRow | BadTableRow]:
    """The devices of a table, and the lines that are none. Raises BadTable."""
    first = table.readline()
    headings = [cell.strip() for cell in _cells_of([first], delimiter_of(first))]
    check_headings(headings)
    reader = csv.reader(table, delimiter=delimiter_of(first), strict=True)
    seen: dict[str, int] = {}
    number = 0
    while True:
        line = reader.line_num + 2
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadTable(f"line {line} is no CSV ({error}), and what follows it cannot be read") from None
        if not any(cell.strip() for cell in cells):
            continue
        number += 1
        if number > MAX_DEVICES:
            raise BadTable(f"it has more than {MAX_DEVICES} lines: split it")
        if len(cells) != len(headings):
            yield BadTableRow(line, f"it has {len(cells)} cells, and there are {len(headings)} columns")
            continue
        if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
            yield BadTableRow(line, "it is not UTF-8: save the table as CSV UTF-8")
            continue
        device = device_of(headings, cells)
        before = seen.setdefault(device["device_id"], line) if "device_id" in device else line
        if before != line:
            yield BadTableRow(line, f"{device['device_id']} is in line {before} already")
            continue
        yield TableRow(line, device)


def delimiter_of(heading: str) -> str:
    """Find the character that separates the columns: no heading of a column has it."""
    return max(DELIMITERS, key=heading.count)


def check_headings(headings: list[str]) -> None:
    """Check the headings of a table. Raises BadTable."""
    if not any(headings):
        raise BadTable(f"line 1 names the columns: {', '.join(COLUMNS)}, {ATTRIBUTE}NAME")
    for heading in headings:
        if heading not in COLUMNS and not (heading.startswith(ATTRIBUTE) and heading != ATTRIBUTE):
            raise BadTable(
                f"line 1 names the columns, and none is called {heading!r}; there are {', '.join(COLUMNS)}, "
                f"{ATTRIBUTE}NAME"
            )
        if headings.count(heading) > 1:
            raise BadTable(f"line 1 names the column {heading!r} twice")


def device_of(headings: list[str], cells: list[str]) -> dict[str, Any]:
    """Make a device, as the API takes it, of a row. An attribute's cell is read as `--attribute` reads its value."""
    device: dict[str, Any] = {}
    for heading, cell in zip(headings, cells, strict=True):
        value = cell.strip()
        if not value:
            continue
        if heading == "tags":
            device["tags"] = [tag for tag in re.split(r"[\s,;]+", value) if tag]
        elif heading == "token_days":
            device[heading] = value_of(value)  # the server refuses what is no number of days
        elif heading.startswith(ATTRIBUTE):
            name = heading.removeprefix(ATTRIBUTE)
            device.setdefault("attributes", {})[name] = attribute_value(name, value)
        else:
            device[heading] = value
    return device


def _cells_of(lines: list[str], delimiter: str) -> list[str]:
    try:
        return next(csv.reader(lines, delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise BadTable(f"line 1 is no CSV ({error})") from None
