"""`fleetpush devices tags`: which tags the devices have, over the public HTTP interface."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of
from gateway.cli.terminal import PROGRAM


def devices_tags(
    prefix: Annotated[str | None, typer.Option(help="Only those that begin so")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All tags that any device has, by name."""
    columns: Columns = {"tag": "tag", "devices": "devices"}
    empty = f"No device has a tag. Give it some: {PROGRAM} devices change kiosk-1 --tag lobby"
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/tags", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor, prefix=prefix)
