"""`fleetpush tls`: the fleet's certificates, on the server's own machine.

The commands work on the data directory, whether or not a server runs on it; a running one takes a new certificate when
it is told to (SIGHUP), and what is printed says how. Each command ends with what a client has to be given.
"""

from __future__ import annotations

import json
import os
import pwd
import sqlite3
import textwrap
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.sqlite_file import connect
from gateway.cli.options import AsJson, DataDir, command_group, load_settings
from gateway.cli.terminal import PROGRAM, fail, note, print_facts, print_json, print_table
from gateway.cli.tls_recipes import Identity, Server, curl, recipes
from gateway.data_directory import (
    CA_CERTIFICATE,
    DEVICES_DIR,
    LEDGER,
    SERVER_CERTIFICATE,
    SERVER_FILE,
    TLS_DIR,
    without_ledger_file,
)

if TYPE_CHECKING:
    from gateway.certificates import CertificateFacts, InitializedTls
    from gateway.settings import Settings
    from gateway.store.transaction import Transaction

tls = command_group("Make and show the fleet's certificates.")


@tls.command("init")
def tls_init(
    name: Annotated[
        list[str] | None, typer.Option(help="A host name or address that devices dial; may be repeated")
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=825, help="Of the server certificate; Apple's systems take no more than 825")
    ] = 825,
    new_ca: Annotated[
        bool,
        typer.Option("--new-ca", help="Another CA: every device has to trust it, every device certificate is void"),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also if server.pem is not from the fleet's CA")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make the fleet's CA, unless it is there, and a server certificate for this machine's names and addresses.

    Run it again to renew the server certificate: the CA stays, and so do the names it had.
    """
    from gateway.certificates import CertificateError, initialize, is_name
    from gateway.host_names import host_names

    settings = load_settings()
    data_dir = data_dir or settings.data_dir
    require_owner(data_dir)
    given = [*([settings.public_host] if settings.public_host else []), *(name or [])]
    # Of what was given a mistake is said; of what was found, what cannot be a name is none (a host called 4711).
    found = [one for one in host_names() if is_name(one)]
    now = datetime.now(UTC)
    try:
        made = initialize(data_dir, given, days, now, host=found[0], found=found, new_ca=new_ca, force=force)
    except (CertificateError, OSError) as error:
        fail(f"no certificate was made: {error}")
    running = announced_server(data_dir)
    if as_json:
        print_json({
            "ca": described(made.ca, now) | {"made": made.ca_is_new},
            "server": described(made.server, now),
            "set_aside": None if made.set_aside is None else str(made.set_aside),
            "reload": reload_command(running),
        })  # fmt: skip
        return
    print_facts(
        {
            "fleet CA": f"{made.ca.path} ({'new' if made.ca_is_new else 'kept'})",
            "CA ends": until(made.ca, now),
            "server certificate": str(made.server.path),
            "certificate ends": until(made.server, now),
            "certificate is for": ", ".join(made.server.names),
        }
    )
    explain(made)
    dialled = next((one for one in [*given, *made.server.names] if not one.startswith("*")), found[0])
    print(f"\n{next_step(running, data_dir, dialled)}")
    print(f"\nGive every device {made.ca.path} (it is no secret), and let it trust that:")
    server = server_of(settings, running, dialled, made.ca.path)
    print_recipes(server, Identity("ID", "default/devices/ID/push"))
    print(f"\nWho sends pushes trusts it likewise ({PROGRAM} on another machine: FLEETPUSH_CA={made.ca.path.name}):")
    print(f"    {curl(server)}")
    print(f"\nA certificate instead of the token, for a device that is enrolled: {PROGRAM} tls device ID")


@tls.command("device")
def tls_device(
    device_id: Annotated[str, typer.Argument(metavar="ID", help="The device's id; it has to be enrolled")],
    app: Annotated[str, typer.Option(help="The application it belongs to")] = "default",
    days: Annotated[int, typer.Option(min=1, help="It ends with the fleet's CA at the latest")] = 825,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a certificate that a device connects with instead of its token.

    It is void as soon as the device gets a new token (`devices rotate`) or is removed.
    """
    from gateway.auth import credential_generation
    from gateway.certificates import CertificateError, make_device

    settings = load_settings()
    data_dir = data_dir or settings.data_dir
    require_owner(data_dir)
    user_name = device_id if app == "default" else f"{app}/{device_id}"
    generation = credential_generation(stored_token_hash(data_dir, settings.database, app, device_id))
    now = datetime.now(UTC)
    try:
        facts, key = make_device(data_dir, user_name, generation, days, now)
    except (CertificateError, OSError) as error:
        fail(f"no certificate was made: {error}")
    ca = data_dir / TLS_DIR / CA_CERTIFICATE
    if as_json:
        print_json({"device": described(facts, now) | {"key": str(key)}, "ca": str(ca)})
        return
    print_facts(
        {
            "device": user_name,
            "certificate": str(facts.path),
            "certificate ends": until(facts, now),
            "key": f"{key} (a secret: it is the device's, and nobody else's)",
            "fleet CA": str(ca),
        }
    )
    note(
        f"It is void as soon as the device gets a new token ({PROGRAM} devices rotate {device_id}) or is removed; an"
        " earlier one stays valid until then, or until it ends."
    )
    running = announced_server(data_dir)
    print(f"\nCopy the three files to {device_id}. It connects with them and without a password:")
    identity = Identity(user_name, f"{app}/devices/{device_id}/push", facts.path, key)
    print_recipes(server_of(settings, running, dialled_name(settings, data_dir), ca), identity)


@tls.command("show")
def tls_show(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """All certificates in the data directory, with the days they have left."""
    from gateway.certificates import CertificateError, certificate_facts

    folder = (data_dir or load_settings().data_dir) / TLS_DIR
    paths = [folder / CA_CERTIFICATE, folder / SERVER_CERTIFICATE, *sorted((folder / DEVICES_DIR).glob("*.pem"))]
    now = datetime.now(UTC)
    try:
        found = [certificate_facts(path) for path in paths if path.exists()]
    except CertificateError as error:
        fail(str(error))
    if as_json:
        print_json({"items": [described(facts, now) for facts in found]})
        return
    rows = [
        (facts.path.relative_to(folder), facts.subject, int(facts.days_left(now)), f"{facts.not_after:%Y-%m-%d}",
         ", ".join(facts.names))
        for facts in found
    ]  # fmt: skip
    columns = ("file", "certificate of", "days left", "ends", "names")
    print_table(columns, rows, f"No certificates in {folder}. Make them: {PROGRAM} tls init")


# -- what the commands share -------------------------------------------------------------------------------------------


def require_owner(data_dir: Path) -> None:
    """Refuse to run as root for a server that runs as somebody else: it could not read files of mode 0600."""
    if not data_dir.exists() or (owner := data_dir.stat().st_uid) == os.geteuid():
        return
    try:
        user = pwd.getpwuid(owner).pw_name
    except KeyError:
        user = f"#{owner}"
    fail(f"{data_dir} belongs to {user}, who has to be able to read the keys: run this as {user} (sudo -u {user} ...)")


def stored_token_hash(data_dir: Path, database: str | None, app: str, device_id: str) -> bytes:
    """Look a device's credential up in the ledger: in the file, or in PostgreSQL at an address."""
    from gateway.store.access.credentials import token_hash_of

    path = data_dir / LEDGER
    if database is not None:
        found = read_postgresql(database, lambda transaction: token_hash_of(transaction, app, device_id))
    elif not path.exists():
        fail(without_ledger_file(data_dir, "give its address, as `serve` has it (`database`, FLEETPUSH_DATABASE)"))
    else:
        try:
            with closing(connect(path, must_exist=True)) as file:
                file.execute("PRAGMA query_only = 1")
                found = token_hash_of(file, app, device_id)
        except sqlite3.Error as error:
            fail(f"{path} cannot be read: {error}. `{PROGRAM} doctor` looks closer.")
    if found is None:
        where = "" if app == "default" else f" in the application {app!r} (with a key of that application)"
        fail(f"there is no device {device_id!r}{where}: enrol it with `{PROGRAM} devices add {device_id}`")
    return found


def read_postgresql(url: str, read: Callable[[Transaction], bytes | None]) -> bytes | None:
    try:
        from gateway.store.postgresql.address import BadAddress
        from gateway.store.postgresql.examination import Unreachable, read_ledger
    except ImportError as error:
        fail(f"{error}; install the extra: pip install 'fleetpush[postgresql]'")
    try:
        return read_ledger(url, read)
    except (BadAddress, Unreachable) as error:
        fail(f"the ledger in PostgreSQL cannot be read: {error}. `{PROGRAM} doctor` looks closer.")


def announced_server(data_dir: Path) -> dict[str, Any] | None:
    """Read the server's announcement (`server.json`), if that server is alive."""
    try:
        facts: dict[str, Any] = json.loads((data_dir / SERVER_FILE).read_text())
        os.kill(int(facts["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts


def speaks_tls(running: dict[str, Any]) -> bool:
    return str(running.get("url")).startswith("https:")


def reload_command(running: dict[str, Any] | None) -> str | None:
    return f"kill -HUP {running['pid']}" if running is not None and speaks_tls(running) else None


def next_step(running: dict[str, Any] | None, data_dir: Path, dialled: str) -> str:
    if command := reload_command(running):
        return f"The running server takes the new certificate when told to; no connection is lost:\n    {command}"
    serve = f"{PROGRAM} serve --data-dir {data_dir} --bind 0.0.0.0 --public-host {dialled}"
    if running is not None:
        return f"The running server (process {running['pid']}) speaks no TLS. Stop it and start it again:\n    {serve}"
    return f"Serve with it, MQTT and HTTP:\n    {serve}"


def explain(made: InitializedTls) -> None:
    if made.set_aside is not None:
        note(f"What was there is in {made.set_aside}.")
    if made.ca_is_new and made.set_aside is not None and (made.set_aside / CA_CERTIFICATE).exists():
        note(
            f"This is another CA: a device reaches the server again once it trusts the new {made.ca.path}, and"
            " certificates of devices are void. To let the old ones in until each has a new one, append the old"
            f" ca.pem: cat {made.set_aside / CA_CERTIFICATE} >> {made.ca.path}"
        )
    elif made.renewed:
        note(
            "The server certificate has a new key, and the names it had before. The CA is the same, so devices need"
            " nothing new."
        )


def dialled_name(settings: Settings, data_dir: Path) -> str:
    """Return the name that devices are told to connect to. Else it is the first name of the server certificate, else
    this machine's."""
    if settings.public_host:
        return settings.public_host
    from gateway.certificates import CertificateError, certificate_facts
    from gateway.host_names import host_names

    try:
        names = certificate_facts(data_dir / TLS_DIR / SERVER_CERTIFICATE).names
    except CertificateError:
        names = ()
    return next((name for name in names if not name.startswith("*")), host_names()[0])


def server_of(settings: Settings, running: dict[str, Any] | None, host: str, ca: Path) -> Server:
    """The ports are those of the running server, else those it will have."""
    ports: dict[str, Any] = running or {}
    mqtt_port = int(ports.get("mqtt_port") or settings.mqtt_port)
    return Server(host, mqtt_port, int(ports.get("http_port") or settings.http_port), ca)


def print_recipes(server: Server, device: Identity) -> None:
    for client, lines in recipes(server, device):
        print(f"\n{client}:")
        print(textwrap.indent(lines, "    "))


def until(facts: CertificateFacts, now: datetime) -> str:
    return f"{facts.not_after:%Y-%m-%d}, in {int(facts.days_left(now)):,} days"


def described(facts: CertificateFacts, now: datetime) -> dict[str, Any]:
    """Describe a certificate for scripts."""
    from gateway.timestamps import rfc3339

    return {
        "certificate": str(facts.path),
        "subject": facts.subject,
        "issuer": facts.issuer,
        "names": list(facts.names),
        "not_before": rfc3339(int(facts.not_before.timestamp() * 1000)),
        "not_after": rfc3339(int(facts.not_after.timestamp() * 1000)),
        "days_left": round(facts.days_left(now), 2),
        "sha256": facts.fingerprint,
    }
