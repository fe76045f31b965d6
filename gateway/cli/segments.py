"""`fleetpush segments`: expressions over devices, over the public HTTP interface."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group
from gateway.cli.server_client import segment as path_segment
from gateway.cli.terminal import PROGRAM, note, print_facts_and_hints, print_json

segments = command_group("Save, list, show, try, remove segments: expressions that select devices.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, as pushes name it")]
Expression = Annotated[
    str, typer.Argument(metavar="EXPRESSION", help="As \"'store-7' in tags && attributes.model == 'K2'\"")
]


@segments.command("set")
def segments_set(
    name: Name, expression: Expression, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Make a segment, or replace it, and say whom it selects now."""
    with client_of(server, data_dir) as client:
        saved = client.call("PUT", f"/v1/segments/{path_segment(name)}", json={"expression": expression})
    _print_selected(saved, as_json)


@segments.command("try")
def segments_try(
    expression: Expression, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Say whom an expression selects now; nothing is saved."""
    with client_of(server, data_dir) as client:
        found = client.call("POST", "/v1/segments/preview", json={"expression": expression})
    _print_selected(found, as_json)


@segments.command("list")
def segments_list(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All segments, by name."""
    columns: Columns = {"segment": "name", "expression": "expression", "changed": "updated_at"}
    empty = f"No segments yet. Make one: {PROGRAM} segments set silent \"last_seen < now - duration('7d')\""
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/segments", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


@segments.command("show")
def segments_show(name: Name, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One segment, and whom it selects now."""
    with client_of(server, data_dir) as client:
        _print_selected(client.call("GET", f"/v1/segments/{path_segment(name)}"), as_json)


@segments.command("remove")
def segments_remove(name: Name, server: ServerUrl = None, data_dir: DataDir = None) -> None:
    """Remove a segment. What was sent to it goes on."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/segments/{path_segment(name)}")
    note(f"removed {name}")


def _print_selected(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        print_facts_and_hints(found | {"examples": ", ".join(found["examples"])})
