"""`fleetpush analytics`: what worked, as funnels, over the public HTTP interface."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from gateway.cli.options import AsJson, DataDir, PushId, ServerUrl, client_of, command_group, time_of
from gateway.cli.server_client import segment
from gateway.cli.terminal import fail, is_terminal, note, print_facts, print_json, print_table
from gateway.printable import printable

analytics = command_group("What worked: funnels of a push, and by channel, tag, hour, campaign or variant.")
STAGES = ("targeted", "eligible", "delivered", "displayed", "dismissed", "opened", "acted", "opted_out")
RATES = ("delivered", "displayed", "opened", "acted", "opted_out")
TIMES = ("time_to_deliver_ms", "time_to_open_ms")


@analytics.command("push")
def analytics_push(
    push_id: PushId, server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """The funnel of a push: its stages, each with its share of the stage before, and the times."""
    with client_of(server, data_dir) as client:
        found = client.call("GET", f"/v1/analytics/pushes/{segment(push_id)}")
    if as_json:
        print_json(found)
        return
    stages = {name: share(found, name) for name in STAGES}
    times = {name.removesuffix("_ms"): describe_times(found[name]) for name in TIMES}
    print_facts({"push": found["push_id"], **stages, **times, "counted_at": found["counted_at"]})


@analytics.command("by")
def analytics_by(
    by: Annotated[
        Literal["channel", "tag", "hour", "campaign", "variant"],
        typer.Argument(metavar="channel|tag|hour|campaign|variant", help="What a line is for"),
    ],
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Of pushes accepted in the last 30d, or from a time on")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Accepted before 1d ago, or a time")] = None,
    form: Annotated[
        Literal["csv", "ndjson"] | None, typer.Option("--format", help="For spreadsheets, for databases")
    ] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The funnels of all pushes accepted in a time, together, by channel, tag, hour, campaign or variant.

    Each with its share of the stage before, and the median of the times to deliver; --json and --format have more."""
    if form is not None and as_json:
        fail("--json and --format: which of them?", 2)
    wanted = {
        "by": by,
        "from": None if since is None else time_of(since, "--from"),
        "to": None if to is None else time_of(to, "--to"),
        "format": form,
    }
    parameters = {name: value for name, value in wanted.items() if value is not None}
    with client_of(server, data_dir) as client:
        if form is not None:
            print_raw(client.request("GET", "/v1/analytics", params=parameters).content)
            return
        found = client.call("GET", "/v1/analytics", params=parameters)
    if as_json:
        print_json(found)
        return
    columns = (by, "targeted", *(name.replace("_", " ") for name in RATES), "p50 ms")
    rows = [
        (
            item[by] if item[by] is not None else "(none)",
            item["targeted"],
            *(share(item, name) for name in RATES),
            (item["time_to_deliver_ms"] or {}).get("p50"),
        )
        for item in found["items"]
    ]
    print_table(columns, rows, "Nothing was sent in that time.")
    if found.get("counted_from") is not None:
        note(
            f"Of hours before {found['counted_from']} there was too much to add up: ask for them with --from and --to."
        )
    elif found["limited"]:
        note("There may be more than these: 500 tags of a push and in an hour are counted, and 1,000 lines shown.")
    if found["uncounted"]:
        note(f"{found['uncounted']} pushes have changed and will be counted soon.")


def share(funnel: dict[str, Any], stage: str) -> str:
    """Format a stage and its share of the stage before, where there is one: `4 50.0%`."""
    rate = funnel["rates"].get(stage)
    return str(funnel[stage]) if rate is None else f"{funnel[stage]} {rate:.1%}"


def describe_times(times: dict[str, Any] | None) -> str | None:
    """Format percentiles: `p50 120 ms, p90 400 ms, p99 2100 ms`."""
    return None if times is None else ", ".join(f"{name} {value} ms" for name, value in times.items())


def print_raw(content: bytes) -> None:
    """A file's bytes as they are; on a terminal, what it would obey is taken out."""
    if is_terminal():
        print(printable(content.decode(errors="replace").replace("\r\n", "\n")), end="")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
