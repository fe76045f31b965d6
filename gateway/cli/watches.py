"""`fleetpush watches`: senders that send at least every so often, over the public HTTP interface."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group, seconds_of
from gateway.cli.server_client import segment
from gateway.cli.terminal import PROGRAM, note, print_answer

watches = command_group("Set, list, show, remove watches: who should have sent something, and has not.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, as the sender has it")]


@watches.command("set")
def watches_set(
    name: Name,
    every: Annotated[str, typer.Option(help="It sends at least so often: seconds, or 10m, 8h, 1d; 60 s to 31 d")],
    channel: Annotated[str | None, typer.Option(help="On this channel. Default: on any")] = None,
    key: Annotated[str | None, typer.Option(help="With the key of this id. Default: with any")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a watch, or replace it. Its time begins now."""
    fields: dict[str, Any] = {"every_s": seconds_of(every, "--every"), "channel": channel, "key_id": key}
    body = {field: value for field, value in fields.items() if value is not None}
    with client_of(server, data_dir) as client:
        print_answer(client.call("PUT", f"/v1/watches/{segment(name)}", json=body), as_json)


@watches.command("list")
def watches_list(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All watches, by name, and who is silent."""
    columns: Columns = {
        "watch": "name",
        "silent": lambda item: "yes" if item["silent"] else "no",
        "every": lambda item: f"{item['every_s']}s",
        "channel": "channel",
        "key": "key_id",
        "heard at": "heard_at",
        "due at": "due_at",
    }
    empty = f"No watches yet. Make one: {PROGRAM} watches set price-list --channel prices --every 1d"
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/watches", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


@watches.command("show")
def watches_show(name: Name, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One watch: when something was heard last, and until when something has to be."""
    with client_of(server, data_dir) as client:
        print_answer(client.call("GET", f"/v1/watches/{segment(name)}"), as_json)


@watches.command("remove")
def watches_remove(name: Name, server: ServerUrl = None, data_dir: DataDir = None) -> None:
    """Remove a watch."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/watches/{segment(name)}")
    note(f"removed {name}")
