"""`fleetpush pushes batch`: many pushes from a file, over the public HTTP interface.

Each line that has no idempotency key gets one, of the run's key and its number: a part whose answer is lost is sent
again, and a whole command may be repeated, without that anybody gets a push twice.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
import uuid
from contextlib import ExitStack
from typing import Annotated, Any

import httpx2
import typer

from gateway.cli.batch_signing import new_run_key, run_of, signed_lines
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, open_input
from gateway.cli.push_lines import PushLine, parts_of, with_key
from gateway.cli.server_client import MAX_RETRIES, ServerClient, for_terminals
from gateway.cli.signing import AppOption, SignWith
from gateway.cli.terminal import Failure, abandon_output, fail, json_text, note

MAX_KEY_CHARACTERS = 240
"""Characters of the run's key: the API takes 255 with the line's number."""


def pushes_batch(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A push in JSON in each line; - reads it in")],
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Repeating the command with the same key and file sends nothing new"),
    ] = None,
    sign: SignWith = None,
    app: AppOption = "default",
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send many pushes: a file with one in each line, as `POST /v1/pushes` takes it.

    Prints the id of each; --json prints the answer to each line, in order. Lines that are refused are named, the others
    are sent; exit code 1 if there was one. With --sign each has to be a command, or data, for one device: if one cannot
    be signed, nothing is sent."""
    key = idempotency_key or (str(uuid.uuid4()) if sign is None else new_run_key(time.time() * 1000))
    if not key.isascii() or not key.isprintable() or len(key) > MAX_KEY_CHARACTERS:
        fail(f"--idempotency-key: at most {MAX_KEY_CHARACTERS} printable ASCII characters", 2)
    batch = BatchProgress(key, as_json=as_json)
    run = None if sign is None else run_of(key)
    with ExitStack() as stack:
        client = stack.enter_context(client_of(server, data_dir))
        lines = stack.enter_context(open_input(file))
        if sign is not None and run is not None:
            lines = stack.enter_context(signed_lines(lines, sign, app, run))
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
