"""`fleetpush duties`: who is told of what is urgent, one step after the other, over the public HTTP interface."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group, seconds_of
from gateway.cli.server_client import segment
from gateway.cli.terminal import PROGRAM, describe_counts, describe_devices, fail, note, print_facts, print_json

duties = command_group("Set, list, show, remove the duties that urgent pushes escalate through, and list those pushes.")
STEP = re.compile(r"(?:tag:(?P<tag>[^@,]+)|(?P<devices>[^@]+))(?:@(?P<wait>.+))?")

DutyName = Annotated[str, typer.Argument(metavar="DUTY", help="Its name, as pushes have it")]


@duties.command("set")
def duties_set(
    name: DutyName,
    step: Annotated[
        list[str],
        typer.Option(metavar="WHO[@WAIT]", help="kiosk-1@60s, kiosk-1,kiosk-2@2m or tag:guards@5m; in order, repeated"),
    ],
    repeat: Annotated[int | None, typer.Option(min=0, help="Times that all steps are gone through again")] = None,
    act: Annotated[list[str] | None, typer.Option(help="An action that counts. Default: any; may be repeated")] = None,
    opened: Annotated[bool, typer.Option("--opened", help="Opening the push counts as acting, too")] = False,
    description: Annotated[str | None, typer.Option(help="What it is for, for people")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a duty, or replace it. Pushes under way go on with what it was."""
    fields: dict[str, Any] = {
        "description": description,
        "steps": [step_of(text) for text in step],
        "repeat": repeat,
        "acts": act or None,
        "opened": opened,
    }
    body = {field: value for field, value in fields.items() if value is not None}
    with client_of(server, data_dir) as client:
        print_duty(client.call("PUT", f"/v1/duties/{segment(name)}", json=body), as_json)


@duties.command("list")
def duties_list(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All duties, by name, with their steps."""
    columns: Columns = {
        "duty": "name",
        "steps": lambda item: ", ".join(map(describe_step, item["steps"])),
        "repeat": "repeat",
        "running": "running",
        "description": "description",
    }
    empty = f"No duties yet. Make one: {PROGRAM} duties set night --step kiosk-1@60s --step tag:guards@5m"
    with client_of(server, data_dir) as client:
        print_list(client, "/v1/duties", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


@duties.command("show")
def duties_show(name: DutyName, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One duty, and how many pushes to it nobody has acted on yet."""
    with client_of(server, data_dir) as client:
        print_duty(client.call("GET", f"/v1/duties/{segment(name)}"), as_json)


@duties.command("remove")
def duties_remove(name: DutyName, server: ServerUrl = None, data_dir: DataDir = None) -> None:
    """Remove a duty. Pushes to it that are under way go on."""
    with client_of(server, data_dir) as client:
        client.call("DELETE", f"/v1/duties/{segment(name)}")
    note(f"removed {name}")


@duties.command("escalations")
def duties_escalations(
    state: Annotated[
        str | None, typer.Option(help="Only running, acted, exhausted, recalled or superseded ones")
    ] = None,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Pushes to duties, the newest first: how far each has come, and who acted."""
    columns: Columns = {
        "push": "push_id",
        "duty": "duty",
        "sent": "sent_at",
        "state": describe_state,
        "step": lambda item: f"{item['step']}, round {item['round']}" if item["round"] > 1 else item["step"],
        "next": "next_at",
        "ended": "ended_at",
    }
    empty = "No pushes to duties" + ("." if state is None else f" that are {state}.")
    with client_of(server, data_dir) as client:
        print_list(
            client, "/v1/escalations", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor, state=state
        )


def step_of(text: str) -> dict[str, Any]:
    """Read a step as a person writes it: `kiosk-1,kiosk-2@2m` or `tag:guards@5m`."""
    match = STEP.fullmatch(text)
    if match is None:
        fail(f"--step {text!r}: write DEVICE@60s, DEVICE,DEVICE@2m or tag:TAG@5m", 2)
    step: dict[str, Any] = {"tag": match["tag"]}
    if match["tag"] is None:
        ids = match["devices"].split(",")
        step = {"device": ids[0]} if len(ids) == 1 else {"devices": ids}
    return step if match["wait"] is None else {**step, "wait_s": seconds_of(match["wait"], "--step")}


def describe_step(step: Mapping[str, Any]) -> str:
    """Format a step as it is written: `tag:guards@300s`."""
    return f"{describe_devices(step)}@{step['wait_s']}s"


def print_duty(duty: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(duty)
    else:
        print_facts(duty | {"steps": ", ".join(map(describe_step, duty["steps"]))})


def describe_state(escalation: Mapping[str, Any]) -> str:
    """Format the state of a push to a duty: `acted by kiosk-1 (take)`."""
    acted, reason = escalation["acted"], escalation.get("reason")
    if acted is not None:
        return f"{escalation['state']} by {acted['device_id']} ({acted['action'] or acted['event']})"
    return str(escalation["state"]) if reason is None else f"{escalation['state']} ({reason})"


def describe_escalation(escalation: Mapping[str, Any]) -> dict[str, str]:
    """Format how far a push to a duty has come, a line for each step that was sent."""
    facts = {"duty": escalation["duty"], "escalation": describe_state(escalation)}
    if escalation["acted"] is None and escalation["next_at"] is not None:
        facts["escalation"] += f", the next step at {escalation['next_at']}"
    for step in escalation.get("steps") or ():
        whom = describe_devices(step["target"])
        again = f", round {step['round']}" if step["round"] > 1 else ""
        facts[f"step {step['step']}{again}"] = f"{step['push_id']} to {whom}: {describe_counts(step['counts'])}"
    return facts
