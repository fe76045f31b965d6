"""`fleetpush pushes`: what became of pushes, and taking one back, over the public HTTP interface."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from gateway.cli.duties import describe_escalation
from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, PushId, ServerUrl, client_of, command_group
from gateway.cli.push_batch import pushes_batch
from gateway.cli.server_client import segment
from gateway.cli.terminal import PROGRAM, describe_counts, json_text, print_facts, print_json, print_table

pushes = command_group("List pushes and their deliveries; recall a push; send a file of them.")
pushes.command("batch")(pushes_batch)

State = Literal[
    "waiting",
    "sent",
    "delivered",
    "displayed",
    "dismissed",
    "opened",
    "acted",
    "expired",
    "superseded",
    "cancelled",
    "suppressed",
    "overflowed",
    "refused",
    "revoked",
]
TIMES = ("acted_at", "opened_at", "dismissed_at", "displayed_at", "delivered_at", "ended_at")
"""Times of a delivery, the furthest first."""
LONGEST_TITLE_CHARACTERS = 40
"""Characters."""


@pushes.command("list")
def pushes_list(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All pushes, the newest first, each with its counts."""
    columns: Columns = {
        "push": "push_id",
        "sent at": "sent_at",
        "kind": "kind",
        "priority": "priority",
        "title": lambda item: title_of(item.get("notification") or {}),
        "counts": lambda item: describe_counts(item["counts"]),
    }
    empty = f"No pushes yet. Send one: {PROGRAM} push kiosk-1 'Hello'"
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/pushes", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


@pushes.command("show")
def pushes_show(push_id: PushId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One push: what was sent, to whom, and its counts."""
    with client_of(server, data_dir) as client:
        found = client.call("GET", f"/v1/pushes/{segment(push_id)}")
    if as_json:
        print_json(found)
        return
    reached = ", ".join(f"{number} {stage}" for stage, number in found["reached"].items())
    escalation = found.pop("escalation", None)
    facts = found | {"counts": describe_counts(found["counts"]), "reached": reached}
    print_facts(facts if escalation is None else facts | describe_escalation(escalation))


@pushes.command("deliveries")
def pushes_deliveries(
    push_id: PushId,
    state: Annotated[State | None, typer.Option(help="Only those in this state")] = None,
    device: Annotated[str | None, typer.Option(help="Only the one to this device")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those with this reason, such as ttl")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what became of a push on each device: state, reason, times, the action and its result."""
    columns: Columns = {
        "device": lambda item: item["device_id"] or "(removed)",
        "state": "state",
        "reason": "reason",
        "qos": "qos",
        "at": lambda item: next((item[name] for name in TIMES if item.get(name)), None),
        "not before": "not_before",
        "attempts": lambda item: item.get("attempts") or None,
        "action": "action",
        "result": lambda item: None if item.get("result") is None else brief(item["result"]),
    }
    wanted = {"state": state, "device": device, "reason": reason}
    filtered = any(value is not None for value in wanted.values())
    empty = "No delivery is like that." if filtered else "No deliveries: the push was for nobody."
    with client_of(server, data_dir) as client:
        path = f"/v1/pushes/{segment(push_id)}/deliveries"
        print_list(client, path, columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor, **wanted)


@pushes.command("reasons")
def pushes_reasons(
    push_id: PushId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Count the deliveries of a push by state and reason: who did not get it, and why."""
    with client_of(server, data_dir) as client:
        found = client.call("GET", f"/v1/pushes/{segment(push_id)}/reasons")
    if as_json:
        print_json(found)
        return
    rows = [(item["count"], item["state"], item["reason"]) for item in found["items"]]
    print_table(("deliveries", "state", "reason"), rows, "No deliveries: the push was for nobody.")


@pushes.command("texts")
def pushes_texts(
    push_id: PushId,
    device: Annotated[str | None, typer.Option(help="Only the one that this device got")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the texts that the devices of a push got: one for all, or what its templates were rendered to."""
    columns: Columns = {
        "text": "text",
        "devices": "devices",
        "bytes": "size",
        "title": lambda item: title_of(item.get("notification") or {}),
        "data": lambda item: None if item.get("data") is None else brief(item["data"]),
    }
    empty = "This device got no text." if device else "No device got a text."
    with client_of(server, data_dir) as client:
        path = f"/v1/pushes/{segment(push_id)}/texts"
        print_list(client, path, columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor, device=device)


@pushes.command("recall")
def pushes_recall(push_id: PushId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Take back what still waits of a push; devices that show it are told to clear it."""
    with client_of(server, data_dir) as client:
        result = client.call("DELETE", f"/v1/pushes/{segment(push_id)}")
    if as_json:
        print_json(result)
    else:
        print(
            f"{result['cancelled']} cancelled, {result['in_flight']} in flight (their outcome is open), "
            f"{result['too_late']} too late"
        )


def title_of(notification: dict[str, Any]) -> str | None:
    """The title, or the text of what has none, shortened for a table."""
    text: str | None = notification.get("title") or notification.get("body")
    return text if text is None or len(text) <= LONGEST_TITLE_CHARACTERS else text[: LONGEST_TITLE_CHARACTERS - 1] + "…"


def brief(value: Any) -> str:
    """JSON on one line, shortened for a table."""
    text = json_text(value)
    return text if len(text) <= 80 else text[:79] + "…"
