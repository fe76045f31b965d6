"""`fleetpush audit`: the audit log, its head, and its verification, over the public HTTP interface.

`verify` trusts the server with nothing but to hand out what it has: the hashes are made anew here, of what the entries
say. A head that was noted elsewhere before is what makes it a proof (`audit_chain`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.audit_chain import ChainBroken, ChainVerifier, Head
from gateway.audit_evidence import FORMAT_VERSION, line_of
from gateway.cli.audit_files import verify_file, write_whole
from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, command_group
from gateway.cli.server_client import ServerClient, segment
from gateway.cli.terminal import Failure, json_text, note, print_json

audit = command_group("Who changed what: the audit log of an app, and its verification.")

Noted = Annotated[
    list[str] | None,
    typer.Option("--noted", metavar="HEAD", help="A head that `audit head` printed before; may be repeated"),
]


@audit.command("list")
def audit_list(
    actor: Annotated[str | None, typer.Option(help="Only of this one: key:ID, for example")] = None,
    action: Annotated[str | None, typer.Option(help="Only this: device.remove, or 'device.*'")] = None,
    about: Annotated[str | None, typer.Option("--object", help="Only about this: device:kiosk-1, for example")] = None,
    since: Annotated[str | None, typer.Option("--from", help="From this time on, as 2026-12-01T00:00:00Z")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Before this time")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The entries of the log, the newest first."""
    columns: Columns = {
        "no": "seq",
        "at": "at",
        "who": "actor",
        "from": "address",
        "action": "action",
        "object": "object",
        "result": "result",
        "details": lambda item: json_text(item["details"], indent=None) if item["details"] else "",
    }
    wanted = {"actor": actor, "action": action, "object": about, "from": since, "to": until}
    given = {name: value for name, value in wanted.items() if value is not None}
    with client_of(server, data_dir) as client:
        print_list(
            client, "/v1/audit", columns, empty="No entries.", as_json=as_json, limit=limit, cursor=cursor, **given
        )


@audit.command("head")
def audit_head(server: ServerUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The head of the log's chain: note it where nobody of this server can change it."""
    with client_of(server, data_dir) as client:
        chain = client.call("GET", "/v1/audit/chain")
    if as_json:
        print_json(chain)
        return
    print(end_of(chain, "head"))
    note("Keep it elsewhere. Later: audit verify --noted, with this line.")


@audit.command("verify")
def audit_verify(
    noted: Noted = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="An exported file, instead of the server's log; it asks no server")
    ] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make all hashes of the log anew, and compare them: with the entries, with the head, and with heads noted before.
    Exit code 1 if anything does not agree."""
    heads = noted_heads(noted)
    if file is not None:
        print("\n".join(verify_file(file, heads)))
    else:
        with client_of(server, data_dir) as client:
            verifier = verify_log(client, heads)
        print(f"{verifier.entries} entries agree with their chain, up to {verifier.at}")
        for head in verifier.older:
            note(f"{head.seq}: older than the oldest entry that is kept; nothing can be compared with it any more")
    if not heads:
        note("No head was given with --noted: whoever can write the ledger's file could have made the whole log anew.")


@audit.command("export")
def audit_export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, in NDJSON")],
    device: Annotated[
        str | None, typer.Option(help="Evidence about this device: its deliveries, its events, and their proof")
    ] = None,
    since: Annotated[str | None, typer.Option("--from", help="Of a device: from this time on")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Of a device: before this time")] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Export the whole log, or evidence about one device, into a file that `audit verify --file` verifies alone."""
    if device is None and (since is not None or until is not None):
        raise Failure("--from and --to are for --device: a part of the log is no chain", 2)
    with client_of(server, data_dir) as client:
        if device is None:
            write_whole(file, log_lines(client))
        else:
            period = {"from": since, "to": until}
            given = {name: value for name, value in period.items() if value is not None}
            write_whole(file, client.stream(f"/v1/devices/{segment(device)}/evidence", given, {}))
    print("\n".join(verify_file(file, [])))


def log_lines(client: ServerClient) -> Iterator[bytes]:
    """Make the lines of a file of the whole log."""
    chain = client.call("GET", "/v1/audit/chain")
    yield line_of("log", version=FORMAT_VERSION, app=chain["app"])
    yield line_of("base", **chain["base"])
    for entry in entries_of(client, chain):
        yield line_of("entry", entry=entry)
    yield line_of("head", **chain["head"])


def entries_of(client: ServerClient, chain: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Read the entries between the ends of a chain. What has come since is left for the next time: it may come faster
    than it is read."""
    last = chain["head"]["seq"]
    for entry in client.items("/v1/audit", cursor=str(chain["base"]["seq"]), order="oldest"):
        if entry["seq"] <= last:
            yield entry
        if entry["seq"] >= last:
            return


def verify_log(client: ServerClient, noted: list[Head]) -> ChainVerifier:
    """Read the whole log of the key's app and verify it. Raises Failure."""
    chain = client.call("GET", "/v1/audit/chain")
    try:
        verifier = ChainVerifier(chain["app"], end_of(chain, "base"), noted)
        for entry in entries_of(client, chain):
            verifier.follow(entry)
        verifier.end(end_of(chain, "head"))
    except ChainBroken as error:
        raise Failure(f"the audit log is not as it was written: {error}") from None
    return verifier


def noted_heads(noted: list[str] | None) -> list[Head]:
    """Parse the heads of the option `--noted`. Raises Failure."""
    try:
        return [Head.parse(text) for text in noted or ()]
    except ValueError as error:
        raise Failure(f"--noted: {error}") from None


def end_of(chain: dict[str, Any], end: str) -> Head:
    """Return an end of a chain, of its description by the API."""
    return Head(chain[end]["seq"], bytes.fromhex(chain[end]["hash"]))
