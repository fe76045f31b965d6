"""`fleetpush devices`: enrolment and what becomes of a device afterwards, over the public HTTP interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from gateway.cli.bulk_changes import Where, devices_remove, devices_tag
from gateway.cli.credentials import print_credential
from gateway.cli.device_history import devices_connection, devices_history
from gateway.cli.enrolment import devices_enrol
from gateway.cli.invitations import devices_invitations, devices_invite, devices_uninvite
from gateway.cli.lists import Columns, Cursor, Item, Limit, print_list
from gateway.cli.options import (
    AsJson,
    DataDir,
    DeviceId,
    ServerUrl,
    changes,
    client_of,
    command_group,
    device_fields,
    name_and_value,
    time_in,
    time_of,
)
from gateway.cli.server_client import segment
from gateway.cli.tags import devices_tags
from gateway.cli.terminal import PROGRAM, print_answer, print_facts, print_json, print_table
from gateway.cli.token_requests import devices_confirm, devices_refuse, devices_requests

devices = command_group("Enrol, list, show, change, remove devices; give them new tokens.")
CLEARABLE = ("name", "tags", "locale", "timezone")

devices.command("enrol")(devices_enrol)
devices.command("invite")(devices_invite)
devices.command("invitations")(devices_invitations)
devices.command("uninvite")(devices_uninvite)
devices.command("tag")(devices_tag)
devices.command("remove")(devices_remove)
devices.command("requests")(devices_requests)
devices.command("confirm")(devices_confirm)
devices.command("refuse")(devices_refuse)
devices.command("tags")(devices_tags)
devices.command("history")(devices_history)
devices.command("connection")(devices_connection)


@devices.command("add")
def devices_add(
    device_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Left out, the server chooses one")] = None,
    name: Annotated[str | None, typer.Option(help="For people")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated")] = None,
    attribute: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="May be repeated")] = None,
    locale: Annotated[str | None, typer.Option(help="Language of its person, as de-DE")] = None,
    timezone: Annotated[str | None, typer.Option(help="As Europe/Berlin")] = None,
    token_days: Annotated[
        int | None, typer.Option(min=1, max=3_650, help="Lifetime of its tokens, which it renews. Default: for ever")
    ] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Enrol a device. Its token is shown this once."""
    body = device_fields(
        attribute,
        device_id=device_id, name=name, tags=tag, locale=locale, timezone=timezone, token_days=token_days,
    )  # fmt: skip
    with client_of(server, data_dir) as client:
        print_credential(client, client.call("POST", "/v1/devices", json=body), as_json)


@devices.command("list")
def devices_list(
    online: Annotated[bool | None, typer.Option("--online/--offline", help="Connected now, or not")] = None,
    tag: Annotated[str | None, typer.Option(help="With this tag")] = None,
    search: Annotated[str | None, typer.Option(help="With this in the id or name, whatever the case")] = None,
    last_seen_before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Offline, and last seen more than 2d ago, or before a time")
    ] = None,
    has_error: Annotated[bool | None, typer.Option("--has-error/--no-error", help="With a last error")] = None,
    waiting: Annotated[
        bool | None, typer.Option("--waiting/--not-waiting", help="A push waits for it, or is in flight")
    ] = None,
    token_ends_within: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Its token ends within 7d, or has ended")
    ] = None,
    where: Where = None,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All devices, with presence; or those for which every option given holds."""
    wanted = {
        "online": online,
        "tag": tag,
        "q": search,
        "last_seen_before": None if last_seen_before is None else time_of(last_seen_before, "--last-seen-before"),
        "has_error": has_error,
        "waiting": waiting,
        "token_expires_before": None
        if token_ends_within is None
        else time_in(token_ends_within, "--token-ends-within"),
        "where": where,
    }
    columns: dict[str, str | Callable[[Item], Any]] = {
        "device": "device_id",
        "name": "name",
        "presence": lambda item: "online" if item.get("online") else "offline",
        "last seen": "last_seen",
        "tags": "tags",
        "last error": "last_error",
    }
    if token_ends_within is not None:
        columns["token ends"] = "token_expires_at"
    filtered = any(value is not None for value in wanted.values())
    empty = "No device is like that." if filtered else f"No devices yet. Enrol one: {PROGRAM} devices add kiosk-1"
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/devices", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor, **wanted)


@devices.command("show")
def devices_show(
    device_id: DeviceId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """One device: what it is, when it was last here, what waits for it."""
    with client_of(server, data_dir) as client:
        device = client.call("GET", f"/v1/devices/{segment(device_id)}")
        if as_json:
            print_json(device)
            return
        waiting = list(client.items(f"/v1/devices/{segment(device_id)}/mailbox", 20))
    print_facts(device)
    if waiting:
        print()
        rows = [(item["push_id"], item["state"], item["priority"], item["expires_at"]) for item in waiting]
        print_table(("waiting push", "state", "priority", "expires at"), rows, "")


@devices.command("change")
def devices_change(
    device_id: DeviceId,
    name: Annotated[str | None, typer.Option(help="For people")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Instead of the tags it has; may be repeated")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="NAME=null removes it; may be repeated")
    ] = None,
    locale: Annotated[str | None, typer.Option(help="Language of its person, as de-DE")] = None,
    timezone: Annotated[str | None, typer.Option(help="As Europe/Berlin")] = None,
    clear: Annotated[list[str] | None, typer.Option(help=f"{', '.join(CLEARABLE)}; may be repeated")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change what is known of a device; what is not given stays."""
    attributes = dict(name_and_value(text) for text in attribute) if attribute else None
    fields = {"name": name, "tags": tag or None, "attributes": attributes, "locale": locale, "timezone": timezone}
    body = changes(fields, clear, CLEARABLE)
    with client_of(server, data_dir) as client:
        device = client.call("PATCH", f"/v1/devices/{segment(device_id)}", json=body)
    print_answer(device, as_json)


@devices.command("rotate")
def devices_rotate(
    device_id: DeviceId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Give a device a new token. The old one is void at once."""
    with client_of(server, data_dir) as client:
        print_credential(client, client.call("POST", f"/v1/devices/{segment(device_id)}/token"), as_json)


@devices.command("renew")
def devices_renew(
    device_id: DeviceId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Give a device whose tokens end a new one now. The one that it has is good for a week longer."""
    with client_of(server, data_dir) as client:
        print_credential(client, client.call("POST", f"/v1/devices/{segment(device_id)}/token/renewal"), as_json)


@devices.command("uplink")
def devices_uplink(
    device_id: DeviceId,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what a device has said on its uplink topics, the newest first."""
    columns: Columns = {
        "received": "received_at",
        "topic": "topic",
        "payload": lambda item: item.get("payload") or f"(Base64) {item.get('payload_base64') or ''}",
    }
    with client_of(server, data_dir) as client:
        path = f"/v1/devices/{segment(device_id)}/uplink"
        print_list(client, path, columns, empty="It has said nothing.", as_json=as_json, limit=limit, cursor=cursor)
