"""`fleetpush consent` and `preferences`: what the person at a device wants, over the public HTTP interface."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from gateway.cli.options import (
    AsJson,
    DataDir,
    DeviceId,
    QuietHours,
    ServerUrl,
    changes,
    client_of,
    command_group,
    describe_hours,
    quiet_hours_of,
)
from gateway.cli.server_client import segment
from gateway.cli.terminal import fail, print_facts, print_json, print_table

consent = command_group("Show the answers of a device's person, with their proof, or record one.")
preferences = command_group("Show or change what the person at a device wants: muted channels, quiet hours.")
CLEARABLE = ("quiet_hours",)


@consent.command("show")
def consent_show(
    device_id: DeviceId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """The proof: the last 100 answers, the newest first, with the text that asked and how it was said."""
    with client_of(server, data_dir) as client:
        found = client.call("GET", f"/v1/devices/{segment(device_id)}/consent")
    if as_json:
        print_json(found)
        return
    columns = ("recorded_at", "consent", "source", "text_version", "client", "seq")
    rows = [[item[column] for column in columns] for item in found["items"]]
    print_table(
        [column.replace("_", " ") for column in columns], rows, "Its person has not been asked, or not answered."
    )


@consent.command("set")
def consent_set(
    device_id: DeviceId,
    answer: Annotated[
        Literal["granted", "denied", "unknown"],
        typer.Argument(metavar="granted|denied|unknown", help="What the person answered"),
    ],
    text_version: Annotated[str | None, typer.Option(help="Which text asked, as terms-3")] = None,
    asked_by: Annotated[str | None, typer.Option("--client", help="What took the answer, as 'paper form'")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Record an answer on behalf of a device's person. What waits and is not wanted any more ends `suppressed`."""
    body = {"consent": answer, "text_version": text_version, "client": asked_by}
    body = {field: value for field, value in body.items() if value is not None}
    with client_of(server, data_dir) as client:
        print_preferences(client.call("PATCH", f"/v1/devices/{segment(device_id)}/preferences", json=body), as_json)


@preferences.command("show")
def preferences_show(
    device_id: DeviceId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Consent, quiet hours, and every channel with the person's choice."""
    with client_of(server, data_dir) as client:
        print_preferences(client.call("GET", f"/v1/devices/{segment(device_id)}/preferences"), as_json)


@preferences.command("change")
def preferences_change(
    device_id: DeviceId,
    mute: Annotated[list[str] | None, typer.Option(metavar="CHANNEL", help="May be repeated")] = None,
    unmute: Annotated[list[str] | None, typer.Option(metavar="CHANNEL", help="May be repeated")] = None,
    join: Annotated[list[str] | None, typer.Option(metavar="TOPIC", help="May be repeated")] = None,
    leave: Annotated[list[str] | None, typer.Option(metavar="TOPIC", help="May be repeated")] = None,
    quiet_hours: QuietHours = None,
    clear: Annotated[list[str] | None, typer.Option(help=f"{', '.join(CLEARABLE)}")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change what is wanted, on behalf of a device's person; what is not given stays. Consent: `consent set`."""
    if both := set(mute or ()) & set(unmute or ()):
        fail(f"{min(both)!r} is muted and unmuted: which of them?", 2)
    choices = dict.fromkeys(mute or (), False) | dict.fromkeys(unmute or (), True)
    if both := set(join or ()) & set(leave or ()):
        fail(f"{min(both)!r} is joined and left: which of them?", 2)
    topics = dict.fromkeys(join or (), True) | dict.fromkeys(leave or (), False)
    fields = {"channels": choices or None, "topics": topics or None, "quiet_hours": quiet_hours_of(quiet_hours, None)}
    body = changes(fields, clear, CLEARABLE)
    with client_of(server, data_dir) as client:
        print_preferences(client.call("PATCH", f"/v1/devices/{segment(device_id)}/preferences", json=body), as_json)


def print_preferences(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    facts = {name: found[name] for name in ("consent", "timezone", "changed_at")}
    print_facts(facts | {"quiet_hours": describe_hours(found["quiet_hours"]), "topics": ", ".join(found["topics"])})
    if found["channels"]:
        print()
    rows = [
        (
            channel["id"],
            channel.get("name"),
            "muted" if channel["muted"] else "on",
            "no" if channel.get("may_mute") is False else "yes",
        )
        for channel in found["channels"]
    ]
    print_table(("channel", "name", "choice", "may mute"), rows, "No channels.")
