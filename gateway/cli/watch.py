"""`fleetpush watch`: follow a push to its end, over the public HTTP interface."""

from __future__ import annotations

import time
from datetime import datetime
from itertools import islice
from typing import Annotated

import typer

from gateway.cli.options import AsJson, DataDir, PushId, ServerUrl, client_of
from gateway.cli.server_client import ServerClient, segment
from gateway.cli.terminal import (
    ENDED_UNDELIVERED,
    PROGRAM,
    Failure,
    describe_counts,
    ended_undelivered,
    is_terminal,
    json_text,
    note,
    print_table,
)

WATCH_INTERVAL_SECONDS = 0.5
SHOWN_LOSSES = 20
EXPLAINED_DELIVERIES = 100
"""Waiting deliveries that are read for what defers them, each time."""


def watch(
    push_id: PushId,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which to give up, with exit code 1")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Follow a push until nothing of it waits any more. Exit code 1 if some of it ended undelivered."""
    with client_of(server, data_dir) as client:
        watch_push(client, push_id, timeout=timeout, as_json=as_json)


def watch_push(client: ServerClient, push_id: str, *, timeout: float | None, as_json: bool) -> None:
    path = f"/v1/pushes/{segment(push_id)}"
    deadline = None if timeout is None else time.monotonic() + timeout
    said = ""
    try:
        while True:
            found = client.call("GET", path)
            counts = found["counts"]
            words = describe_counts(counts) + (deferred(client, path) if counts["waiting"] else "")
            line = json_text(found) if as_json else f"{push_id}  {words}"
            if line != said:
                # A terminal keeps one line, a pipe gets a line per change.
                if is_terminal() and not as_json:
                    print(f"\r\033[K{line}", end="", flush=True)
                else:
                    print(line, flush=True)
                said = line
            if not counts["waiting"] and not (counts["sent"] and any_in_flight(client, path, counts["sent"])):
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise Failure(f"still open after {timeout:g} s: {words}")
            time.sleep(WATCH_INTERVAL_SECONDS)
    finally:
        if is_terminal() and not as_json:
            print()
    if lost := ended_undelivered(counts):
        if not as_json:
            print_losses(client, push_id, counts)
        raise Failure(f"{lost} of {counts['targeted']} ended undelivered")


def print_losses(client: ServerClient, push_id: str, counts: dict[str, int]) -> None:
    """The first deliveries that ended undelivered, and how to list them all."""
    states = [state for state in ENDED_UNDELIVERED if counts[state]]
    path = f"/v1/pushes/{segment(push_id)}/deliveries"
    lost = islice((item for state in states for item in client.items(path, SHOWN_LOSSES, state=state)), SHOWN_LOSSES)
    rows = [(item["device_id"], item["state"], item["reason"]) for item in lost]
    print_table(("device", "state", "reason"), rows, "")
    if (more := ended_undelivered(counts) - len(rows)) > 0:
        commands = ", ".join(f"`{PROGRAM} pushes deliveries {push_id} --state {state}`" for state in states)
        note(f"And {more} more. All of them: {commands}")


def deferred(client: ServerClient, path: str) -> str:
    """Format the deliveries that wait for their time; empty if there is none. For example `; 2 deferred by caps or
    quiet hours, the first until 2026-12-01 07:00 CET`."""
    found = client.items(f"{path}/deliveries", EXPLAINED_DELIVERIES, state="waiting")
    until = sorted(item["not_before"] for item in found if item["not_before"] is not None)
    if not until:
        return ""
    first = f"{datetime.fromisoformat(until[0]).astimezone():%Y-%m-%d %H:%M %Z}"
    return f"; {len(until)} deferred by caps or quiet hours, {'the first ' if len(until) > 1 else ''}until {first}"


def any_in_flight(client: ServerClient, path: str, sent: int) -> bool:
    """Tell whether an acknowledgement is owed, or has come since `sent` deliveries were counted. Then those counts are
    not the last ones. What was sent at QoS 0 gets no acknowledgement."""
    found = 0
    for item in client.items(f"{path}/deliveries", state="sent"):
        if item["qos"] != 0:
            return True
        found += 1
    return found != sent
