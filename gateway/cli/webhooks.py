"""`fleetpush webhooks`: where events are sent, and what could not be, over the public HTTP interface.

A secret is never an argument: arguments are visible to everybody who may list processes.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from gateway.cli.lists import Columns, Cursor, Item, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, changes, client_of, command_group, read_input
from gateway.cli.server_client import segment
from gateway.cli.terminal import PROGRAM, fail, note, print_answer, print_facts, print_json

webhooks = command_group(
    "Have events sent to an address; list, show, change, remove webhooks; test them; replay dead letters."
)
CLEARABLE = ("description",)

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id, as `webhooks list` shows it")]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", help="As delivery.acted, or 'delivery.*' for all that begin so; may be repeated"),
]
Description = Annotated[str | None, typer.Option(help="For people")]


@webhooks.command("add")
def webhooks_add(
    url: Annotated[str, typer.Argument(metavar="URL", help="As https://shop.example/hooks")],
    types: Types = None,
    description: Description = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Send nothing until it is enabled")] = False,
    secret_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Has the secret to sign with; - reads it. Default: a new one"),
    ] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have events sent to an address from now on: all of them, or the types given.

    The secret that they are signed with is shown this once.
    """
    body: dict[str, Any] = {"url": url}
    body |= {"types": types} if types else {}
    body |= {} if description is None else {"description": description}
    body |= {"enabled": False} if disabled else {}
    body |= {} if secret_file is None else {"secret": secret_in(secret_file)}
    with client_of(server, data_dir) as client:
        print_new(client.call("POST", "/v1/webhooks", json=body), as_json)


@webhooks.command("list")
def webhooks_list(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All webhooks, in the order in which they were made, with what became of the last attempts."""
    columns: Columns = {
        "webhook": "id",
        "url": "url",
        "types": "types",
        "state": lambda item: "enabled" if item["enabled"] else f"disabled: {item['disabled_reason'] or 'on request'}",
        "succeeded": "succeeded_at",
        "failed": "failed_at",
        "last error": "last_error",
    }
    empty = f"No webhooks yet. Make one: {PROGRAM} webhooks add URL --type 'delivery.*'"
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/webhooks", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


@webhooks.command("show")
def webhooks_show(
    webhook_id: WebhookId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """One webhook, with what became of the last attempts."""
    with client_of(server, data_dir) as client:
        found = client.call("GET", f"/v1/webhooks/{segment(webhook_id)}")
    print_answer(found, as_json)


@webhooks.command("change")
def webhooks_change(
    webhook_id: WebhookId,
    url: Annotated[str | None, typer.Option(help="Where events are sent from now on")] = None,
    types: Types = None,
    description: Description = None,
    enabled: Annotated[
        bool | None, typer.Option("--enable/--disable", help="Enabled again, it goes on where it was")
    ] = None,
    clear: Annotated[list[str] | None, typer.Option(help=f"{', '.join(CLEARABLE)}")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change a webhook; what is not given stays. Types given take the place of all that it had."""
    fields = {"url": url, "types": types or None, "description": description, "enabled": enabled}
    body = changes(fields, clear, CLEARABLE)
    with client_of(server, data_dir) as client:
        changed = client.call("PATCH", f"/v1/webhooks/{segment(webhook_id)}", json=body)
    print_answer(changed, as_json)


@webhooks.command("remove")
def webhooks_remove(webhook_id: WebhookId, server: ServerUrl = None, data_dir: DataDir = None) -> None:
    """Remove a webhook with its dead letters."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/webhooks/{segment(webhook_id)}")
    note(f"removed {webhook_id}")


@webhooks.command("rotate")
def webhooks_rotate(
    webhook_id: WebhookId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Give a webhook a new secret. For 24 hours requests are signed with the old one as well."""
    with client_of(server, data_dir) as client:
        print_new(client.call("POST", f"/v1/webhooks/{segment(webhook_id)}/secret"), as_json)


@webhooks.command("test")
def webhooks_test(
    webhook_id: WebhookId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Send an event of the type `webhook.test` now, and say what the receiver answers. Exit code 1: no 2xx."""
    with client_of(server, data_dir) as client:
        found = client.call("POST", f"/v1/webhooks/{segment(webhook_id)}/test")
    if as_json:
        print_json(found)
    elif found["delivered"]:
        print(f"{found['status']} after {found['milliseconds']} ms")
    else:
        note(found["error"] or f"it answers {found['status']}")
    if not found["delivered"]:
        raise typer.Exit(1)


@webhooks.command("dead-letters")
def webhooks_dead_letters(
    webhook_id: WebhookId,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what the receiver has not taken within 24 hours, the newest first."""
    columns: Columns = {
        "letter": "id",
        "at": "at",
        "attempts": "attempts",
        "events": describe_events,
        "replaying": lambda item: "yes" if item["replaying"] else None,
        "error": "error",
    }
    with client_of(server, data_dir) as client:
        path = f"/v1/webhooks/{segment(webhook_id)}/dead-letters"
        print_list(client, path, columns, empty="No dead letters.", as_json=as_json, limit=limit, cursor=cursor)


@webhooks.command("replay")
def webhooks_replay(
    webhook_id: WebhookId,
    letters: Annotated[
        list[str] | None, typer.Argument(metavar="[LETTER]...", help="As `dead-letters` lists them; none: all")
    ] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters once more: those that are named, or all. What is taken leaves the list."""
    body = {"ids": letters} if letters else {}
    with client_of(server, data_dir) as client:
        result = client.call("POST", f"/v1/webhooks/{segment(webhook_id)}/dead-letters/replay", json=body)
    print_json(result) if as_json else print(f"{result['replaying']} replaying")


def secret_in(file: str) -> str:
    """Read a secret from a file, without the line break that an editor leaves. Failures do not repeat it."""
    secret = read_input(file).strip()
    if not secret.isascii():
        fail(f"{file!r} holds no secret: write whsec_ and 24 to 64 bytes in Base64", 2)
    return secret.decode()


def print_new(made: dict[str, Any], as_json: bool) -> None:
    """A webhook with its secret."""
    if as_json:
        print_json(made)
        return
    print_facts(made)
    note("The secret is shown this once: the receiver verifies signatures with it.")


def describe_events(letter: Item) -> str:
    """Format the events of a dead letter: `3: 2 delivery.acted, 1 device.uplink`."""
    types = Counter(str(event.get("type")) for event in letter["events"])
    return f"{types.total()}: {', '.join(f'{number} {name}' for name, number in types.most_common())}"
