"""`fleetpush doctor`: examines a set-up from outside and prints, line by line, what is right and what to do where not.

`ok` holds; `warn` works today and will hurt one day; `fail` does not work. Each finding that is not `ok` carries its
remedy as something to type or to change. Reads only: it creates nothing but a probe file, which it removes. What
changes something is asked for by name: `--mend-clock`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.sqlite_file import connect
from gateway.cli.findings import Finding
from gateway.cli.options import AsJson, DataDir, ServerUrl, load_settings
from gateway.cli.server_client import RequestRefused, ServerClient, UntrustedServer
from gateway.cli.terminal import PROGRAM, Failure, fail, print_json, print_line
from gateway.data_directory import (
    BROKER,
    CA_CERTIFICATE,
    CA_KEY,
    LEDGER,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    TLS_DIR,
    ledger_in_postgresql,
)

if TYPE_CHECKING:
    from gateway.certificates import CertificateFacts

LITTLE_DISK_BYTES = 1 << 30
NO_DISK_BYTES = 100 << 20
"""Below it a busy server is minutes away from answering 507."""
WANTED_DESCRIPTORS = 65_536
"""Descriptors that the systemd unit of a busy server should grant: one per connected device, and some."""
CLOCK_SLACK_SECONDS = 2.0
"""Seconds: stored server time may be a group commit ahead of another process's reading of the wall clock."""
FEW_DAYS = 30
"""Days left of a server certificate. A person who looks once a month still sees it."""
OLD_PROOF_DAYS = 7.0
"""Days after which a proven backup is old where no schedule says otherwise."""
MISSED_BACKUPS = 2
"""Backups of a schedule that may be missing before it is a finding."""
DAY_SECONDS = 86_400
FEW_TOKEN_DAYS = 3
"""Days left of a device's token. One that renews its token does so weeks before."""
FEW_CA_DAYS = 365
"""Days left of the CA. Another one has to reach every device, and what it signs now is cut short already."""


@dataclass(frozen=True)
class SetUp:
    """The set-up to examine."""

    data_dir: Path
    bind: str
    http_port: int
    mqtt_port: int
    url: str | None = None
    public_host: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """The last three as `serve` has them: unset, they are in the data directory, or there are none."""
    database: str | None = None
    """The address of the PostgreSQL that keeps the ledger; None: it is a file."""
    node_url: str | None = None


def doctor(
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    config: Annotated[Path | None, typer.Option(help="Settings file. Default: ./fleetpush.toml if there")] = None,
    mend_clock: Annotated[
        bool, typer.Option("--mend-clock", help="Take stored times that a wrong clock has put into the future back.")
    ] = False,
) -> None:
    """Check a set-up: data directory, disk, limits, clock, schema, certificates, ports, server, key. Exit code 1 on a
    failure."""
    settings = load_settings(config)
    if mend_clock:
        mend_stored_times(data_dir or settings.data_dir)
        return
    set_up = SetUp(
        data_dir or settings.data_dir,
        settings.bind,
        settings.http_port,
        settings.mqtt_port,
        server,
        settings.public_host,
        settings.tls_cert,
        settings.tls_key,
        settings.tls_ca,
        settings.database,
        settings.node_url,
    )
    findings = []
    for finding in examine(set_up):
        findings.append(finding)
        if not as_json:
            print_line(f"{finding.level:<5} {finding.subject}: {finding.text}")
            if finding.level != "ok" and finding.remedy:
                print_line(f"      -> {finding.remedy}")
    if as_json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


def examine(set_up: SetUp) -> Iterator[Finding]:
    yield check_data_dir(set_up.data_dir)
    yield check_disk(set_up.data_dir)
    yield check_descriptors()
    if set_up.database is None:
        yield from check_ledger(set_up.data_dir / LEDGER)
        yield from check_backups(set_up.data_dir, time.time())
    else:
        yield from check_postgresql(set_up.database, set_up.data_dir, set_up.node_url)
    tls = set_up.data_dir / TLS_DIR
    now = datetime.now(UTC)
    certificate, key = set_up.tls_cert or tls / SERVER_CERTIFICATE, set_up.tls_key or tls / SERVER_KEY
    named = set_up.tls_cert is not None or set_up.tls_key is not None
    yield from check_certificate(certificate, key, set_up.public_host, now, named=named)
    yield from check_ca(set_up.tls_ca or tls / CA_CERTIFICATE, tls / CA_KEY, now, named=set_up.tls_ca is not None)
    yield from check_server(set_up)


def check_data_dir(data_dir: Path) -> Finding:
    place = data_dir if data_dir.exists() else next(parent for parent in data_dir.absolute().parents if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-"):
            pass
    except OSError as error:
        owner = f"chown it to the server's user (you are uid {os.geteuid()}), or choose another --data-dir"
        return Finding("fail", "data directory", f"{place} is not writable: {error.strerror}", owner)
    if not data_dir.exists():
        return Finding("ok", "data directory", f"{data_dir} does not exist yet; `{PROGRAM} serve` creates it")
    if data_dir.stat().st_mode & 0o007:
        return Finding(
            "warn", "data directory", f"{data_dir} is open to every user of this machine", f"chmod o-rwx {data_dir}"
        )
    return Finding("ok", "data directory", f"{data_dir} is writable")


def check_disk(data_dir: Path) -> Finding:
    place = data_dir if data_dir.exists() else next(parent for parent in data_dir.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / (1 << 30):.1f} GiB free on the disk of {data_dir}"
    remedy = "free space, or move the data directory; when the disk is full pushes are refused with 507"
    if free < NO_DISK_BYTES:
        return Finding("fail", "disk", text, remedy)
    return Finding("warn", "disk", text, remedy) if free < LITTLE_DISK_BYTES else Finding("ok", "disk", text)


def check_descriptors() -> Finding:
    try:
        import resource
    except ImportError:
        return Finding("ok", "open files", "this system has no such limit")
    # `serve` raises its own limit to the hard one; only root can raise that.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "without limit" if hard == resource.RLIM_INFINITY else f"{hard} at most (ulimit -Hn)"
    text = f"{most} for a server started here; every connected device needs one"
    if hard != resource.RLIM_INFINITY and hard < WANTED_DESCRIPTORS:
        wanted = WANTED_DESCRIPTORS
        remedy = f"for more: LimitNOFILE={wanted} in its systemd unit, or `ulimit -n {wanted}` as root"
        return Finding("warn", "open files", text, remedy)
    return Finding("ok", "open files", text)


def check_ledger(path: Path) -> Iterator[Finding]:
    """Schema and clock, from the database itself, and whether SQLite finds both databases sound."""
    from gateway import replacement, startup

    if replacement.unfinished(path.parent):
        yield Finding("warn", "restore", "a restore was interrupted", f"{PROGRAM} serve finishes it")
        return
    try:
        startup.is_new_directory(path.parent)
    except startup.CannotStart as refusal:
        yield Finding("fail", "ledger", str(refusal))
        return
    if not path.exists():
        yield Finding("ok", "schema", "no database yet")
        return
    damage = startup.damage(path.parent)
    if damage is not None:
        yield Finding("fail", "ledger", damage)
        return
    try:
        with closing(connect(path, must_exist=True)) as database:
            (schema,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
            row = database.execute("SELECT at FROM clock").fetchone()
    except sqlite3.Error as error:
        yield Finding("fail", "schema", str(startup.refusal(path, error)))
        return
    yield check_schema(str(schema))
    yield check_audit_log(path)
    yield check_clock(time.time(), row[0] / 1000 if row is not None else None)


def check_postgresql(url: str, data_dir: Path, node_url: str | None = None) -> Iterator[Finding]:
    """Reachable, young enough, durable, ours, and with this version's schema; and the nodes over it."""
    subject = "postgresql"
    if (data_dir / LEDGER).exists():
        text = f"{data_dir} holds a ledger of its own ({LEDGER}), beside the setting `database`"
        yield Finding("fail", subject, text, "choose another data directory, or take the setting away")
        return
    try:
        from gateway.cli.node_findings import check_nodes
        from gateway.store.migrations import HEAD
        from gateway.store.nodes.examination import examine_nodes
        from gateway.store.postgresql.address import BadAddress, read_address
        from gateway.store.postgresql.examination import Unreachable, examine_ledger, read_ledger, verify_audit_logs
        from gateway.store.postgresql.schema import LEAST_MAJOR_VERSION
        from gateway.store.postgresql.upgrade import BASE
    except ImportError as error:
        yield Finding("fail", subject, str(error), "pip install 'fleetpush[postgresql]'")
        return
    try:
        found = examine_ledger(url)
    except BadAddress as error:
        yield Finding("fail", subject, str(error), "mend the setting `database`")
        return
    except Unreachable as error:
        remedy = "is it running, does it listen there, and are user, password and database right? Try psql"
        yield Finding("fail", subject, str(error), remedy)
        return
    if found.major_version < LEAST_MAJOR_VERSION:
        text = f"version {found.major_version}, and it has to be {LEAST_MAJOR_VERSION} at least"
        yield Finding("fail", subject, text, "upgrade it")
        return
    yield Finding("ok", subject, f"version {found.major_version} answers: {found.place}")
    if found.not_durable:
        text = f"{', '.join(found.not_durable)} off: what was accepted may be lost in a power cut"
        yield Finding("fail", "durability", text, "ALTER SYSTEM SET name = on, and reload or restart PostgreSQL")
    else:
        yield Finding("ok", "durability", "fsync, full_page_writes and synchronous_commit are on")
    if found.schema_version is None:
        if found.tables:
            text = "the schema `fleetpush` holds the tables of another program"
            yield Finding("fail", "schema", text, "name another database")
        else:
            yield Finding("ok", "schema", f"no ledger yet; `{PROGRAM} serve` makes it")
        return
    if found.schema_version < BASE or (found.oldest_program or HEAD) > HEAD:
        text = f"{found.schema_version} is not known to this version ({HEAD})"
        yield Finding("fail", "schema", text, "run the version of Fleetpush that wrote it, or name another database")
        return
    if found.schema_version < HEAD:
        text = f"{found.schema_version} is older; the next `serve` migrates it to {HEAD} (pg_dump keeps the way back)"
    elif found.schema_version > HEAD:
        text = f"{found.schema_version} is newer than this version's ({HEAD}), which may run on it"
    else:
        text = f"{HEAD} is this version's"
    yield Finding("ok", "schema", text)
    yield audit_finding(*verify_audit_logs(url))
    yield check_clock(time.time(), None if found.clock_ms is None else found.clock_ms / 1000)
    if found.schema_version == HEAD:
        several = "," in str(read_address(url).parameters.get("host", ""))
        nodes = read_ledger(url, examine_nodes)
        yield from check_nodes(nodes, node_url, time.time() * 1000, names_several=several)
    text = "PostgreSQL's own (pg_dump, base backups), and the data directory beside it: nothing here sees whether it is"
    yield Finding("ok", "backup", f"{text} done")


def check_audit_log(path: Path) -> Finding:
    """Verify the audit logs of all apps: whether each agrees with its chain."""
    from gateway.store.audit_entries import count_entries, has_log, verify_all

    with closing(connect(path, must_exist=True)) as database:
        database.execute("BEGIN")
        if not has_log(database):  # the next start makes it
            return audit_finding([], 0)
        return audit_finding(verify_all(database), count_entries(database))


def audit_finding(altered: list[str], entries: int) -> Finding:
    if altered:
        remedy = "compare it with a backup, and with the heads that were noted: docs/operate/audit.md"
        return Finding("fail", "audit log", f"it was altered: {'; '.join(altered)}", remedy)
    return Finding("ok", "audit log", f"{entries:,} entries agree with their chains")


def check_backups(data_dir: Path, at: float) -> Iterator[Finding]:
    """Say how old the newest backup is that is proven to restore. `at`: Unix time."""
    from gateway.backup_record import read_record

    if not (data_dir / LEDGER).exists():
        return
    record = read_record(data_dir)
    remedy = f"{PROGRAM} backup FILE --verify, or a schedule: {PROGRAM} backup --every 6h --keep 14 --to DIR --verify"
    if record.failed_attempts:
        times = "once" if record.failed_attempts == 1 else f"{record.failed_attempts:,} times in a row"
        yield Finding(
            "warn", "backup", f"the schedule has failed {times}: {record.failure}", "mend that; it tries again"
        )
    if not record.proven_of:
        made = f"the last one is {age(at - record.made_at)} old, and not proven" if record.made_at else "there is none"
        prove = f"{PROGRAM} verify-backup FILE" if record.made_at else remedy
        yield Finding("warn", "backup", made, prove)
        return
    text = f"the last one that is proven is {age(at - record.proven_of)} old: {record.proven_file}"
    limit = MISSED_BACKUPS * record.interval_seconds or OLD_PROOF_DAYS * DAY_SECONDS
    if at - record.proven_of > limit:
        yield Finding("warn", "backup", text, remedy)
    else:
        yield Finding("ok", "backup", text)


def age(seconds: float) -> str:
    """Format an age in the largest unit of which there are two."""
    for unit, name in ((DAY_SECONDS, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{int(seconds // unit):,} {name}"
    return f"{max(int(seconds), 0)} seconds"


def check_schema(schema: str) -> Finding:
    from alembic.script import ScriptDirectory

    migrations = ScriptDirectory(str(Path(__file__).parent.parent / "store" / "migrations"))
    known = [revision.revision for revision in migrations.walk_revisions()][::-1]
    if schema == known[-1]:
        return Finding("ok", "schema", f"{schema} is this version's")
    if schema in known:
        return Finding("ok", "schema", f"{schema} is older; the next `serve` migrates it to {known[-1]}")
    return Finding("fail", "schema", f"{schema} is not known to this version: the data is newer", "update Fleetpush")


def mend_stored_times(data_dir: Path) -> None:
    """Mend stored times (`--mend-clock`) of a server that does not run, on a machine whose clock is right."""
    from gateway.data_directory import DirectoryInUse, locked
    from gateway.store.server_time import mend

    if not (data_dir / LEDGER).exists():
        if ledger_in_postgresql(data_dir) is not None:
            fail("stored times in PostgreSQL are not mended by this command: let the machine's clock pass them")
        fail(f"{data_dir} has no ledger: name the server's data directory with --data-dir")
    try:
        with locked(data_dir):
            back_ms = mend(data_dir / LEDGER, data_dir / BROKER, int(time.time() * 1000))
    except DirectoryInUse as holder:
        fail(f"{data_dir} is in use by {holder}: stop that server first")
    except (OSError, sqlite3.Error) as error:
        fail(f"{data_dir}: {error}; nothing was changed")
    if back_ms:
        print(f"stored times went {back_ms / 1000:,.0f} s back, to what this machine's clock shows")
    else:
        print("stored times agree with this machine's clock: there is nothing to mend")


def check_clock(now: float, stored: float | None) -> Finding:
    """Compare the clock with the last stored server time, in seconds, as it stands in the file."""
    from gateway.store.server_time import EARLIEST_MS

    behind = 0.0 if stored is None else stored - now
    if now * 1000 < EARLIEST_MS:
        return Finding(
            "warn", "clock", "this machine's clock cannot be right", "set it (timedatectl); a running server follows it"
        )
    if behind > CLOCK_SLACK_SECONDS:
        return Finding(
            "warn",
            "clock",
            f"this machine is {behind:,.0f} s behind the last stored server time",
            "if the machine is wrong, set its clock (timedatectl); if it is right, stop the server and run"
            f" `{PROGRAM} doctor --mend-clock`. Until then times are shown by the machine's clock, and nothing expires"
            " early or late",
        )
    return Finding("ok", "clock", f"{time.strftime('%Y-%m-%d %H:%M:%S %Z', time.localtime(now))}")


def check_certificate(
    certificate: Path, key: Path, public_host: str | None, now: datetime, *, named: bool = False
) -> Iterator[Finding]:
    """Check the certificate that the server shows. `named` in the settings, it has to be there."""
    subject = "certificate"
    if not named and not certificate.exists() and not key.exists():
        text = f"no certificate; without one the server speaks no TLS. `{PROGRAM} tls init` makes one"
        yield Finding("ok", subject, text)
        return
    from gateway.certificates import CertificateError, certificate_facts, covers, require_matching_key

    try:
        facts = certificate_facts(certificate)
        remedy = f"{PROGRAM} tls init renews a certificate of the fleet CA; who gave you another one renews that"
        yield check_days(subject, facts, now, FEW_DAYS, remedy)
        require_matching_key(certificate, key)
    except CertificateError as error:
        yield Finding("fail", subject, error.finding, error.remedy)
    else:
        if public_host and not covers(facts.names, public_host):
            text = f"it is for {', '.join(facts.names) or 'no name at all'}, and devices are told to dial {public_host}"
            yield Finding("warn", "certificate names", text, f"{PROGRAM} tls init --name {public_host}")
    yield from check_secrecy("certificate key", key)


def check_ca(certificate: Path, key: Path, now: datetime, *, named: bool = False) -> Iterator[Finding]:
    """Check the CA that the fleet trusts; its key may be kept elsewhere. `named` in the settings, it has to be
    there."""
    if named or certificate.exists():
        from gateway.certificates import CertificateError, certificate_facts

        try:
            facts = certificate_facts(certificate)
        except CertificateError as error:
            yield Finding("fail", "fleet CA", error.finding, error.remedy)
        else:
            remedy = (
                "whoever gave you it has another, and devices get certificates from that"
                if named
                else (f"{PROGRAM} tls init --new-ca, and let every device trust it")
            )
            yield check_days("fleet CA", facts, now, FEW_CA_DAYS, remedy)
    yield from check_secrecy("fleet CA key", key)


def check_days(subject: str, facts: CertificateFacts, now: datetime, few: int, remedy: str) -> Finding:
    left = facts.days_left(now)
    if left <= 0:
        text = f"{facts.path} ended on {facts.not_after:%Y-%m-%d}; nobody connects with it"
        return Finding("fail", subject, text, remedy)
    if facts.not_before > now:
        text = f"{facts.path} begins on {facts.not_before:%Y-%m-%d %H:%M} UTC, which is in the future"
        return Finding("fail", subject, text, "set the clock (timedatectl), or wait")
    text = f"{facts.path} ends on {facts.not_after:%Y-%m-%d}, in {int(left):,} days"
    return Finding("warn", subject, text, remedy) if left < few else Finding("ok", subject, text)


def check_secrecy(subject: str, key: Path) -> Iterator[Finding]:
    """Says something only if there is something to say."""
    try:
        mode = key.stat().st_mode
    except OSError:  # the certificate's own finding says it, and a CA's key may be elsewhere
        return
    if mode & 0o007:
        yield Finding("fail", subject, f"{key} is open to every user of this machine", f"chmod 600 {key}")
    elif mode & 0o070:
        yield Finding("warn", subject, f"{key} is open to its group", f"chmod 600 {key}, unless the server needs it")


def check_server(set_up: SetUp) -> Iterator[Finding]:
    """A running server answers and takes the key; without one, its ports must be free."""
    try:
        client = ServerClient.find(set_up.url, set_up.data_dir)
    except Failure as failure:
        if set_up.url is not None:
            yield Finding("fail", "server", str(failure), "set FLEETPUSH_KEY")
            return
        yield Finding("ok", "server", "not running here (no server.json with a key)")
        yield from check_ports(set_up)
        return
    with client:
        try:
            client.call("GET", "/readyz")
        except UntrustedServer as failure:
            yield Finding("fail", "server", failure.finding, failure.remedy)
            return
        except Failure as failure:
            if isinstance(failure, RequestRefused) and failure.code:  # one of ours has answered
                yield Finding("fail", "server", str(failure), "it runs, and is ready when that is over: see its log")
                return
            yield Finding("fail", "server", str(failure), f"start it: {PROGRAM} serve")
            if set_up.url is None:
                yield from check_ports(set_up)
            return
        yield Finding("ok", "server", f"{client.url} is ready")
        yield from check_shown(client)
        try:
            client.call("GET", "/v1/pushes", params={"limit": "1"})
        except Failure as failure:
            if isinstance(failure, RequestRefused) and failure.code == "forbidden":
                yield Finding("ok", "key", "the server takes it; its scopes do not include `read`")
                return
            yield Finding("fail", "key", str(failure), "use admin.key of the server's data directory, or a new key")
        else:
            yield Finding("ok", "key", "the server takes it")
            yield from check_tokens(client)


def check_tokens(client: ServerClient) -> Iterator[Finding]:
    """Find devices that have not renewed a token that ends; nothing where no token does."""
    before = (datetime.now(UTC) + timedelta(days=FEW_TOKEN_DAYS)).isoformat()
    found = client.call("GET", "/v1/devices", params={"token_expires_before": before, "limit": "1000"})
    devices = [str(item["device_id"]) for item in found["items"]]
    if not devices:
        return
    more = "more than " if found["next_cursor"] is not None else ""
    yield Finding(
        "warn",
        "tokens",
        f"{more}{len(devices)} devices have a token that has ended or ends within {FEW_TOKEN_DAYS} days, {devices[0]} "
        "for one: they do not renew it",
        f"see which are there: `{PROGRAM} devices list --token-ends-within {FEW_TOKEN_DAYS}d`; one whose token has "
        f"ended asks for another (`{PROGRAM} devices requests`)",
    )


def check_shown(client: ServerClient) -> Iterator[Finding]:
    """Says something only if the server shows another certificate than is in its file by now."""
    if client.certificate is None:
        return
    from gateway.certificates import CertificateError, certificate_facts

    try:
        stored = certificate_facts(client.certificate).fingerprint
        shown = hashlib.sha256(client.shown_certificate()).hexdigest()
    except (CertificateError, OSError):  # each has its own finding
        return
    if shown != stored.replace(":", "").lower():
        text = f"the server does not show {client.certificate} yet; it reads that when it is told to"
        yield Finding("warn", "certificate", text, client.reload_command)


def check_ports(set_up: SetUp) -> Iterator[Finding]:
    for name, port in (("HTTP", set_up.http_port), ("MQTT", set_up.mqtt_port)):
        if port == 0:
            continue
        with socket.socket(socket.AF_INET6 if ":" in set_up.bind else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((set_up.bind, port))
            except OSError as error:
                remedy = f"`ss -ltnp 'sport = :{port}'` shows who has it; stop that, or choose --{name.lower()}-port"
                yield Finding("fail", f"{name} port", f"{set_up.bind}:{port}: {error.strerror}", remedy)
            else:
                yield Finding("ok", f"{name} port", f"{set_up.bind}:{port} is free")
