"""`fleetpush signing`: keys that sign commands, and what `push --sign` and `call --sign` make with them.

Everything here happens on the machine of the publisher, and no key leaves it: a server, and whoever has stolen one,
sees what was signed. The public key of a device comes by way of the server, so it is pinned here (`signing trust`) and
from then on the server is not asked again. docs/signed-commands.md says what all of this protects, and what not.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import AsJson, DataDir, DeviceId, ServerUrl, client_of, command_group, seconds_of
from gateway.cli.server_client import segment
from gateway.cli.terminal import PROGRAM, Failure, fail, note, print_facts, print_json
from gateway.data_directory import write_private

if TYPE_CHECKING:
    from client_sim.signatures import SigningKey

DEFAULT_SECONDS = 86_400
"""Time to live of a push that names none, as the API has it."""
KEY_ATTRIBUTE = "encryption_key"
"""The attribute by which a device reports its public key."""

SignWith = Annotated[
    Path | None,
    typer.Option("--sign", metavar="KEY", help="Sign it with this key: devices that have pinned it obey nothing else"),
]
Encrypt = Annotated[
    bool, typer.Option("--encrypt", help="With --sign: only the device can read it; its key was pinned before")
]
AppOption = Annotated[str, typer.Option("--app", help="The application of the devices, which is signed, too")]
DeviceKeys = Annotated[
    Path | None, typer.Option("--device-keys", help="The file of pinned keys of devices. Default: in your data home")
]

signing = command_group("Sign commands, so that a stolen server cannot make one.")


@signing.command("new")
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new key; a secret")], as_json: AsJson = False
) -> None:
    """Make a key that signs, in a file that only you may read."""
    from client_sim.signatures import SigningKey

    key = SigningKey.new()
    try:
        key.write(file)
    except FileExistsError:
        fail(f"{file} is there already: a key is not overwritten", 2)
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")
    if as_json:
        print_json(key.public)
        return
    print_facts({"key": str(file), "fingerprint": key.key_id})
    note(f"It is a secret, and for no server. Its public half is what devices pin: {PROGRAM} signing show {file}")


@signing.command("show")
def show(
    files: Annotated[list[Path], typer.Argument(metavar="KEY", help="Keys, or files of public keys")],
) -> None:
    """Print the public halves of keys, as the JWK set that devices pin."""
    jwks = [jwk for file in files for jwk in public_halves(file)]
    print_json({"keys": jwks})
    for jwk in jwks:
        note(f"fingerprint {jwk['kid']}")


@signing.command("keys")
def keys(
    root: Annotated[Path, typer.Option("--root", metavar="KEY", help="A key that the devices have pinned")],
    files: Annotated[list[Path] | None, typer.Argument(metavar="[KEY]", help="Keys that may sign from now on")] = None,
    version: Annotated[int, typer.Option(min=1, help="Above that of every key set before")] = 1,
    revoke: Annotated[list[str] | None, typer.Option(metavar="FINGERPRINT", help="Never to be believed again")] = None,
    expires: Annotated[str | None, typer.Option(help="How long devices believe it: 90d. Default: for ever")] = None,
) -> None:
    """Print a key set: who may sign for the devices that have pinned the root. Send it with `push --signed`."""
    from client_sim.signatures import KeySet, sign_key_set

    jwks = [jwk for file in files or () for jwk in public_halves(file)]
    issued_at = int(time.time())
    end = None if expires is None else issued_at + seconds_of(expires, "--expires")
    signed = sign_key_set(load_key(root), KeySet(version, tuple(jwks), tuple(revoke or ()), issued_at, end))
    print(signed)
    note(f"Send it with: {PROGRAM} push --all --kind command --ttl 90d --collapse-key keys --signed FILE")


@signing.command("push")
def sign(
    device_id: DeviceId,
    key: Annotated[Path, typer.Option("--sign", metavar="KEY", help="The key to sign with")],
    data: Annotated[str, typer.Option(help='JSON, as {"command": "reboot"}')],
    kind: Annotated[str, typer.Option(help="command or silent")] = "command",
    ttl: Annotated[str, typer.Option(help="How long it may be carried out: seconds, or 90s, 10m, 8h, 2d")] = "1d",
    encrypt: Encrypt = False,
    app: AppOption = "default",
    device_keys: DeviceKeys = None,
) -> None:
    """Print a signed push for a device, without a server. Send it, from any machine, with `push --signed`."""
    from gateway.cli.options import json_of

    body = {"target": {"device": device_id}, "kind": kind, "data": json_of(data, "--data"), "ttl": seconds_of(ttl)}
    body = signed_body(body, key, app, encrypt=encrypt, device_keys=device_keys)
    print(body.get("signed") or body["encrypted"])
    note(f"Send it with: {PROGRAM} push {device_id} --kind {kind} --ttl {body['ttl']} --signed FILE")


@signing.command("trust")
def trust(
    device_id: DeviceId,
    fingerprint: Annotated[
        str | None, typer.Option(help="What the device shows; without it you are asked to compare")
    ] = None,
    app: AppOption = "default",
    device_keys: DeviceKeys = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Pin the key that a device is encrypted for. Compare its fingerprint with what the device itself shows."""
    from client_sim.signatures import public_keys

    with client_of(server, data_dir) as client:
        attributes = client.call("GET", f"/v1/devices/{segment(device_id)}")["attributes"]
    try:
        ((key_id, key),) = public_keys([attributes.get(KEY_ATTRIBUTE)], "X25519").items()
    except ValueError as error:
        fail(f"{device_id} has reported no key to encrypt for ({error}): {PROGRAM} listen {device_id} --trust FILE")
    file = device_keys or device_keys_file()
    pinned, name = read_device_keys(file), f"{app}/devices/{device_id}"
    before = pinned.get(name, {}).get("kid")
    if fingerprint is not None and fingerprint != key_id:
        fail(f"the server says {key_id}: that is not {fingerprint}, so somebody has changed it on the way")
    if before not in (None, key_id) and fingerprint is None:
        fail(
            f"the server says {key_id}, and {before} is pinned: a new device, or a stolen server. If the device itself "
            f"shows the new one: {PROGRAM} signing trust {device_id} --fingerprint {key_id}"
        )
    pinned[name] = key.as_dict() | {"kid": key_id}
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(file, json.dumps(pinned, indent=1) + "\n")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")
    if as_json:
        print_json({"device_id": device_id, "fingerprint": key_id, "pinned_in": str(file)})
        return
    print_facts({"device": device_id, "fingerprint": key_id, "pinned in": str(file)})
    if fingerprint is None and before is None:
        note("The server has said so. Compare it with what the device shows before you send it a secret.")


def load_key(path: Path) -> SigningKey:
    """The key in a file. Raises Failure."""
    from client_sim.signatures import SigningKey

    try:
        return SigningKey.load(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Failure(f"{path}: {reason}. A key is made with `{PROGRAM} signing new FILE`", 2) from error


def public_halves(path: Path) -> list[dict[str, Any]]:
    """The public keys in a file: of a private key, or a JWK set. Raises Failure."""
    from client_sim.signatures import json_object, public_keys

    try:
        found = json_object(path)
        jwks = found.get("keys", [found])
        return [key.as_dict() | {"use": "sig", "kid": kid} for kid, key in public_keys(jwks, "Ed25519").items()]
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Failure(f"{path}: {reason}. A key is made with `{PROGRAM} signing new FILE`", 2) from error


def device_keys_file() -> Path:
    """The file of pinned keys, in the user's data home."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "fleetpush" / "device-keys.json"


def read_device_keys(path: Path) -> dict[str, Any]:
    """Audience -> the pinned key of that device. Raises Failure."""
    from client_sim.signatures import json_object

    try:
        return json_object(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be used: {error}") from error


def audiences_of(target: dict[str, Any], app: str) -> list[str]:
    """Name the audiences of a target, as they are signed."""
    if "all" in target:
        return [f"{app}/all"]
    if "tag" in target:
        return [f"{app}/tags/{target['tag']}"]
    devices = target.get("devices") or [target["device"]]
    return [f"{app}/devices/{device_id}" for device_id in devices]


def signed_body(
    body: dict[str, Any], key: Path, app: str, *, encrypt: bool, device_keys: Path | None
) -> dict[str, Any]:
    """The request for a push with its signature. What is encrypted is in the clear nowhere else. Raises Failure."""
    from client_sim.signatures import Statement, encrypt_for, sign_push

    if body.get("kind", "silent") not in ("command", "silent") or "notification" in body:
        raise Failure("a signature is for data: --kind command or silent, and no text", 2)
    audiences = audiences_of(body["target"], app)
    lifetime = body.get("ttl", DEFAULT_SECONDS)
    statement = Statement.new(audiences, body.get("kind", "silent"), body.get("data"), time.time(), lifetime)
    signed = sign_push(load_key(key), statement)
    if not encrypt:
        return body | {"signed": signed}
    file = device_keys or device_keys_file()
    pinned = read_device_keys(file).get(audiences[0])
    if len(audiences) != 1 or "/devices/" not in audiences[0]:
        raise Failure("--encrypt is for one device: each has a key of its own", 2)
    if pinned is None:
        device_id = audiences[0].rpartition("/")[2]
        raise Failure(f"no key of {device_id} is pinned in {file}: {PROGRAM} signing trust {device_id}")
    try:
        encrypted = encrypt_for(pinned, signed)
    except ValueError as error:
        raise Failure(f"{file} cannot be used: {error}") from error
    return {name: value for name, value in body.items() if name != "data"} | {"encrypted": encrypted}


def read_signed(file: Path) -> dict[str, str]:
    """The field of a push that was signed elsewhere: `signed`, or `encrypted`. Raises Failure."""
    try:
        token = file.read_text().strip()
    except (OSError, ValueError) as error:
        raise Failure(f"{file} cannot be read: {error}", 2) from error
    return {"encrypted" if token.count(".") == 4 else "signed": token}
