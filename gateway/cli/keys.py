"""`fleetpush keys`: the keys of an application, over the public HTTP interface."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group
from gateway.cli.server_client import segment
from gateway.cli.terminal import note, print_json

keys = command_group("Make, list and revoke the keys of apps.")


@keys.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for")],
    scope: Annotated[list[str] | None, typer.Option(help="send, read, devices, admin; may be repeated")] = None,
    app: Annotated[str | None, typer.Option(help="For another application; with an admin key of `default`")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown this once. Without --scope it may send and read."""
    body = {"name": name, "scopes": scope or ["send", "read"]} | ({} if app is None else {"app": app})
    with client_of(server, data_dir) as client:
        answer = client.call("POST", "/v1/keys", json=body)
    if as_json:
        print_json(answer)
        return
    print(answer["key"])
    note(f"Key {answer['id']} ({' '.join(answer['scopes'])}). It is shown this once; use it as FLEETPUSH_KEY.")


@keys.command("list")
def keys_list(
    app: Annotated[str | None, typer.Option(help="Of another application, for an admin of `default`")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All keys of the application, without their secrets."""
    columns: Columns = {
        "key": "id",
        "app": "app",
        "name": "name",
        "scopes": lambda item: " ".join(item["scopes"]),
        "created": "created_at",
        "revoked": "revoked_at",
    }
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/keys", columns, empty="No keys.", as_json=as_json, limit=limit, cursor=cursor, app=app)


@keys.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id, as `list` shows it")],
    server: ServerUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Revoke a key, at once."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/keys/{segment(key_id)}")
    note(f"revoked {key_id}")
