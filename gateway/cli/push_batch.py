"""`fleetpush pushes batch`: many pushes from a file, over the public HTTP interface.

Each line that has no idempotency key gets one, of the run's key and its number: a part whose answer is lost is sent
again, and a whole command may be repeated, without that anybody gets a push twice.
"""

from __future__ import annotations

import codecs
import json
import shlex
import sys
import uuid
from collections.abc import Iterator
from typing import IO, Annotated, Any, NamedTuple

import httpx2
import typer

from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, open_input
from gateway.cli.server_client import MAX_RETRIES, ServerClient, for_terminals
from gateway.cli.terminal import Failure, abandon_output, fail, json_text, note

PART_LINES = 1_000
PART_BYTES = 4 * 1024 * 1024
"""Bytes of a request, about; the API takes 10,000 lines and 16 MiB."""
LINE_BYTES = 4 * 1024 * 1024
"""Bytes of a push, as the API has it."""
MAX_KEY_CHARACTERS = 240
"""Characters of the run's key: the API takes 255 with the line's number."""


class PushLine(NamedTuple):
    """A line of the file, and its number."""

    number: int
    content: bytes


def pushes_batch(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A push in JSON in each line; - reads it in")],
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Repeating the command with the same key and file sends nothing new"),
    ] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send many pushes: a file with one in each line, as `POST /v1/pushes` takes it.

    Prints the id of each; --json prints the answer to each line, in order. Lines that are refused are named, the others
    are sent; exit code 1 if there was one."""
    key = idempotency_key or str(uuid.uuid4())
    if not key.isascii() or not key.isprintable() or len(key) > MAX_KEY_CHARACTERS:
        fail(f"--idempotency-key: at most {MAX_KEY_CHARACTERS} printable ASCII characters", 2)
    batch = BatchProgress(key, as_json=as_json)
    with client_of(server, data_dir) as client, open_input(file) as lines:
        try:
            for part in parts_of(lines):
                batch.print_answers(part, send(client, part, key))
        except (Failure, KeyboardInterrupt, OSError) as error:
            if isinstance(error, OSError):
                abandon_output()
            raise batch.broken_off(error) from None
    note(f"{batch.accepted} accepted, {batch.refused} refused.")
    if batch.refused:
        raise typer.Exit(1)


class BatchProgress:
    """The progress of a file of pushes."""

    def __init__(self, key: str, *, as_json: bool) -> None:
        self.accepted = 0
        self.refused = 0
        self._last = 0
        self._key = key
        self._as_json = as_json

    def print_answers(self, part: list[PushLine], answers: list[dict[str, Any]]) -> None:
        """Print the answers to some lines, and count them. Raises OSError."""
        for line, answer in zip(part, answers, strict=True):
            if answer["status"] == 202:
                self.accepted += 1
            else:
                self.refused += 1
                note(f"line {line.number}: {for_terminals(str(answer['detail']))} ({answer['code']})")
            self._last = line.number
            if self._as_json or answer["status"] == 202:
                print(json_text(answer) if self._as_json else answer["push_id"])
        sys.stdout.flush()

    def broken_off(self, error: BaseException) -> Failure:
        reason = str(error) or "interrupted"
        if isinstance(error, OSError):
            reason = f"the output cannot be written: {error.strerror}"
        return Failure(
            f"{reason.rstrip('.')}. Up to line {self._last}: {self.accepted} accepted, {self.refused} refused. The "
            f"same command with --idempotency-key {shlex.quote(self._key)} sends what is left, and nothing twice",
            error.exit_code if isinstance(error, Failure) else 1,
        )


def send(client: ServerClient, part: list[PushLine], key: str) -> list[dict[str, Any]]:
    """The answer to each line. Raises Failure."""
    body = b"\n".join(with_key(line.content, f"{key}-{line.number}") for line in part)
    headers = {"Content-Type": "application/x-ndjson"}
    for attempt in range(1, MAX_RETRIES + 1):
        try:
            content = client.request("POST", "/v1/pushes/batch", content=body, headers=headers).content
            break
        except Failure as failure:
            lost = isinstance(failure.__cause__, httpx2.ReadError | httpx2.RemoteProtocolError)
            if not lost or attempt == MAX_RETRIES:
                raise
    try:
        answers: list[dict[str, Any]] = [json.loads(line) for line in content.splitlines()]
    except ValueError:
        answers = []
    if len(answers) != len(part):
        raise Failure(f"{client.url} answers, but not as Fleetpush does: is it another server?")
    return answers


def with_key(line: bytes, key: str) -> bytes:
    """A push's JSON with an idempotency key, if it has none; nothing else of its text is touched, right or wrong."""
    try:
        push = json.loads(line.decode())
    except (ValueError, RecursionError):
        return line
    if not isinstance(push, dict) or "idempotency_key" in push:
        return line
    start = line.index(b"{") + 1
    return b'%b"idempotency_key":%b%b%b' % (line[:start], json.dumps(key).encode(), b"," if push else b"", line[start:])


def parts_of(lines: IO[bytes]) -> Iterator[list[PushLine]]:
    """Divide the lines into parts that fit into one request each; empty ones are skipped. Raises Failure for a line
    that cannot be a push."""
    part: list[PushLine] = []
    size = 0
    for number, content in enumerate(iter(lambda: lines.readline(LINE_BYTES + 1), b""), 1):
        content = content.removeprefix(codecs.BOM_UTF8) if number == 1 else content
        if not content.strip():
            continue
        if len(content) > LINE_BYTES:
            raise Failure(f"line {number} has more than {LINE_BYTES} bytes: write one push in each line", 2)
        part.append(PushLine(number, content.strip()))
        size += len(content)
        if len(part) == PART_LINES or size > PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
