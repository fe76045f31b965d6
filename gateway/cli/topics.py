"""`fleetpush topics`: who is in which topic, over the public HTTP interface."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group, read_input
from gateway.cli.server_client import segment
from gateway.cli.terminal import PROGRAM, fail, note, print_answer, print_json

MEMBERS_PER_REQUEST = 10_000
"""Devices that the API takes at once."""
topics = command_group("Have devices join and leave topics; list topics and who is in them.")

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="Its name, as pushes name it")]
Devices = Annotated[list[str] | None, typer.Argument(metavar="[ID]..", help="Ids of devices")]
FromFile = Annotated[
    str | None, typer.Option("--file", metavar="FILE", help="More ids, one in each line; - reads standard input")
]


@topics.command("list")
def topics_list(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All topics that any device is in, by name."""
    columns: Columns = {"topic": "topic", "devices": "devices"}
    empty = f"No device is in a topic. Have one join: {PROGRAM} topics join news kiosk-1"
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/topics", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


@topics.command("show")
def topics_show(topic: Topic, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Count the devices that are in a topic."""
    with client_of(server, data_dir) as client:
        print_answer(client.call("GET", f"/v1/topics/{segment(topic)}"), as_json)


@topics.command("devices")
def topics_devices(
    topic: Topic,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The devices of a topic, in the order of their enrolment."""
    columns: Columns = {"device": "device_id", "joined": "joined_at"}
    with client_of(server, data_dir) as client:
        path = f"/v1/topics/{segment(topic)}/devices"
        print_list(client, path, columns, empty="", as_json=as_json, limit=limit, cursor=cursor)


@topics.command("join")
def topics_join(
    topic: Topic,
    devices: Devices = None,
    file: FromFile = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have devices join a topic, which need not be made."""
    _change("PUT", topic, _ids(devices, file), server, data_dir, as_json)


@topics.command("leave")
def topics_leave(
    topic: Topic,
    devices: Devices = None,
    file: FromFile = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have devices leave a topic."""
    _change("DELETE", topic, _ids(devices, file), server, data_dir, as_json)


@topics.command("remove")
def topics_remove(topic: Topic, server: ServerUrl = None, data_dir: DataDir = None) -> None:
    """Have all devices leave a topic. What was sent to it goes on."""
    with client_of(server, data_dir) as client:
        found = client.call("DELETE", f"/v1/topics/{segment(topic)}")
    note(f"{found['left']} left {topic}")


def _ids(devices: list[str] | None, file: str | None) -> list[str]:
    ids = list(devices or ())
    if file is not None:
        ids += [line.strip() for line in read_input(file).decode(errors="replace").splitlines() if line.strip()]
    if not ids:
        fail("which devices? Give their ids, or --file", 2)
    return ids


def _change(method: str, topic: str, ids: list[str], server: str | None, data_dir: Any, as_json: bool) -> None:
    """Have devices join or leave a topic, and print the results; exit code 1 if one could not be changed."""
    found: list[dict[str, Any]] = []
    with client_of(server, data_dir) as client:
        for start in range(0, len(ids), MEMBERS_PER_REQUEST):
            body = {"devices": ids[start : start + MEMBERS_PER_REQUEST]}
            found += client.call(method, f"/v1/topics/{segment(topic)}/devices", json=body)["devices"]
    failed = [item for item in found if "error" in item]
    if as_json:
        print_json({"topic": topic, "devices": found})
    else:
        unchanged = sum(1 for item in found if item.get("result") == "unchanged")
        verb = "joined" if method == "PUT" else "left"
        print(f"{len(found) - len(failed) - unchanged} {verb} {topic}, {unchanged} unchanged")
        for item in failed:
            note(f"{item['device_id']}: {item['error']['detail']}")
    if failed:
        raise typer.Exit(1)
