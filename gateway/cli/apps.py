"""`fleetpush apps`: the tenants, over the public HTTP interface."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group
from gateway.cli.terminal import PROGRAM, note, print_facts, print_json

apps = command_group("Make and list apps, each with devices, pushes and keys of its own.")


@apps.command("add")
def apps_add(
    app_id: Annotated[str, typer.Argument(metavar="ID", help="Small letters, digits and -, at most 32")],
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make an app; with an admin key of the app `default`."""
    with client_of(server, data_dir) as client:
        made = client.call("POST", "/v1/apps", json={"id": app_id})
    if as_json:
        print_json(made)
        return
    print_facts(made)
    note(f"Make its first key: {PROGRAM} keys add NAME --app {app_id} --scope admin")


@apps.command("list")
def apps_list(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All apps, by id; with a key of another app than `default`, that one."""
    columns: Columns = {"app": "id", "created": "created_at"}
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/apps", columns, empty="No apps.", as_json=as_json, limit=limit, cursor=cursor)
