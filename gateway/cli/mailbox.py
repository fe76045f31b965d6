"""`fleetpush mailbox`: what waits for a device, over the public HTTP interface."""

from __future__ import annotations

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, DeviceId, PushId, ServerUrl, client_of, command_group
from gateway.cli.server_client import segment
from gateway.cli.terminal import print_json

mailbox = command_group("Show or empty what waits for a device.")


@mailbox.command("show")
def mailbox_show(
    device_id: DeviceId,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what waits for a device, in the order in which it will come, and what is in flight to it."""
    columns: Columns = {
        "push": "push_id",
        "state": "state",
        "priority": "priority",
        "kind": "kind",
        "expires at": "expires_at",
        "not before": "not_before",
        "attempts": lambda item: item.get("attempts") or None,
    }
    with client_of(server, data_dir) as client:
        path = f"/v1/devices/{segment(device_id)}/mailbox"
        print_list(client, path, columns, empty="Nothing waits for it.", as_json=as_json, limit=limit, cursor=cursor)


@mailbox.command("empty")
def mailbox_empty(
    device_id: DeviceId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Cancel what waits for a device (reason `mailbox_emptied`); what is in flight goes on."""
    with client_of(server, data_dir) as client:
        result = client.call("DELETE", f"/v1/devices/{segment(device_id)}/mailbox")
    print_json(result) if as_json else print(f"{result['cancelled']} cancelled")


@mailbox.command("cancel")
def mailbox_cancel(
    device_id: DeviceId, push_id: PushId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Cancel one push for this device (reason `removed_from_mailbox`); for others it goes on. Exit code 1: too late."""
    with client_of(server, data_dir) as client:
        result = client.call("DELETE", f"/v1/devices/{segment(device_id)}/mailbox/{segment(push_id)}")
    if as_json:
        print_json(result)
    else:
        in_flight = "it is on its way to the device" if result["in_flight"] else "it was delivered, or has ended before"
        print("cancelled" if result["cancelled"] else f"not cancelled: {in_flight}")
    if not result["cancelled"]:
        raise typer.Exit(1)
