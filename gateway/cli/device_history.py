"""`fleetpush devices history|connection`: what a device has had, over the public HTTP interface.

Its timeline, the newest event first: connections and why they ended, what became of pushes, what it and its person have
said. Or its deliveries, each with what the push said, where it stands and why.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.lists import Columns, Cursor, Item, Limit, print_list
from gateway.cli.options import AsJson, DataDir, DeviceId, ServerUrl, client_of
from gateway.cli.pushes import TIMES, State, brief
from gateway.cli.server_client import segment
from gateway.cli.terminal import fail, print_facts, print_json, print_table

SHOWN_FIELDS = ("reason", "detail", "address", "action", "result", "topic", "payload", "consent", "channels", "count")
"""Fields of an event that a line shows, as far as there are any."""


def devices_history(
    device_id: DeviceId,
    deliveries: Annotated[bool, typer.Option("--deliveries", help="Its deliveries instead of its events")] = False,
    event_type: Annotated[
        list[str] | None, typer.Option("--type", help="Events of this type, or of all that begin so: delivery.*")
    ] = None,
    state: Annotated[State | None, typer.Option(help="Deliveries in this state")] = None,
    reason: Annotated[str | None, typer.Option(help="Deliveries with this reason, such as ttl")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The history of a device, the newest first: its events, or with --deliveries what became of each push."""
    deliveries = deliveries or state is not None or reason is not None
    if deliveries and event_type:
        fail("--type is about events: leave it out, or ask for them without --deliveries, --state and --reason", 2)
    leaf = "deliveries" if deliveries else "events"
    wanted: dict[str, Any] = (
        {"state": state, "reason": reason} if deliveries else {"types": ",".join(event_type) if event_type else None}
    )
    empty = "Nothing was sent to it." if deliveries else "Nothing has happened in the time for which events are kept."
    with client_of(server, data_dir) as client:
        print_list(
            client,
            f"/v1/devices/{segment(device_id)}/{leaf}",
            DELIVERY_COLUMNS if deliveries else EVENT_COLUMNS,
            empty=empty,
            as_json=as_json,
            limit=limit,
            cursor=cursor,
            **wanted,
        )


def devices_connection(
    device_id: DeviceId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show how a device is connected, and how its last ten connections ended."""
    with client_of(server, data_dir) as client:
        found = client.call("GET", f"/v1/devices/{segment(device_id)}/connection")
    if as_json:
        print_json(found)
        return
    ends = found.pop("disconnects")
    print_facts(found)
    if ends:
        print()
        rows = [(end["at"], f"{end['duration']:.1f} s", end["detail"] or end["text"]) for end in ends]
        print_table(("ended at", "after", "because"), rows, "")


def describe_event(item: Item) -> str:
    """Describe an event on one line."""
    data, push = item["data"], item.get("push")
    about = [] if push is None else [push["title"] or push["body"] or push["kind"]]
    values = [(name, data[name]) for name in SHOWN_FIELDS if data.get(name) is not None]
    about += [value if isinstance(value, str) else f"{name} {brief(value)}" for name, value in values]
    if "duration" in data:
        about.append(f"after {data['duration']:.1f} s")
    return ", ".join(about)


def last_time(item: Item) -> Any:
    """The time of the furthest that a delivery has come."""
    return next((item[name] for name in TIMES if item.get(name)), None)


EVENT_COLUMNS: Columns = {
    "at": "timestamp",
    "event": "type",
    "push": lambda item: item["data"].get("push_id"),
    "what": describe_event,
}
DELIVERY_COLUMNS: Columns = {
    "push": "push_id",
    "sent at": "sent_at",
    "kind": "kind",
    "title": lambda item: item["title"] or item["body"],
    "channel": "channel",
    "state": "state",
    "reason": "reason",
    "at": last_time,
}
