"""`fleetpush push`: send a push over the public HTTP interface, with the files that belong to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.attachments import upload
from gateway.cli.options import (
    AsJson,
    DataDir,
    ServerUrl,
    Values,
    client_of,
    json_of,
    name_and_value,
    name_and_version,
    seconds_of,
)
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
    Yes,
    ZoneOption,
    send_scheduled,
    time_fields,
)
from gateway.cli.server_client import RequestRefused, ServerClient, segment
from gateway.cli.signing import AppOption, DeviceKeys, Encrypt, SignWith, read_signed, signed_body
from gateway.cli.terminal import (
    ENDED_UNDELIVERED,
    PROGRAM,
    Failure,
    fail,
    note,
    print_facts,
    print_facts_and_hints,
    print_json,
)
from gateway.cli.watch import watch_push

LONGEST_WAIT_SECONDS = 60
"""Seconds, as the API has it."""
EXPLAINED_DELIVERIES = 1000
"""Suppressed deliveries that are read for the reasons of an answer: one page."""


def push(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[ID] [TEXT]", help="The device's id, then the text to show")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Instead of ID; may be repeated")] = None,
    tag: Annotated[str | None, typer.Option(help="All devices with this tag")] = None,
    topic: Annotated[str | None, typer.Option(help="All devices in this topic")] = None,
    condition: Annotated[
        str | None, typer.Option(help='Devices by topics, as \'"news" in topics && !("beta" in topics)\'')
    ] = None,
    where: Annotated[str | None, typer.Option(help="Devices by an expression, as \"attributes.model == 'K2'\"")] = None,
    segment_name: Annotated[
        str | None, typer.Option("--segment", help="Devices by the expression of this saved segment")
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All devices")] = False,
    duty: Annotated[
        str | None, typer.Option(help="A duty: its steps, one after the other, until somebody acts")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Line above the text")] = None,
    action: Annotated[list[str] | None, typer.Option(metavar="ID[=TITLE]", help="A button; may be repeated")] = None,
    image: Annotated[str | None, typer.Option(help="A picture: its URL, or a file, which is uploaded")] = None,
    attach: Annotated[str | None, typer.Option(help="A file, or the URL of one")] = None,
    url: Annotated[str | None, typer.Option(help="What opening it opens")] = None,
    sound: Annotated[str | None, typer.Option(help="Name of a sound on the device")] = None,
    expires: Annotated[str | None, typer.Option(help="screen: it leaves the screen, too, when its ttl is over")] = None,
    data: Annotated[str | None, typer.Option(help="JSON for the program on the device")] = None,
    kind: Annotated[str | None, typer.Option(help="alert, in_app, silent or command")] = None,
    priority: Annotated[str | None, typer.Option(help="critical, high, normal or low")] = None,
    ttl: Annotated[str | None, typer.Option(help="Lifetime: seconds, or 90s, 10m, 8h, 2d; 0: now or never")] = None,
    collapse_key: Annotated[str | None, typer.Option(help="A newer push with this key replaces a waiting one")] = None,
    channel: Annotated[str | None, typer.Option(help="Channel by which people can mute it")] = None,
    qos: Annotated[int | None, typer.Option(min=0, max=2, help="MQTT QoS. Default: 1")] = None,
    deadline: Annotated[str | None, typer.Option(help="Of a command, for its result: seconds, or 5m")] = None,
    template: Annotated[
        str | None, typer.Option(metavar="NAME[@VERSION]", help="A saved template, whose content the push has")
    ] = None,
    value: Values = None,
    render: Annotated[
        str | None, typer.Option(help="liquid: the texts are templates, such as 'Hello {{ device.name }}'")
    ] = None,
    texts: Annotated[str | None, typer.Option(help='JSON of texts by locale: \'{"de": {"title": ".."}}\'')] = None,
    missing: Annotated[
        str | None, typer.Option("--on-missing", help="refuse, or leave_out: devices that lack what a text needs")
    ] = None,
    sign: SignWith = None,
    encrypt: Encrypt = False,
    app: AppOption = "default",
    device_keys: DeviceKeys = None,
    signed: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `signing` has signed before, here or elsewhere")
    ] = None,
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
    yes: Yes = False,
    idempotency_key: Annotated[str | None, typer.Option(help="Repeating the command sends nothing new")] = None,
    forecast: Annotated[bool, typer.Option("--forecast", help="Who would get it; send nothing")] = False,
    preview: Annotated[str | None, typer.Option(metavar="ID", help="What this device would get; send nothing")] = None,
    keep_forecast: Annotated[
        bool, typer.Option("--keep-forecast", help="Send it, and keep who was expected to get it beside who does")
    ] = False,
    follow: Annotated[bool, typer.Option("--watch", help="Stay until it has ended everywhere")] = False,
    wait: Annotated[
        str | None,
        typer.Option(help="Until one device has it: seconds, or 1m; at most 60 s. Exit code 1 if it has not"),
    ] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send a push: `push kiosk-1 'Hello' --action play`, or `push --all 'Hello'`."""
    selections = {
        "tag": tag,
        "topic": topic,
        "condition": condition,
        "where": where,
        "segment": segment_name,
        "all": everyone or None,
        "duty": duty,
    }
    target, text = target_and_text(words or [], device or [], selections)
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
        "render": render,
        "texts": None if texts is None else json_of(texts, "--texts"),
        "template": template_use(template, value),
        "on_missing": missing,
        "deadline": None if deadline is None else seconds_of(deadline, "--deadline"),
    }
    body = {field: value for field, value in body.items() if value is not None}
    times = time_fields(at, at_local, repeat, zone, until, count, window, spread)
    body |= times
    if not times and (name is not None or missed is not None):
        fail("--name and --missed are of a schedule: give --at, --repeat or another time", 2)
    if times and (follow or wait is not None or keep_forecast):
        fail("--watch, --wait and --keep-forecast are for what is sent now: see `schedules runs` when it is due", 2)
    if data is not None:
        body["data"] = json_of(data, "--data")
    if (sign, encrypt) == (None, True) or None not in (sign, signed):
        fail("--encrypt needs --sign, and --signed is signed already", 2)
    if sign is not None and idempotency_key is not None:
        fail("--sign signs anew each time: sign once with `signing push`, and repeat `push --signed`", 2)
    shows = notification or texts is not None or template is not None
    if not shows and data is None and kind not in ("silent", "command"):
        if signed is not None:
            fail("--signed needs the --kind that was signed: --kind command, for example", 2)
        to = f" to {target['device']!r}" if "device" in target else ""
        fail(f"nothing to send{to}: give a text, --title, --data, or --kind silent", 2)
    wait_seconds = None if wait is None else seconds_of(wait, "--wait")
    if wait_seconds is not None and not 1 <= wait_seconds <= LONGEST_WAIT_SECONDS:
        fail(f"--wait {wait!r}: 1 s to {LONGEST_WAIT_SECONDS} s. --watch stays until the push has ended", 2)
    if attach is not None and not (title or text or template):
        fail("a file needs words: give a text or --title", 2)
    if sign is not None:
        body = signed_body(body, sign, app, encrypt=encrypt, device_keys=device_keys)
    if signed is not None:
        body |= read_signed(signed)
    if render is None and any("{{" in shown for shown in (title, text) if shown is not None):
        note("{{ .. }} is sent as it is: with --render liquid the texts are templates")
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
        if preview is not None:
            shown = client.call("POST", "/v1/pushes/preview", json={"push": body, "device": preview})
            print_rendered(shown, preview, as_json)
            return
        if times:
            send_scheduled(client, body, name, missed, idempotency_key, yes=yes, as_json=as_json)
            return
        accepted = client.post_once(body, idempotency_key, wait_seconds, forecast=keep_forecast)
        if as_json:
            print_json(accepted)
        else:
            print_accepted(client, accepted)
        if not accepted["targeted"]:
            note(nobody(target))
        if wait_seconds is not None:
            check_delivery(accepted, wait_seconds)
        if follow:
            watch_push(client, accepted["push_id"], timeout=None, as_json=as_json)


def template_use(template: str | None, values: list[str] | None) -> dict[str, Any] | None:
    """Read a template as a person writes it: `lunch` or `lunch@3`."""
    if template is None:
        if values:
            fail("--value is for a --template", 2)
        return None
    name, version = name_and_version(template, "--template")
    use: dict[str, Any] = {"name": name} if version is None else {"name": name, "version": version}
    return use | ({"values": dict(name_and_value(text, "--value") for text in values)} if values else {})


def is_address(text: str) -> bool:
    return "://" in text or text.startswith("attachment:")


def address_of(client: ServerClient, text: str) -> str:
    """An address as it is; a file is uploaded, and is `attachment:ID` then."""
    if is_address(text):
        return text
    return f"attachment:{upload(client, text)['id']}"


def target_and_text(
    words: list[str], device: list[str], selections: Mapping[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """Tell the target from the text. `selections`: what may be given instead of devices, None if it is not."""
    target = {name: value for name, value in selections.items() if value is not None}
    options = ", ".join(f"--{name}" for name in selections)
    if not target and not device:
        if not words:
            fail(f"for whom? Give a device's id, --device, or one of {options}", 2)
        device, words = words[:1], words[1:]
    elif len(target) + bool(device) > 1:
        fail(f"one target, please: an id, --device (repeated), or one of {options}", 2)
    if len(words) > 1:
        fail(f"what is {words[1]!r}? A text of several words needs quotes", 2)
    text = words[0] if words else None
    if target:
        return target, text
    return ({"device": device[0]} if len(device) == 1 else {"devices": device}), text


def titled(choice: str) -> dict[str, str]:
    """Read an action as a person writes it: `play` or `play=Listen now`."""
    action, _, label = choice.partition("=")
    return {"id": action, "title": label or action.replace("_", " ").replace("-", " ").capitalize()}


def print_accepted(client: ServerClient, accepted: dict[str, Any]) -> None:
    print(accepted["push_id"])
    parts = [f"accepted for {accepted['targeted']} device{'' if accepted['targeted'] == 1 else 's'}"]
    if accepted.get("suppressed"):
        reasons = suppression(client, accepted)
        parts.append(f"{accepted['suppressed']} of them suppressed" + (f" ({reasons})" if reasons else ""))
    if accepted.get("unknown"):
        parts.append(f"unknown: {', '.join(accepted['unknown'])}")
    note(f"{'; '.join(parts)}. Follow it: {PROGRAM} watch {accepted['push_id']}")


def check_delivery(accepted: dict[str, Any], wait_seconds: int) -> None:
    """Say how the delivery went that was waited for. Raises Failure if the device has not got it."""
    push_id = accepted["push_id"]
    if "delivery" not in accepted:
        raise Failure(f"not delivered in {wait_seconds} s; it goes on: `{PROGRAM} watch {push_id}`")
    delivery = accepted["delivery"]
    if delivery["state"] in ENDED_UNDELIVERED:
        raise Failure(f"not delivered: {delivery['state']} ({delivery['reason'] or 'no reason'})")
    note(f"It is {delivery['state']}.")


def nobody(target: dict[str, Any]) -> str:
    """Explain why a target is empty."""
    if "duty" in target:
        return "The first step is for nobody: the next one follows at once."
    if "tag" in target:
        why = f"No device has the tag {target['tag']!r} (`{PROGRAM} devices list` shows who has which)"
    elif "topic" in target:
        why = f"No device is in the topic {target['topic']!r} (`{PROGRAM} topics join` has some join it)"
    elif "all" not in target:
        why = f"No device matches now (`{PROGRAM} segments try EXPRESSION` shows whom an expression selects)"
    else:
        why = f"There are no devices yet (`{PROGRAM} devices add ID` enrols one)"
    return f"{why}, so nobody gets this push."


def suppression(client: ServerClient, accepted: dict[str, Any]) -> str:
    """List why deliveries were suppressed: `2 no_consent, 1 channel_muted`. It is without numbers where not all are
    looked at, and empty for a key that may only send."""
    path = f"/v1/pushes/{segment(accepted['push_id'])}/deliveries"
    try:
        found = Counter(item["reason"] for item in client.items(path, EXPLAINED_DELIVERIES, state="suppressed"))
    except RequestRefused:
        return ""
    complete = found.total() == accepted["suppressed"]
    return ", ".join(f"{number} {reason}" if complete else str(reason) for reason, number in found.most_common())


def print_forecast(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        missing = [
            f"{one['variable']} for {one['devices']}, such as {', '.join(one['examples'])}"
            for one in answer.get("missing") or ()
        ]
        facts = answer | {rule: describe_limit(answer[rule]) for rule in ("capped", "quiet_hours") if rule in answer}
        facts |= {"missing": "; ".join(missing)} if missing else {}
        facts |= {"sampled": "caps and quiet hours, of 5,000 devices" if answer.get("sampled") else None}
        print_facts_and_hints(facts)


def print_rendered(rendered: dict[str, Any], device: str, as_json: bool) -> None:
    """Show what a device would get. Ends with code 1 if it lacks something."""
    if as_json:
        print_json(rendered)
    elif rendered["push"] is not None:
        print_facts(rendered["push"] | {"bytes": rendered["size"]})
    if rendered["missing"]:
        missing = ", ".join(f"{one['variable']} (for {one['where']})" for one in rendered["missing"])
        fail(f"{device} lacks {missing}", 1)


def describe_limit(counts: dict[str, int]) -> str:
    """Format what a rule would hold back: `3 dropped, 1 deferred`; empty if it is nothing."""
    return ", ".join(f"{number} {what}" for what, number in counts.items() if number)
