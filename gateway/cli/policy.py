"""`fleetpush policy`: what an app lets be sent to people, over the public HTTP interface."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import (
    AsJson,
    CapExcess,
    CapOption,
    CapSegment,
    CapTag,
    DataDir,
    QuietExcess,
    QuietHours,
    ServerUrl,
    caps_of,
    changes,
    client_of,
    command_group,
    describe_caps,
    describe_hours,
    json_in,
    quiet_hours_of,
)
from gateway.cli.terminal import print_facts, print_json
from gateway.merge_patch import merge_patch

policy = command_group("Show and change the app's rules: consent, caps, quiet hours, critical pushes.")
CLEARABLE = ("caps", "quiet_hours", "joinable_topics", "approve_above")

Verdict = Literal["allow", "suppress"]


@policy.command("show")
def policy_show(server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The app's rules; what was never set has its default."""
    with client_of(server, data_dir) as client:
        print_policy(client.call("GET", "/v1/policy"), as_json)


@policy.command("change")
def policy_change(
    unknown: Annotated[Verdict | None, typer.Option(help="Alerts for people who have not answered")] = None,
    denied_in_app: Annotated[Verdict | None, typer.Option(help="in_app pushes for people who said no")] = None,
    denied_silent: Annotated[Verdict | None, typer.Option(help="Data for them")] = None,
    denied_command: Annotated[Verdict | None, typer.Option(help="Commands for them")] = None,
    cap: CapOption = None,
    cap_tag: CapTag = None,
    cap_segment: CapSegment = None,
    excess: CapExcess = None,
    quiet_hours: QuietHours = None,
    quiet_excess: QuietExcess = None,
    timezone: Annotated[str | None, typer.Option(help="As Europe/Berlin; of devices that have not said theirs")] = None,
    critical_per_day: Annotated[
        int | None, typer.Option(min=0, help="Critical pushes that may pass muted channels, caps and quiet hours")
    ] = None,
    joinable_topic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOPIC",
            help="Devices may join it by themselves, as news or league.*; may be repeated. It replaces those before",
        ),
    ] = None,
    approve_above: Annotated[
        int | None, typer.Option(min=0, help="Devices above which a command has to be a campaign that is approved")
    ] = None,
    clear: Annotated[list[str] | None, typer.Option(help=f"{', '.join(CLEARABLE)}; may be repeated")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change some of the app's rules; what is not given stays. What waits is checked anew.

    The policy is read and written whole: of two changes at the same moment the later one wins."""
    denied = _given({"in_app": denied_in_app, "silent": denied_silent, "command": denied_command})
    fields = {
        "consent": _given({"unknown": unknown, "denied": denied}),
        "caps": caps_of(cap, excess, cap_tag, cap_segment),
        "quiet_hours": quiet_hours_of(quiet_hours, quiet_excess),
        "timezone": timezone,
        "critical": _given({"per_day": critical_per_day}),
        "joinable_topics": joinable_topic,
        "approve_above": approve_above,
    }
    patch = changes(fields, clear, CLEARABLE)
    with client_of(server, data_dir) as client:
        current = client.call("GET", "/v1/policy")
        print_policy(client.call("PUT", "/v1/policy", json=merge_patch(current, patch)), as_json)


@policy.command("set")
def policy_set(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON, as `policy show --json` prints it; - reads it in")],
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Replace the app's rules by those of a file; what it leaves out gets its default. What waits is checked anew."""
    rules = json_in(file)
    with client_of(server, data_dir) as client:
        print_policy(client.call("PUT", "/v1/policy", json=rules), as_json)


@policy.command("critical-uses")
def policy_critical_uses(
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Every critical push that passed a muted channel, a cap or quiet hours, the newest first."""
    columns: Columns = {
        "at": "at",
        "device": lambda item: item["device_id"] or "(removed)",
        "push": lambda item: item["push_id"] or "(no longer kept)",
        "passed": "passed",
    }
    empty = "No critical push has passed anything."
    with client_of(server, data_dir) as client:
        path = "/v1/policy/critical-uses"
        print_list(client, path, columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


def print_policy(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    consent = found["consent"]
    print_facts(
        {
            "alerts, not asked yet": consent["unknown"],
            **{f"{kind}, consent denied": verdict for kind, verdict in consent["denied"].items()},
            "caps": describe_caps(found["caps"]) or "none",
            "quiet hours": describe_hours(found["quiet_hours"]) or "none",
            "timezone": found["timezone"],
            "critical": f"{found['critical']['per_day']} a day may pass",
            "topics that devices may join": ", ".join(found["joinable_topics"]) or "none",
            "commands to more devices": "need no approval"
            if found["approve_above"] is None
            else f"than {found['approve_above']} are campaigns that another key approves",
        }
    )


def _given(fields: dict[str, Any]) -> dict[str, Any] | None:
    """Return the fields that were given; None if there are none."""
    return {name: value for name, value in fields.items() if value is not None} or None
