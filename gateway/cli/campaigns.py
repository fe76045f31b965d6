"""`fleetpush campaigns`: pushes with a plan, made of a file, watched and stopped, over the public HTTP interface."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group, json_in
from gateway.cli.server_client import ServerClient, segment
from gateway.cli.terminal import (
    PROGRAM,
    Failure,
    console,
    describe_counts,
    is_terminal,
    json_text,
    note,
    print_facts,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

campaigns = command_group("Pushes with a plan: make, forecast, list, show, watch, pause, resume, approve, abort.")

WATCH_INTERVAL_SECONDS = 1.0
BAR_CELLS = 30
MISSED_STATES = ("expired", "superseded", "cancelled", "overflowed", "refused", "revoked")
"""States of deliveries that reached nobody, as a bar shows them together."""

CampaignId = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="The campaign's id")]
PlanFile = Annotated[str, typer.Argument(metavar="FILE", help="JSON, as POST /v1/campaigns takes it; - reads it in")]
Reason = Annotated[str | None, typer.Option(help="Why, for people")]


@campaigns.command("create")
def campaigns_create(
    file: PlanFile,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key and file is one campaign, however often it is made")
    ] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Follow it to its end")] = False,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a campaign of a file. It starts at once or at its send_at, unless another key has to approve it."""
    plan = json_in(file)
    with client_of(server, data_dir) as client:
        made = client.post_once(plan, idempotency_key, path="/v1/campaigns")
        if as_json and not follow:
            print_json(made)
            return
        if not as_json:
            print(made["campaign_id"])
            note(f"{made['state']}: {made['targeted']} devices; {PROGRAM} campaigns watch {made['campaign_id']}")
        if follow:
            watch_campaign(client, made["campaign_id"], timeout=None, as_json=as_json)


@campaigns.command("forecast")
def campaigns_forecast(
    file: PlanFile, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show who would be in what if the campaign started now; sends nothing."""
    plan = json_in(file)
    with client_of(server, data_dir) as client:
        found = client.call("POST", "/v1/campaigns/forecast", json=plan)
    if as_json:
        print_json(found)
        return
    groups = found.pop("groups")
    variants = found.pop("variants")
    if variants is not None:
        found["variants"] = ", ".join(f"{variant['id']} {variant['size']}" for variant in variants)
    print_facts(found | {"unknown": ", ".join(found["unknown"]) or "none"})
    rows = [(group["group"], group["name"], group["size"], describe_pace(group["pace_ms"])) for group in groups]
    print_table(("group", "name", "devices", "next one"), rows, "No groups.")


@campaigns.command("list")
def campaigns_list(
    state: Annotated[str | None, typer.Option(help="Only those in this state, as running or paused")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All campaigns, the newest first."""
    columns: Columns = {
        "campaign": "campaign_id",
        "name": "name",
        "state": "state",
        "group": lambda item: f"{item['group']}/{item['groups']}" if item["groups"] else None,
        "devices": "targeted",
        "start at": "start_at",
        "reason": "reason",
    }
    empty = f"No campaigns yet. Make one: {PROGRAM} campaigns create FILE"
    with client_of(server, data_dir) as client:
        print_list(
            client, "/v1/campaigns", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor, state=state
        )


@campaigns.command("show")
def campaigns_show(
    campaign_id: CampaignId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """One campaign: its state and why, its groups and variants with counts, and its blast radius."""
    with client_of(server, data_dir) as client:
        print_campaign(client.call("GET", f"/v1/campaigns/{segment(campaign_id)}"), as_json)


@campaigns.command("holdout")
def campaigns_holdout(
    campaign_id: CampaignId,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The devices that a campaign sends nothing to."""
    columns: Columns = {"device": "device_id", "removed": lambda item: "yes" if item["removed"] else None}
    with client_of(server, data_dir) as client:
        path = f"/v1/campaigns/{segment(campaign_id)}/holdout"
        empty = "Nobody is held out."
        print_list(client, path, columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


@campaigns.command("watch")
def campaigns_watch(
    campaign_id: CampaignId,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which to give up, with exit code 1")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Follow a campaign until it has ended, or needs somebody. Exit code 1 if it did not complete."""
    with client_of(server, data_dir) as client:
        watch_campaign(client, campaign_id, timeout=timeout, as_json=as_json)


@campaigns.command("pause")
def campaigns_pause(
    campaign_id: CampaignId,
    reason: Reason = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have nothing more of a campaign sent. What was sent goes on."""
    command(campaign_id, "pause", server, data_dir, as_json, reason=reason)


@campaigns.command("resume")
def campaigns_resume(
    campaign_id: CampaignId,
    next_group: Annotated[bool, typer.Option("--next-group", help="Go on with the next group at once")] = False,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have a paused campaign go on. A condition that has stopped it is overruled until it counts more."""
    command(campaign_id, "resume", server, data_dir, as_json, next_group=next_group)


@campaigns.command("approve")
def campaigns_approve(
    campaign_id: CampaignId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Approve a campaign that awaits it, with another key than the one that made it."""
    command(campaign_id, "approve", server, data_dir, as_json)


@campaigns.command("abort")
def campaigns_abort(
    campaign_id: CampaignId,
    reason: Reason = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """End a campaign, and take back what still waits of it."""
    command(campaign_id, "abort", server, data_dir, as_json, reason=reason)


def command(campaign_id: str, verb: str, server: str | None, data_dir: Any, as_json: bool, **fields: Any) -> None:
    """Give a campaign a command, with the fields that are not None, and print how it stands then."""
    given = {name: value for name, value in fields.items() if value is not None}
    body = {} if verb == "approve" else {"json": given}
    with client_of(server, data_dir) as client:
        print_campaign(client.call("POST", f"/v1/campaigns/{segment(campaign_id)}/{verb}", **body), as_json)


def watch_campaign(client: ServerClient, campaign_id: str, *, timeout: float | None, as_json: bool) -> None:
    """Show a campaign, again and again, until it has ended or needs somebody."""
    path = f"/v1/campaigns/{segment(campaign_id)}"
    deadline = None if timeout is None else time.monotonic() + timeout
    draws = is_terminal() and not as_json
    said = ""
    with live_display() if draws else nullcontext() as live:
        while True:
            found = client.call("GET", path)
            if live is not None:
                live.update(draw_campaign(found), refresh=True)
            else:
                line = json_text(found) if as_json else describe_progress(found)
                if line != said:
                    print(line, flush=True)
                    said = line
            if found["state"] not in ("running", "scheduled"):
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise Failure(f"not at its end after {timeout:g} s: {found['state']}")
            time.sleep(WATCH_INTERVAL_SECONDS)
    if found["state"] != "completed":
        raise Failure(f"{found['state']}: {found['reason'] or 'another key has to approve it'}")


def live_display() -> Live:
    """A part of the terminal that is drawn anew with each look."""
    from rich.live import Live

    return Live(console=console(), auto_refresh=False)


def describe_progress(found: Mapping[str, Any]) -> str:
    """Format a campaign as a line: its group, and the counts of all that was sent."""
    group = f" group {found['group']} of {found['groups']}" if found["groups"] else ""
    phase = f" ({found['phase']})" if found["phase"] else ""
    why = f": {found['reason']}" if found["reason"] else ""
    counts = describe_counts(found["counts"]) if found["counts"]["targeted"] else "nothing sent"
    return f"{found['state']}{group}{phase}{why}; {counts}"


def draw_campaign(found: Mapping[str, Any]) -> Group:
    """Draw a campaign: a bar for each group, by how far its deliveries have come."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for group in found["group_results"]:
        current = "›" if group["group"] == found["group"] and found["ended_at"] is None else " "
        table.add_row(
            current,
            f"{group['group']}",
            Text(group["name"]),
            draw_bar(group),
            f"{group['counts']['targeted']}/{group['size']}",
            describe_counts(group["counts"]) if group["counts"]["targeted"] else group["state"],
        )
    return Group(Text(describe_progress(found)), table)


def draw_bar(group: Mapping[str, Any]) -> Any:
    """Draw how far the devices of a group have come: acted, delivered, waiting, missed, not sent."""
    from rich.text import Text

    counts, reached = group["counts"], group["reached"]
    missed = sum(counts[state] for state in MISSED_STATES)
    parts = (
        ("█", "green", reached["acted"] - group["failed"]),
        ("█", "red", missed + group["failed"]),
        ("▓", "cyan", reached["delivered"] - reached["acted"]),
        ("▒", "yellow", counts["waiting"] + counts["sent"]),
    )
    whole = max(group["size"], counts["targeted"], 1)
    bar = Text()
    filled = reached_cells = 0
    for letter, style, count in parts:
        filled += count
        cells = round(BAR_CELLS * filled / whole) - reached_cells
        bar.append(letter * cells, style=style)
        reached_cells += cells
    bar.append("░" * (BAR_CELLS - reached_cells), style="dim")
    return bar


def describe_pace(pace_ms: int | None) -> str:
    return "when its conditions and time say so" if pace_ms is None else f"after {pace_ms / 1000:g} s"


def describe_goal(variant: Mapping[str, Any]) -> str:
    """Format what a variant has achieved: `12 of 100: 12.0% (7.0% to 19.8%)`."""
    goal = variant["goal"]
    if goal["rate"] is None:
        return "nothing sent"
    low, high = goal["interval"]
    return f"{goal['count']} of {goal['of']}: {goal['rate']:.1%} ({low:.1%} to {high:.1%})"


def describe_conditions(found: Mapping[str, Any], kind: str) -> str | None:
    """Format the conditions of the present group, with how far each has come; None if it has none of this kind."""
    present = [group for group in found["group_results"] if group["group"] == found["group"]]
    texts = [one["condition"] for group in present for one in group["conditions"] if one["kind"] == kind]
    return ", ".join(texts) or None


def describe_result(result: Mapping[str, Any]) -> str:
    """Format the comparison of the variants."""
    words = {
        "not_enough": "not enough yet to tell",
        "no_difference": "no difference that is more than chance",
        "winner": f"{result['winner']} is better",
    }[result["verdict"]]
    return f"{words} ({result['goal']}, {result['confidence']:.0%}{', preliminary' if result['preliminary'] else ''})"


def print_campaign(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    facts: dict[str, Any] = {
        "campaign": found["campaign_id"],
        "name": found["name"],
        "state": found["state"] if found["phase"] is None else f"{found['state']}, {found['phase']}",
        "reason": found["reason"],
        "devices": found["targeted"],
        "holdout": found["holdout"] or None,
        "blast radius": found["blast_radius"],
        "failed": found["failed"] or None,
        "counts": describe_counts(found["counts"]),
        "start at": found["start_at"],
        "ended at": found["ended_at"],
    }
    for kind in ("go_on", "stop"):
        facts[f"{kind.replace('_', ' ')} if"] = describe_conditions(found, kind)
    for variant in found["variants"] or ():
        facts[f"variant {variant['id']}"] = describe_goal(variant)
    if found["result"] is not None:
        facts["result"] = describe_result(found["result"])
    print_facts(facts)
    rows = [
        (
            group["group"],
            group["name"],
            group["size"],
            "not sent" if found["ended_at"] is not None and group["state"] == "waiting" else group["state"],
            describe_counts(group["counts"]) if group["counts"]["targeted"] else "",
            ", ".join(part["push_id"] for part in group["parts"][:3]) + (", .." if len(group["parts"]) > 3 else ""),
        )
        for group in found["group_results"]
    ]
    print_table(("group", "name", "devices", "state", "counts", "pushes"), rows, "Its target is not frozen yet.")
