"""`fleetpush devices tag` and `devices remove`: one device, several, or all for which an expression is true.

Devices of an expression are counted first, and named to the person, who answers with their number or gives it as
`--expect`: a slip of the pen in an expression must not cost a fleet.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of
from gateway.cli.server_client import ServerClient, segment
from gateway.cli.terminal import fail, is_terminal, note, print_json

CHANGED_DEVICES = 1_000
"""Devices that the API changes with one request."""
Where = Annotated[
    str | None, typer.Option(metavar="EXPRESSION", help="For which this is true, as \"'hall' in tags && !online\"")
]
Devices = Annotated[list[str] | None, typer.Argument(metavar="[ID]..", help="Ids of devices")]
Expect = Annotated[
    int | None, typer.Option(min=0, metavar="COUNT", help="With --where: do it without asking if it selects so many")
]


def devices_tag(
    devices: Devices = None,
    add: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Give it; may be repeated")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Take it away; may be repeated")] = None,
    where: Where = None,
    expect: Expect = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Give tags to devices and take tags from them, by id or by an expression."""
    if not add and not remove:
        fail("which tags? Give --add TAG or --remove TAG", 2)
    change = {"add": add or [], "remove": remove or []}
    with client_of(server, data_dir) as client:
        found = _change(client, "/v1/devices/tags", change, devices, where, expect, "other tags for")
    _print_results(found, "changed", as_json)


def devices_remove(
    devices: Devices = None,
    where: Where = None,
    expect: Expect = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove devices, by id or by an expression: what waits for them ends `revoked`, and their connections close."""
    with client_of(server, data_dir) as client:
        if devices and len(devices) == 1 and where is None and expect is None and not as_json:
            client.call("DELETE", f"/v1/devices/{segment(devices[0])}")
            note(f"removed {devices[0]}")
            return
        found = _change(client, "/v1/devices/removal", {}, devices, where, expect, "remove")
    _print_results(found, "removed", as_json)


def _change(
    client: ServerClient,
    path: str,
    change: dict[str, Any],
    devices: list[str] | None,
    where: str | None,
    expect: int | None,
    question: str,
) -> list[dict[str, Any]]:
    """Change devices part by part; the result of each."""
    if (not devices) == (where is None):
        fail("which devices? Give their ids, or --where EXPRESSION", 2)
    found: list[dict[str, Any]] = []
    if devices:
        if expect is not None:
            fail("--expect belongs to --where", 2)
        for start in range(0, len(devices), CHANGED_DEVICES):
            body = {**change, "devices": devices[start : start + CHANGED_DEVICES]}
            found += client.call("POST", path, json=body)["devices"]
        return found
    expected = expect if expect is not None else _confirmed(client, where or "", question)
    body = {**change, "filter": {"where": where}, "expected": expected}
    while True:
        answer = client.call("POST", path, json=body)
        found += answer["devices"]
        if answer["next_cursor"] is None:
            return found
        note(f"{len(found)} of {expected} ..")
        # Those that have come to be selected meanwhile are not of the number that somebody has agreed to.
        left = expected - len(found)
        body = {**change, "filter": {"where": where}, "cursor": answer["next_cursor"], "expected": left}


def _confirmed(client: ServerClient, where: str, question: str) -> int:
    """Count the devices of an expression, name some, and ask; their number, if the person answers with it."""
    selected = client.call("POST", "/v1/segments/preview", json={"expression": where})
    count: int = selected["devices"]
    if not count:
        fail("it selects no device")
    named = ", ".join(selected["examples"])
    others = ", .." if count > len(selected["examples"]) else ""
    if not is_asked():
        fail(f"it selects {count} devices ({named}{others}): give --expect {count} to do it", 2)
    note(f"{question} {count} devices: {named}{others}")
    if typer.prompt("Type their number to go on", err=True) != str(count):
        fail("nothing was changed")
    return count


def is_asked() -> bool:
    """Whether there is a person who can answer."""
    return is_terminal() and sys.stdin.isatty()


def _print_results(found: list[dict[str, Any]], verb: str, as_json: bool) -> None:
    """Print what became of devices; exit code 1 if one could not be changed."""
    failed = [item for item in found if "error" in item]
    if as_json:
        print_json({"devices": found})
    else:
        unchanged = sum(1 for item in found if item.get("result") == "unchanged")
        also = f", {unchanged} unchanged" if unchanged else ""
        print(f"{len(found) - len(failed) - unchanged} {verb}{also}")
        for item in failed:
            note(f"{item['device_id']}: {item['error']['detail']}")
    if failed:
        raise typer.Exit(1)
