"""`fleetpush call`: an order to a device and its answer, over the public HTTP interface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gateway.cli.options import AsJson, DataDir, DeviceId, ServerUrl, client_of, json_of, seconds_of
from gateway.cli.server_client import TIMEOUT_SECONDS, segment
from gateway.cli.signing import AppOption, DeviceKeys, Encrypt, SignWith, signed_body
from gateway.cli.terminal import PROGRAM, Failure, fail, print_json

LONGEST_WAIT_SECONDS = 120
"""Seconds, as the API has it."""


def call(
    device_id: DeviceId,
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="What it is to do, as reboot")],
    data: Annotated[str | None, typer.Option(help="What the command needs: a JSON object")] = None,
    wait: Annotated[str, typer.Option(help="For the answer: seconds, or 2m; at most 120 s")] = "10",
    ttl: Annotated[str | None, typer.Option(help="How late it may still be carried out. Default: --wait")] = None,
    priority: Annotated[Literal["critical", "high", "normal", "low"] | None, typer.Option(help="Default: high")] = None,
    sign: SignWith = None,
    encrypt: Encrypt = False,
    app: AppOption = "default",
    device_keys: DeviceKeys = None,
    deadline: Annotated[str | None, typer.Option(help="That the device has for its result: seconds, or 5m")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send a command and print what the device answers. Exit code 1 if it does not, in time, or cannot."""
    seconds = seconds_of(wait, "--wait")
    if seconds > LONGEST_WAIT_SECONDS:
        fail(
            f"--wait {wait!r}: at most {LONGEST_WAIT_SECONDS} s. A push waits longer: "
            f"`{PROGRAM} push ID --kind command`",
            2,
        )
    body: dict[str, Any] = {"command": command, "wait": seconds}
    if data is not None:
        body["data"] = json_of(data, "--data")
    body |= {} if ttl is None else {"ttl": seconds_of(ttl)}
    body |= {} if priority is None else {"priority": priority}
    body |= {} if deadline is None else {"deadline": seconds_of(deadline, "--deadline")}
    if sign is not None:
        body |= signed_call(device_id, body, sign, app, encrypt=encrypt, device_keys=device_keys)
    elif encrypt:
        fail("--encrypt needs --sign", 2)
    with client_of(server, data_dir) as client:
        path = f"/v1/devices/{segment(device_id)}/call"
        answer = client.call("POST", path, json=body, timeout=TIMEOUT_SECONDS + seconds)
    result = answer["result"]
    if as_json:
        print_json(answer)
    elif answer["status"] == "answered":
        print_json(result)
    push_id = answer["push_id"]
    if answer["status"] == "queued":
        raise Failure(f"no answer in {seconds} s. What came of it: `{PROGRAM} pushes deliveries {push_id}`")
    if answer["status"] == "ended":
        raise Failure(f"it was not carried out: {answer['state']} ({answer['reason'] or 'no reason'})")
    if isinstance(result, dict) and set(result) - {"refused"} == {"error"}:
        raise Failure(f"the device could not do it: {result['error']}")


def signed_call(
    device_id: str, body: dict[str, Any], key: Path, app: str, *, encrypt: bool, device_keys: Path | None
) -> dict[str, Any]:
    """The fields of a call that are the signature's: what is encrypted is named nowhere else. Raises Failure."""
    data = body.get("data", {})
    if not isinstance(data, dict):
        fail("--data is a JSON object: what the command needs", 2)
    push = {"target": {"device": device_id}, "kind": "command", "data": {**data, "command": body["command"]}}
    push["ttl"] = body.get("ttl", max(1, body["wait"]))
    push = signed_body(push, key, app, encrypt=encrypt, device_keys=device_keys)
    return (
        {"command": "encrypted", "data": {}, "encrypted": push["encrypted"]} if encrypt else {"signed": push["signed"]}
    )
