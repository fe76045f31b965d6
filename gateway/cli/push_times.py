"""Options of a push that say when it is sent: they make it a schedule, whose dates are shown before it is kept."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated, Any

import typer

from gateway.cli.options import HOURS, seconds_of, time_ahead
from gateway.cli.server_client import ServerClient
from gateway.cli.terminal import PROGRAM, fail, is_terminal, note, print_json

At = Annotated[str | None, typer.Option("--at", metavar="TIME", help="Send it then: 2026-12-01T09:00, or in 10m")]
AtLocal = Annotated[
    str | None,
    typer.Option("--at-local", metavar="TIME", help="By each device's own clock: 09:00, or 2026-12-01T09:00"),
]
RepeatOption = Annotated[
    str | None, typer.Option("--repeat", metavar="CRON", help="Again and again: '0 9 * * 1-5'; with --zone")
]
ZoneOption = Annotated[
    str | None,
    typer.Option("--zone", help="The clock of --repeat and --window: Europe/Vienna, or device (each its own)"),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Of --repeat: no date is later")]
Count = Annotated[int | None, typer.Option("--count", min=1, max=1_000, help="Of --repeat: so many dates")]
WindowOption = Annotated[
    str | None, typer.Option("--window", metavar="FROM-TO", help="Only within these hours: 08:00-20:00; with --zone")
]
Spread = Annotated[str | None, typer.Option("--spread", help="Over so long, device by device: seconds, or 10m")]
ScheduleName = Annotated[str | None, typer.Option("--name", help="Of a schedule: its name, for people")]
Missed = Annotated[
    str | None, typer.Option("--missed", help="Of a schedule: catch_up (the default) or skip what was missed")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]


def time_fields(
    at: str | None,
    at_local: str | None,
    repeat: str | None,
    zone: str | None,
    until: str | None,
    count: int | None,
    window: str | None,
    spread: str | None,
) -> dict[str, Any]:
    """Make the fields of a push of these options; none if none was given."""
    fields: dict[str, Any] = {}
    if at is not None:
        fields["send_at"] = time_ahead(at, "--at")
    if at_local is not None:
        fields["send_at_local"] = at_local
    if (repeat is not None or window is not None) and zone is None:
        fail("by whose clock? Give --zone Europe/Vienna, or --zone device (each device's own)", 2)
    if zone is not None and repeat is None and window is None:
        fail("--zone is for --repeat and --window", 2)
    if repeat is not None:
        fields["repeat"] = {"cron": repeat, "zone": zone}
        if until is not None:
            fields["repeat"]["until"] = time_ahead(until, "--until")
        if count is not None:
            fields["repeat"]["count"] = count
    elif until is not None or count is not None:
        fail("--until and --count are for --repeat", 2)
    if window is not None:
        match = HOURS.fullmatch(window)
        if match is None:
            fail(f"--window {window!r}: write 08:00-20:00", 2)
        fields["window"] = {"from": match[1], "to": match[2], "zone": zone}
    if spread is not None:
        fields["spread"] = seconds_of(spread, "--spread")
    return fields


def local_time(instant: str) -> str:
    """Format an instant of the server by this machine's clock, with its offset."""
    return datetime.fromisoformat(instant).astimezone().strftime("%a %Y-%m-%d %H:%M %z")


def send_scheduled(
    client: ServerClient,
    body: dict[str, Any],
    name: str | None,
    missed: str | None,
    idempotency_key: str | None,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Show the next dates of a push, ask on a terminal, and keep it as a schedule."""
    schedule: dict[str, Any] = {"push": body}
    if missed is not None:
        schedule["missed"] = missed
    if name is not None:
        schedule["name"] = name
    upcoming = client.call("POST", "/v1/schedules/preview", json=schedule)["next"]
    for instant in upcoming:
        note(f"  {local_time(instant)}")
    if is_terminal() and sys.stdin.isatty() and not yes and not typer.confirm("Send it then?", default=True, err=True):
        fail("not kept")
    if len(schedule) == 1:
        made = client.post_once(body, idempotency_key)
    else:
        made = client.post_once(schedule, idempotency_key, path="/v1/schedules")
    if as_json:
        print_json(made)
    else:
        print(made["schedule_id"])
        note(f"It is due then. Follow it: {PROGRAM} schedules show {made['schedule_id']}")
