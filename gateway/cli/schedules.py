"""`fleetpush schedules`: pushes with dates, over the public HTTP interface; `push --at` and its like make them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group, json_of
from gateway.cli.push_times import (
    At,
    AtLocal,
    Count,
    Missed,
    RepeatOption,
    ScheduleName,
    Spread,
    Until,
    WindowOption,
    ZoneOption,
    local_time,
    time_fields,
)
from gateway.cli.server_client import segment
from gateway.cli.terminal import PROGRAM, describe_counts, describe_devices, fail, note, print_facts, print_json

schedules = command_group("List, show, change, pause, resume, run, cancel schedules: pushes with dates.")

ScheduleId = Annotated[str, typer.Argument(metavar="SCHEDULE", help="The schedule's id")]


@schedules.command("list")
def schedules_list(
    state: Annotated[
        Literal["active", "paused", "ended", "cancelled"] | None, typer.Option(help="Only those in this state")
    ] = None,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All schedules, the newest first, with their next dates."""
    columns: Columns = {
        "schedule": "schedule_id",
        "name": "name",
        "state": "state",
        "next": lambda item: ", ".join(map(local_time, item["next"])),
        "when": lambda item: describe_times(item["push"]),
        "to": lambda item: describe_devices(item["push"]["target"]),
        "failures": lambda item: item["failures"] or None,
    }
    empty = f"No schedules yet. Make one: {PROGRAM} push --all 'Good morning' --repeat '0 9 * * 1-5' --zone device"
    with client_of(server, data_dir) as client:
        print_list(
            client, "/v1/schedules", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor, state=state
        )


@schedules.command("show")
def schedules_show(
    schedule: ScheduleId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """One schedule: its push, its next dates and its last run."""
    with client_of(server, data_dir) as client:
        print_schedule(client.call("GET", f"/v1/schedules/{segment(schedule)}"), as_json)


@schedules.command("runs")
def schedules_runs(
    schedule: ScheduleId,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The runs of a schedule, the newest first, with their pushes."""
    columns: Columns = {
        "run": "run",
        "due": lambda item: local_time(item["due"]),
        "state": "state",
        "why": lambda item: item["problem"] or item["reason"],
        "devices": "targeted",
        "left out": lambda item: item["left_out"] or None,
        "counts": lambda item: None if item["counts"] is None else describe_counts(item["counts"]),
        "pushes": "push_ids",
    }
    with client_of(server, data_dir) as client:
        path = f"/v1/schedules/{segment(schedule)}/runs"
        empty = "No date has come yet."
        print_list(client, path, columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor)


@schedules.command("change")
def schedules_change(
    schedule: ScheduleId,
    at: At = None,
    at_local: AtLocal = None,
    repeat: RepeatOption = None,
    zone: ZoneOption = None,
    until: Until = None,
    count: Count = None,
    window: WindowOption = None,
    spread: Spread = None,
    name: ScheduleName = None,
    missed: Missed = None,
    push: Annotated[
        str | None, typer.Option(metavar="JSON", help="Fields of its push, as in the API: null removes one")
    ] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change a schedule. A new time takes the place of the old one, whichever of the three it was."""
    fields = time_fields(at, at_local, repeat, zone, until, count, window, spread)
    times = {"send_at", "send_at_local", "repeat"}
    if times & set(fields):
        fields = dict.fromkeys(times) | fields
    if push is not None:
        given = json_of(push, "--push")
        if not isinstance(given, dict):
            fail("--push: an object with fields of the push", 2)
        fields |= given
    body: dict[str, Any] = {"name": name, "missed": missed, "push": fields or None}
    body = {field: value for field, value in body.items() if value is not None}
    if not body:
        fail("change what? Give --at, --repeat, --name or one of the others", 2)
    with client_of(server, data_dir) as client:
        print_schedule(client.call("PATCH", f"/v1/schedules/{segment(schedule)}", json=body), as_json)


@schedules.command("pause")
def schedules_pause(
    schedule: ScheduleId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Send nothing of a schedule until it is resumed."""
    _post(schedule, "pause", server, data_dir, as_json)


@schedules.command("resume")
def schedules_resume(
    schedule: ScheduleId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Go on with a schedule that was paused."""
    _post(schedule, "resume", server, data_dir, as_json)


@schedules.command("run")
def schedules_run(
    schedule: ScheduleId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Begin a run now, besides the dates."""
    _post(schedule, "run", server, data_dir, as_json)


@schedules.command("cancel")
def schedules_cancel(
    schedule: ScheduleId,
    recall: Annotated[bool, typer.Option("--recall", help="Also take back what was sent and has not ended")] = False,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send nothing more of a schedule. Its history stays for a while."""
    parameters = {"recall": "true"} if recall else {}
    with client_of(server, data_dir) as client:
        answer = client.call("DELETE", f"/v1/schedules/{segment(schedule)}", params=parameters)
    if as_json:
        print_json(answer)
        return
    taken_back = ""
    if recall:
        taken_back = "; recalled: {cancelled} cancelled, {in_flight} in flight, {too_late} too late".format(
            **answer["recalled"]
        )
    note(f"cancelled {schedule}; {answer['stopped']} devices had waited for their part{taken_back}")


def _post(schedule: str, verb: str, server: ServerUrl, data_dir: DataDir, as_json: bool) -> None:
    with client_of(server, data_dir) as client:
        print_schedule(client.call("POST", f"/v1/schedules/{segment(schedule)}/{verb}"), as_json)


def describe_times(push: dict[str, Any]) -> str:
    """Format when a push is sent, in a few words."""
    words = []
    if "send_at" in push:
        words.append(f"at {push['send_at']}")
    if "send_at_local" in push:
        words.append(f"at {push['send_at_local']} by each device's clock")
    if "repeat" in push:
        words.append(f"{push['repeat']['cron']} ({push['repeat']['zone']})")
    if "window" in push:
        words.append(f"within {push['window']['from']}-{push['window']['to']} ({push['window']['zone']})")
    if "spread" in push:
        words.append(f"over {push['spread']}s")
    return ", ".join(words)


def print_schedule(schedule: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(schedule)
        return
    push, run = schedule["push"], schedule["last_run"]
    facts = {
        "schedule": schedule["schedule_id"],
        "name": schedule["name"],
        "state": schedule["state"],
        "when": describe_times(push),
        "missed": schedule["missed"],
        "to": describe_devices(push["target"]),
        "next": ", ".join(map(local_time, schedule["next"])),
    }
    if schedule["failures"]:
        facts["failures"] = f"{schedule['failures']} in a row"
    if run is not None:
        why = run["problem"] or run["reason"]
        facts["last run"] = f"{local_time(run['due'])}: {run['state']}" + (f" ({why})" if why else "")
        if run["counts"] is not None:
            facts["counts"] = describe_counts(run["counts"])
    print_facts(facts)
