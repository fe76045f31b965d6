"""`fleetpush stats`: an overview of an app and of the server, over the public HTTP interface.

The figures are those of an overview: what is online, what waits, what the last minutes have brought, and what needs
somebody. A line for each minute; `--json` has every curve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of
from gateway.cli.terminal import note, print_facts, print_json, print_table

SHOWN_MINUTES = 10
COLUMNS = ("pushes", "targeted", "delivered", "displayed", "opened", "acted", "undelivered", "online", "waiting")
ENDS = ("expired", "superseded", "cancelled", "overflowed", "refused", "suppressed", "revoked")


def stats(
    minutes: Annotated[int, typer.Option(min=1, max=120, help="Minutes to show")] = SHOWN_MINUTES,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """An overview: pushes and deliveries of the last minutes, devices online, and what needs somebody."""
    with client_of(server, data_dir) as client:
        found = client.call("GET", "/v1/stats", params={"minutes": minutes})
    if as_json:
        print_json(found)
        return
    print_facts(dict(facts(found)))
    print()
    print_table(("minute", *COLUMNS), list(minute_rows(found["curves"])), "")
    for line in complaints(found):
        note(line)


def facts(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the figures of an app, and of the server if they are shown."""
    yield "online", f"{found['online']} of {found['devices']} devices"
    counted = found["waiting_counted_at"]
    yield "waiting", found["waiting"] if counted is not None else None
    webhooks = found["webhooks"]
    yield "webhooks", f"{webhooks['enabled']} enabled, {len(webhooks['failing'])} failing, {webhooks['disabled']} off"
    yield "known since", found["since"]
    server = found["server"]
    if server is not None:
        yield "version", server["version"]
        yield "disk left", f"{server['disk_left_bytes'] / 2**30:.1f} GiB"
        for certificate in server["certificates"]:
            yield f"certificate {certificate['name']}", f"ends {certificate['ends_at']}"


def minute_rows(curves: dict[str, Any]) -> Iterator[Sequence[Any]]:
    """A row for each minute: its time of day (UTC), and COLUMNS."""
    first = datetime.fromisoformat(curves["from"])
    for place in range(len(curves["pushes"])):
        begins = first + timedelta(seconds=place * curves["step_seconds"])
        minute = {name: curves[name][place] for name in curves if name not in ("from", "step_seconds")}
        minute["undelivered"] = sum(minute[end] for end in ENDS)
        yield (f"{begins:%H:%M}", *(minute[name] for name in COLUMNS))


def complaints(found: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each thing that needs somebody."""
    for webhook in found["webhooks"]["failing"]:
        yield f"Webhook {webhook['id']} fails since {webhook['since']}: {webhook['last_error']}"
    if found["heartbeats_silent"]:
        yield f"{found['heartbeats_silent']} devices of heartbeats do not answer."
    if found["senders_silent"]:
        yield f"{found['senders_silent']} senders that are watched are silent."
    for alert in (found["server"] or {}).get("alerts", ()):
        yield f"{alert['severity']}: {alert['name']}: {alert['summary']}"
