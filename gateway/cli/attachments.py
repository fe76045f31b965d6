"""`fleetpush attachments`: pictures and files that pushes refer to, over the public HTTP interface."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group, seconds_of
from gateway.cli.server_client import ServerClient, segment
from gateway.cli.terminal import PROGRAM, fail, note, print_facts, print_json

attachments = command_group("Upload and remove the pictures and files that pushes refer to.")


@attachments.command("add")
def attachments_add(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
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


@attachments.command("remove")
def attachments_remove(
    attachment_id: Annotated[str, typer.Argument(metavar="ID", help="As `attachments add` printed it")],
    server: ServerUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Remove a file at once, also if pushes refer to it."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/attachments/{segment(attachment_id.removeprefix('attachment:'))}")
    note(f"removed {attachment_id}")


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
