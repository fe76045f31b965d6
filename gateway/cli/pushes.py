"""`fleetpush push` and `fleetpush watch`: send a push, and follow it to its end, over the public HTTP interface."""

from __future__ import annotations

import json
import mimetypes
import re
import time
from collections import Counter
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of
from gateway.cli.server_client import Refused, ServerClient, segment
from gateway.cli.terminal import (
    ENDED_UNDELIVERED,
    PROGRAM,
    Failure,
    describe_counts,
    ended_undelivered,
    fail,
    is_terminal,
    json_text,
    note,
    print_facts,
    print_json,
    print_table,
)

DURATION = re.compile(r"(\d+)([smhd]?)")
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
WATCH_INTERVAL = 0.5
SHOWN_LOSSES = 20
EXPLAINED = 1000
"""Deliveries that are looked at for the reasons of an answer: one page."""
LOOKED_AT = 100
"""The same at each look of `watch`, which looks often."""


def push(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[ID] [TEXT]", help="The device's id, then the text to show")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Instead of ID; may be repeated")] = None,
    tag: Annotated[str | None, typer.Option(help="All devices with this tag")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All devices")] = False,
    title: Annotated[str | None, typer.Option()] = None,
    action: Annotated[list[str] | None, typer.Option(metavar="ID[=TITLE]", help="A button; may be repeated")] = None,
    image: Annotated[str | None, typer.Option(help="A picture: its URL, or a file, which is uploaded")] = None,
    attach: Annotated[str | None, typer.Option(help="A file, or the URL of one")] = None,
    url: Annotated[str | None, typer.Option(help="What opening it opens")] = None,
    sound: Annotated[str | None, typer.Option()] = None,
    expires: Annotated[str | None, typer.Option(help="screen: it leaves the screen, too, when its ttl is over")] = None,
    data: Annotated[str | None, typer.Option(help="JSON for the program on the device")] = None,
    kind: Annotated[str | None, typer.Option(help="alert, in_app, silent or command")] = None,
    priority: Annotated[str | None, typer.Option(help="critical, high, normal or low")] = None,
    ttl: Annotated[str | None, typer.Option(help="Lifetime: seconds, or 90s, 10m, 8h, 2d; 0: now or never")] = None,
    collapse_key: Annotated[str | None, typer.Option(help="A newer push with this key replaces a waiting one")] = None,
    channel: Annotated[str | None, typer.Option()] = None,
    qos: Annotated[int | None, typer.Option(min=0, max=2)] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Repeating the command sends nothing new")] = None,
    forecast: Annotated[bool, typer.Option("--forecast", help="Who would get it; send nothing")] = False,
    follow: Annotated[bool, typer.Option("--watch", help="Stay until it has ended everywhere")] = False,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send a push: `push kiosk-1 'Hello' --action play`, or `push --all 'Hello'`."""
    target, text = target_and_text(words or [], device or [], tag, everyone)
    notification: dict[str, Any] = {"title": title, "body": text, "image": image, "url": url, "sound": sound}
    notification["expires"] = expires
    if action:
        notification["actions"] = [titled(choice) for choice in action]
    notification = {name: value for name, value in notification.items() if value is not None}
    body: dict[str, Any] = {
        "target": target,
        "notification": notification or None,
        "kind": kind,
        "priority": priority,
        "ttl": None if ttl is None else seconds_of(ttl),
        "collapse_key": collapse_key,
        "channel": channel,
        "qos": qos,
    }
    body = {name: value for name, value in body.items() if value is not None}
    if data is not None:
        try:
            body["data"] = json.loads(data)
        except ValueError as error:
            fail(f"--data is not JSON ({error}). Text needs its quotes inside: --data '\"text\"'", 2)
    if not notification and data is None and kind not in ("silent", "command"):
        fail("nothing to send: give a text, --title, --data, or --kind silent", 2)
    if attach is not None and not (title or text):
        fail("a file needs words: give a text or --title", 2)
    with client_of(server, data_dir) as client:
        if image is not None:
            notification["image"] = address_of(client, image)
        if attach is not None:
            notification["attachment"] = {"url": address_of(client, attach)}
            if not is_address(attach):
                notification["attachment"]["name"] = Path(attach).name[:128]
        if forecast:
            print_forecast(client.call("POST", "/v1/pushes/forecast", json=body), as_json)
            return
        accepted = client.post_push(body, idempotency_key)
        if as_json:
            print_json(accepted)
        else:
            print_accepted(client, accepted)
        if not accepted["targeted"]:
            note(f"{nobody(target)}, so nobody gets this push.")
        if follow:
            watch_push(client, accepted["push_id"], timeout=None, as_json=as_json)


def is_address(text: str) -> bool:
    return "://" in text or text.startswith("attachment:")


def address_of(client: ServerClient, text: str) -> str:
    """An address as it is; a file is uploaded, and is `attachment:ID` then."""
    if is_address(text):
        return text
    try:
        content = Path(text).read_bytes()
    except OSError as error:
        fail(f"{text!r} is no address (https://..), and no file that can be read: {error.strerror}", 2)
    kind = mimetypes.guess_type(text)[0] or "application/octet-stream"
    made = client.call("POST", "/v1/attachments", content=content, headers={"Content-Type": kind})
    return f"attachment:{made['id']}"


def target_and_text(
    words: list[str], device: list[str], tag: str | None, everyone: bool
) -> tuple[dict[str, Any], str | None]:
    chosen = [bool(device), tag is not None, everyone]
    if not any(chosen):
        if not words:
            fail("for whom? Give a device's id, --device, --tag or --all", 2)
        device, words = words[:1], words[1:]
    elif sum(chosen) > 1:
        fail("one target, please: an id, --device (repeated), --tag or --all", 2)
    if len(words) > 1:
        fail(f"what is {words[1]!r}? A text of several words needs quotes", 2)
    text = words[0] if words else None
    if everyone:
        return {"all": True}, text
    if tag is not None:
        return {"tag": tag}, text
    return ({"device": device[0]} if len(device) == 1 else {"devices": device}), text


def titled(choice: str) -> dict[str, str]:
    """`play` or `play=Listen now`."""
    action, _, label = choice.partition("=")
    return {"id": action, "title": label or action.replace("_", " ").replace("-", " ").capitalize()}


def seconds_of(duration: str) -> int:
    match = DURATION.fullmatch(duration)
    if match is None:
        fail(f"--ttl {duration!r}: seconds, or a number with s, m, h or d behind it", 2)
    return int(match[1]) * SECONDS[match[2]]


def print_accepted(client: ServerClient, accepted: dict[str, Any]) -> None:
    print(accepted["push_id"])
    parts = [f"accepted for {accepted['targeted']} device{'' if accepted['targeted'] == 1 else 's'}"]
    if accepted.get("suppressed"):
        reasons = suppression(client, accepted)
        parts.append(f"{accepted['suppressed']} of them suppressed" + (f" ({reasons})" if reasons else ""))
    if accepted.get("unknown"):
        parts.append(f"unknown: {', '.join(accepted['unknown'])}")
    note(f"{'; '.join(parts)}. Follow it: {PROGRAM} watch {accepted['push_id']}")


def nobody(target: dict[str, Any]) -> str:
    """Why a target is empty."""
    if "tag" in target:
        return f"No device has the tag {target['tag']!r} (`{PROGRAM} devices list` shows who has which)"
    return f"There are no devices yet (`{PROGRAM} devices add ID` enrols one)"


def suppression(client: ServerClient, accepted: dict[str, Any]) -> str:
    """`2 no_consent, 1 channel_muted`, without numbers where not all are looked at; empty for a key that may only
    send."""
    path = f"/v1/pushes/{segment(accepted['push_id'])}/deliveries"
    try:
        found = Counter(item["reason"] for item in client.items(path, EXPLAINED) if item["state"] == "suppressed")
    except Refused:
        return ""
    complete = found.total() == accepted["suppressed"]
    return ", ".join(f"{number} {reason}" if complete else str(reason) for reason, number in found.most_common())


def print_forecast(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print_facts(answer)


def watch(
    push_id: Annotated[str, typer.Argument(metavar="PUSH_ID")],
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
            if not counts["waiting"] and not (counts["sent"] and any_in_flight(client, path)):
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise Failure(f"still open after {timeout:g} s: {words}")
            time.sleep(WATCH_INTERVAL)
    finally:
        if is_terminal() and not as_json:
            print()
    if lost := ended_undelivered(counts):
        if not as_json:
            ended = (item for item in client.items(f"{path}/deliveries") if item["state"] in ENDED_UNDELIVERED)
            rows = [(item["device_id"], item["state"], item["reason"]) for item in islice(ended, SHOWN_LOSSES)]
            print_table(("device", "state", "reason"), rows, "")
        raise Failure(f"{lost} of {counts['targeted']} ended undelivered")


def deferred(client: ServerClient, path: str) -> str:
    """`; 2 deferred by caps or quiet hours, the first until 2026-12-01 07:00 CET`; empty if there is none."""
    found = (item for item in client.items(f"{path}/deliveries", LOOKED_AT) if item["state"] == "waiting")
    until = sorted(item["not_before"] for item in found if item["not_before"] is not None)
    if not until:
        return ""
    first = f"{datetime.fromisoformat(until[0]).astimezone():%Y-%m-%d %H:%M %Z}"
    return f"; {len(until)} deferred by caps or quiet hours, {'the first ' if len(until) > 1 else ''}until {first}"


def any_in_flight(client: ServerClient, path: str) -> bool:
    """Whether an acknowledgement is still owed. What was sent at QoS 0 gets none."""
    return any(item["state"] == "sent" and item["qos"] != 0 for item in client.items(f"{path}/deliveries"))
