"""`fleetpush attachments`: pictures and files that pushes refer to, over the public HTTP interface."""

from __future__ import annotations

import hashlib
import mimetypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group, seconds_of
from gateway.cli.server_client import ServerClient, segment
from gateway.cli.terminal import PROGRAM, Failure, fail, is_terminal, note, print_facts, print_json

attachments = command_group("Upload, fetch and remove the pictures and files that pushes refer to.")
AttachmentId = Annotated[str, typer.Argument(metavar="ID", help="As `attachments add` printed it")]


@attachments.command("add")
def attachments_add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to upload")],
    ttl: Annotated[str | None, typer.Option(help="How long it is kept, at least: 10m, 8h, 30d. Default: 7d")] = None,
    content_type: Annotated[
        str | None, typer.Option("--type", help="As image/png. Default: what the file's name says")
    ] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file once, for any number of pushes: `push --image attachment:ID`."""
    seconds = None if ttl is None else seconds_of(ttl)
    with client_of(server, data_dir) as client:
        made = upload(client, str(file), content_type, seconds)
    if as_json:
        print_json(made)
        return
    print_facts(made)
    note(f"Send it: {PROGRAM} push ID TEXT --image attachment:{made['id']} (or --attach)")


@attachments.command("fetch")
def attachments_fetch(
    attachment_id: AttachmentId,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A new file; - writes to a pipe")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists")] = False,
    server: ServerUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Fetch a file, and check that it is what was uploaded: its id is the SHA-256 of its bytes."""
    wanted = attachment_id.removeprefix("attachment:")
    if file == "-" and is_terminal():
        fail("a terminal is no place for a file's bytes: name a FILE, or write into a pipe", 2)
    if file != "-" and not force and Path(file).exists():
        fail(f"{file!r} exists: name a new file, or --force", 2)
    with client_of(server, data_dir) as client:
        pieces = client.stream(f"/v1/attachments/{segment(wanted)}", {}, {})
        if file == "-":
            sys.stdout.flush()
            size = copy(pieces, sys.stdout.buffer, wanted)
        else:
            size = save(pieces, Path(file), wanted)
    note(f"{size:,} bytes")


@attachments.command("remove")
def attachments_remove(attachment_id: AttachmentId, server: ServerUrl = None, data_dir: DataDir = None) -> None:
    """Remove a file at once, also if pushes refer to it."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/attachments/{segment(attachment_id.removeprefix('attachment:'))}")
    note(f"removed {attachment_id}")


def save(pieces: Iterable[bytes], path: Path, sha256: str) -> int:
    """Write a whole file or none; its size. What is under way is beside it, under a name of its own."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as output:
            size = copy(pieces, output, sha256)
        os.replace(partial, path)
    except OSError as error:
        raise Failure(f"{str(path)!r} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return size


def copy(pieces: Iterable[bytes], output: IO[bytes], sha256: str) -> int:
    """Copy a download to a file and check its SHA-256; the number of its bytes. Raises Failure if they are not those
    that the id is of."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        output.write(piece)
        digest.update(piece)
        size += len(piece)
    output.flush()
    if digest.hexdigest() != sha256:
        raise Failure("what came is not what was uploaded: its SHA-256 is another. Fetch it again")
    return size


def upload(client: ServerClient, file: str, content_type: str | None = None, ttl: int | None = None) -> dict[str, Any]:
    """Upload a file, and what the API answers: `id` and more."""
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        fail(f"{file!r} is no address (https://..), and no file that can be read: {error.strerror}", 2)
    kind = content_type or mimetypes.guess_type(file)[0] or "application/octet-stream"
    parameters = {} if ttl is None else {"ttl": str(ttl)}
    made: dict[str, Any] = client.call(
        "POST", "/v1/attachments", content=content, headers={"Content-Type": kind}, params=parameters
    )
    return made
