"""`fleetpush heartbeats`: devices of a site that are to answer every minute, over the public HTTP interface."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group, seconds_of
from gateway.cli.server_client import segment
from gateway.cli.terminal import PROGRAM, describe_devices, fail, note, print_facts, print_json

heartbeats = command_group("Set, list, show, remove the heartbeats of sites: who answers, who is slow or silent.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, as a site has it")]


@heartbeats.command("set")
def heartbeats_set(
    name: Name,
    device: Annotated[list[str] | None, typer.Option(help="A device that is to answer; may be repeated")] = None,
    tag: Annotated[str | None, typer.Option(help="Instead: the first 20 devices with this tag")] = None,
    every: Annotated[str | None, typer.Option(help="Between two beats: seconds, or 1m. Default: 60")] = None,
    within: Annotated[str | None, typer.Option(help="To answer in: seconds, or 1m. Default: 10")] = None,
    misses: Annotated[int | None, typer.Option(min=1, help="Beats in a row before it counts. Default: 2")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a heartbeat, or replace it."""
    if bool(device) == (tag is not None):
        fail("who is to answer? Give --device (repeated), or --tag", 2)
    devices = device or []
    fields: dict[str, Any] = {
        "device": devices[0] if len(devices) == 1 else None,
        "devices": devices if len(devices) > 1 else None,
        "tag": tag,
        "every_s": None if every is None else seconds_of(every, "--every"),
        "within_s": None if within is None else seconds_of(within, "--within"),
        "misses": misses,
    }
    body = {field: value for field, value in fields.items() if value is not None}
    with client_of(server, data_dir) as client:
        print_heartbeat(client.call("PUT", f"/v1/heartbeats/{segment(name)}", json=body), as_json)


@heartbeats.command("list")
def heartbeats_list(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All heartbeats, by name, and how many devices of each answer."""
    columns: Columns = {
        "heartbeat": "name",
        "devices": describe_devices,
        "every": lambda item: f"{item['every_s']}s",
        "within": lambda item: f"{item['within_s']}s",
        "states": lambda item: describe_states(item["states"]),
    }
    empty = f"No heartbeats yet. Make one: {PROGRAM} heartbeats set store-7 --device kiosk-1"
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/heartbeats", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


@heartbeats.command("show")
def heartbeats_show(name: Name, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One heartbeat, device by device."""
    with client_of(server, data_dir) as client:
        print_heartbeat(client.call("GET", f"/v1/heartbeats/{segment(name)}"), as_json)


@heartbeats.command("remove")
def heartbeats_remove(name: Name, server: ServerUrl = None, data_dir: DataDir = None) -> None:
    """Remove a heartbeat."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/heartbeats/{segment(name)}")
    note(f"removed {name}")


def describe_states(states: list[dict[str, Any]]) -> str:
    """Format the states of devices: `2 answering, 1 silent`."""
    return ", ".join(f"{count} {state}" for state, count in Counter(one["state"] for one in states).most_common())


def print_heartbeat(heartbeat: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(heartbeat)
        return
    states = heartbeat.pop("states")
    print_facts(heartbeat)
    for one in states:
        took = "" if one["took_ms"] is None else f", {one['took_ms']} ms"
        print(f"{one['device_id']}  {one['state']} since {one['since']}{took}")
