"""`fleetpush devices`: enrolment and what becomes of a device afterwards, over the public HTTP interface."""

from __future__ import annotations

import json
import os
import shlex
from typing import Annotated, Any

import typer

from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of
from gateway.cli.server_client import EVERY_ADDRESS, ServerClient, segment
from gateway.cli.terminal import PROGRAM, fail, note, print_facts, print_json, print_table

devices = typer.Typer(help="Enrol, list, show, remove devices; give them new tokens.", no_args_is_help=True)
DeviceId = Annotated[str, typer.Argument(metavar="ID", help="The device's id")]


@devices.command("add")
def devices_add(
    device_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Left out, the server chooses one")] = None,
    name: Annotated[str | None, typer.Option(help="For people")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated")] = None,
    attribute: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="May be repeated")] = None,
    locale: Annotated[str | None, typer.Option()] = None,
    timezone: Annotated[str | None, typer.Option(help="As Europe/Berlin")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Enrol a device. Its token is shown this once."""
    fields = {"device_id": device_id, "name": name, "tags": tag, "locale": locale, "timezone": timezone}
    body: dict[str, Any] = {name: value for name, value in fields.items() if value}
    if attribute:
        body["attributes"] = dict(name_and_value(text) for text in attribute)
    with client_of(server, data_dir) as client:
        print_credential(client, client.call("POST", "/v1/devices", json=body), as_json)


@devices.command("list")
def devices_list(
    limit: Annotated[int, typer.Option(min=1, help="How many at most")] = 1000,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All devices, with presence."""
    with client_of(server, data_dir) as client:
        items = list(client.items("/v1/devices", limit))
    if as_json:
        print_json({"items": items})
        return
    rows = [
        (
            item["device_id"],
            item.get("name"),
            "online" if item.get("online") else "offline",
            item.get("last_seen"),
            ", ".join(item.get("tags") or ()),
            item.get("last_error"),
        )
        for item in items
    ]
    columns = ("device", "name", "presence", "last seen", "tags", "last error")
    print_table(columns, rows, f"No devices yet. Enrol one: {PROGRAM} devices add kiosk-1")


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


@devices.command("remove")
def devices_remove(device_id: DeviceId, server: ServerUrl = None, data_dir: DataDir = None) -> None:
    """Remove a device: what waits for it ends `revoked`, its connection closes."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/devices/{segment(device_id)}")
    note(f"removed {device_id}")


@devices.command("rotate")
def devices_rotate(
    device_id: DeviceId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Give a device a new token. The old one is void at once."""
    with client_of(server, data_dir) as client:
        print_credential(client, client.call("POST", f"/v1/devices/{segment(device_id)}/token"), as_json)


def print_credential(client: ServerClient, answer: dict[str, Any], as_json: bool) -> None:
    """A device's credential with two lines that make a whole device of any shell."""
    if as_json:
        print_json(answer)
        return
    mqtt = answer["mqtt"]
    topics = mqtt["topics"]
    who = [
        "-h",
        dialled(client, mqtt["host"]),
        "-p",
        str(mqtt["port"]),
        *(trust_options(client) if mqtt["tls"] else ()),
    ]
    secret = ["-u", mqtt["username"], "-P", answer["token"]]
    subscribe = ["mosquitto_sub", *who, "-i", mqtt["client_id"], *secret, "-c", "-q", "1", "-t", topics["push"]]
    receipt = ["mosquitto_pub", *who, "-i", mqtt["client_id"] + ":r", *secret, "-q", "1", "-t", topics["receipts"]]
    opened = json.dumps({"push_id": "PUSH_ID", "event": "opened"})
    print_facts({"device": answer["device_id"], "token": answer["token"]})
    note("The token is shown this once.")
    print("\nReceive its pushes from a shell:")
    print("  " + shlex.join(subscribe))
    print("\nSend a receipt for one of them:")
    print("  " + shlex.join([*receipt, "-m", opened]))


def dialled(client: ServerClient, host: str) -> str:
    """A name that the server's certificate has, where the server itself does not know how it is dialled."""
    if client.certificate is not None and host in EVERY_ADDRESS:
        from gateway.certificates import CertificateError, certificate_facts

        try:
            names = certificate_facts(client.certificate).names
        except CertificateError:
            names = ()
        host = next((name for name in names if not name.startswith("*")), host)
    return client.reached(host)


def trust_options(client: ServerClient) -> list[str]:
    """How mosquitto's clients trust the server: by the fleet's CA, what this command trusts, or what everybody does."""
    if client.fleet_ca is not None:
        return ["--cafile", str(client.fleet_ca)]
    authority = os.environ.get("FLEETPUSH_CA")
    return ["--cafile", authority] if authority else ["--tls-use-os-certs"]


def name_and_value(text: str) -> tuple[str, Any]:
    """`battery=81`: a value that reads as JSON is taken as such, any other is a string."""
    name, separator, value = text.partition("=")
    if not separator:
        fail(f"--attribute {text!r}: write NAME=VALUE", 2)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
