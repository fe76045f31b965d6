"""`fleetpush devices requests`: devices that have lost their token and ask for another, and what an operator says."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of
from gateway.cli.server_client import segment
from gateway.cli.terminal import note, print_answer

RequestId = Annotated[str, typer.Argument(metavar="REQUEST", help="As `devices requests` lists it")]


def devices_requests(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List devices that ask for a new token. Confirm one if its screen shows what is listed here."""
    columns: Columns = {
        "request": "id",
        "device": "device_id",
        "its screen shows": "confirmation",
        "state": "state",
        "address": "address",
        "asked": "asked_at",
        "note": "note",
    }
    with client_of(server, data_dir) as client:
        print_list(
            client, "/v1/token-requests", columns, empty="No device asks for a new token.", as_json=as_json,
            limit=limit, cursor=cursor,
        )  # fmt: skip


def devices_confirm(
    request: RequestId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Let a device have the new token that it asks for. The old one is void when it has it."""
    with client_of(server, data_dir) as client:
        found = client.call("POST", f"/v1/token-requests/{segment(request)}/confirm")
    print_answer(found, as_json)
    note(f"{found['device_id']} fetches its token within seconds, if it still asks")


def devices_refuse(request: RequestId, server: ServerUrl = None, data_dir: DataDir = None) -> None:
    """Refuse a device's request for a new token."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/token-requests/{segment(request)}")
    note("refused")
