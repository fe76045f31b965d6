"""`fleetpush channels`: the categories of pushes that people can mute, over the public HTTP interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import (
    Adaptive,
    AsJson,
    CapExcess,
    CapOption,
    CapSegment,
    CapTag,
    DataDir,
    QuietExcess,
    QuietHours,
    ServerUrl,
    caps_of,
    changes,
    client_of,
    command_group,
    describe_caps,
    describe_hours,
    quiet_hours_of,
)
from gateway.cli.server_client import segment
from gateway.cli.terminal import PROGRAM, note, print_answer

channels = command_group("Make, list, show, change, remove the channels that people can mute.")
CLEARABLE = ("description", "sound", "caps", "quiet_hours")

ChannelId = Annotated[str, typer.Argument(metavar="CHANNEL", help="Its id, as pushes name it")]
Description = Annotated[str | None, typer.Option(help="What comes on it, for people")]
Importance = Annotated[Literal["high", "default", "low"] | None, typer.Option(help="How much devices make of it")]
Sound = Annotated[str | None, typer.Option(help="Name of a sound on the device")]
MayMute = Annotated[bool | None, typer.Option("--may-mute/--always-on", help="Whether a person can mute it")]


def describe_channel_caps(channel: Mapping[str, Any]) -> str | None:
    """Format a channel's caps, and what an adaptive one has come to: `adaptive 1 to 8/day, then drop; now 4/day`."""
    text = describe_caps(channel["caps"])
    adapted = channel.get("adapted")
    return text if adapted is None else f"{text}; now {adapted['per_day']}/day"


@channels.command("add")
def channels_add(
    channel_id: ChannelId,
    name: Annotated[str, typer.Option(help="For people")],
    description: Description = None,
    importance: Importance = None,
    sound: Sound = None,
    may_mute: MayMute = None,
    cap: CapOption = None,
    cap_tag: CapTag = None,
    cap_segment: CapSegment = None,
    adaptive: Adaptive = None,
    excess: CapExcess = None,
    quiet_hours: QuietHours = None,
    quiet_excess: QuietExcess = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a channel. Pushes may name one that was not made; only what was made has a name for people, and rules."""
    body: dict[str, Any] = {
        "id": channel_id,
        "name": name,
        "description": description,
        "importance": importance,
        "sound": sound,
        "may_mute": may_mute,
        "caps": caps_of(cap, excess, cap_tag, cap_segment, adaptive),
        "quiet_hours": quiet_hours_of(quiet_hours, quiet_excess),
    }
    body = {field: value for field, value in body.items() if value is not None}
    with client_of(server, data_dir) as client:
        made = client.call("POST", "/v1/channels", json=body)
    print_answer(made, as_json)


@channels.command("list")
def channels_list(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All channels, by id, with their rules."""
    columns: Columns = {
        "channel": "id",
        "name": "name",
        "importance": "importance",
        "may mute": lambda item: "yes" if item["may_mute"] else "no",
        "caps": describe_channel_caps,
        "quiet hours": lambda item: describe_hours(item["quiet_hours"]),
        "description": "description",
    }
    empty = f"No channels yet. Make one: {PROGRAM} channels add offers --name Offers"
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/channels", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


@channels.command("show")
def channels_show(
    channel_id: ChannelId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """One channel and its rules."""
    with client_of(server, data_dir) as client:
        found = client.call("GET", f"/v1/channels/{segment(channel_id)}")
    if not as_json:
        found |= {"caps": describe_caps(found["caps"]), "quiet_hours": describe_hours(found["quiet_hours"])}
    print_answer(found, as_json)


@channels.command("change")
def channels_change(
    channel_id: ChannelId,
    name: Annotated[str | None, typer.Option(help="For people")] = None,
    description: Description = None,
    importance: Importance = None,
    sound: Sound = None,
    may_mute: MayMute = None,
    cap: CapOption = None,
    cap_tag: CapTag = None,
    cap_segment: CapSegment = None,
    adaptive: Adaptive = None,
    excess: CapExcess = None,
    quiet_hours: QuietHours = None,
    quiet_excess: QuietExcess = None,
    clear: Annotated[list[str] | None, typer.Option(help=f"{', '.join(CLEARABLE)}; may be repeated")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change a channel; what is not given stays. What waits is checked anew."""
    fields = {
        "name": name,
        "description": description,
        "importance": importance,
        "sound": sound,
        "may_mute": may_mute,
        "caps": caps_of(cap, excess, cap_tag, cap_segment, adaptive),
        "quiet_hours": quiet_hours_of(quiet_hours, quiet_excess),
    }
    body = changes(fields, clear, CLEARABLE)
    with client_of(server, data_dir) as client:
        changed = client.call("PATCH", f"/v1/channels/{segment(channel_id)}", json=body)
    print_answer(changed, as_json)


@channels.command("remove")
def channels_remove(channel_id: ChannelId, server: ServerUrl = None, data_dir: DataDir = None) -> None:
    """Remove a channel. Pushes may go on naming it, and people's choices about it stay."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/channels/{segment(channel_id)}")
    note(f"removed {channel_id}")
