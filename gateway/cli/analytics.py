"""`fleetpush analytics`: what worked, as funnels, and what was too much, over the public HTTP interface."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from gateway.cli.options import AsJson, DataDir, PushId, ServerUrl, client_of, command_group, time_of
from gateway.cli.server_client import segment
from gateway.cli.terminal import fail, is_terminal, note, print_facts, print_json, print_table
from gateway.printable import printable

analytics = command_group("What worked, by push, channel, tag, hour, campaign or variant; and what was too much.")
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


@analytics.command("fatigue")
def analytics_fatigue(
    channel: Annotated[str | None, typer.Option(help="Only alerts of this channel")] = None,
    tag: Annotated[str | None, typer.Option(help="Only devices with this tag")] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="The last 60d, or days from a time on; 28d if left out")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Days before 7d ago, or a time")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The number of alerts at which people leave: who opts out, dismisses and opens, by alerts in the last seven days.

    A * marks what is significantly more than among those with fewest alerts of whom enough is known."""
    wanted = {
        "channel": channel,
        "tag": tag,
        "from": None if since is None else time_of(since, "--from"),
        "to": None if to is None else time_of(to, "--to"),
    }
    parameters = {name: value for name, value in wanted.items() if value is not None}
    with client_of(server, data_dir) as client:
        found = client.call("GET", "/v1/analytics/fatigue", params=parameters)
    if as_json:
        print_json(found)
        return
    columns = ("alerts in 7 days", "device-days", "opted out", "alerts", "dismissed", "opened", "p50 ms to open")
    rows = [
        (
            item["bucket"],
            item["device_days"],
            share_of_bucket(item, "opted_out"),
            item["alerts"],
            share_of_bucket(item, "dismissed"),
            share_of_bucket(item, "opened"),
            (item["time_to_open_ms"] or {}).get("p50"),
        )
        for item in found["buckets"]
    ]
    print_table(columns, rows, "Nothing is known.")
    note(f"Whole days from {found['since']} to {found['until']}. {describe_verdict(found)}")


def share_of_bucket(item: dict[str, Any], measure: str) -> str:
    """Format a count with its share, and a mark if that is significantly higher: `12 0.40% *`."""
    rate = item["rates"][measure]
    if rate is None:
        return str(item[measure])
    compared = (item["compared"] or {}).get(measure)
    mark = " *" if compared is not None and compared["verdict"] == "higher" else ""
    return f"{item[measure]} {rate['rate']:.2%}{mark}"


def describe_verdict(found: dict[str, Any]) -> str:
    """Say in a sentence at which number of alerts people leave."""
    if found["verdict"] == "not_enough_yet":
        return "There is not enough yet to compare: 100 device-days and alerts with few alerts and with many."
    names = {"opted_out": "more people opt out", "dismissed": "more alerts are dismissed"}
    said = [f"from {bucket} on {names[name]}" for name, bucket in found["leave_from"].items() if bucket is not None]
    return f"{' and '.join(said).capitalize()}." if said else "More alerts make no difference that can be seen."


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
