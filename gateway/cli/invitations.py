"""`fleetpush devices invite`: codes by which devices enrol themselves, as a table, sheets of labels or pictures.

Codes are shown once, so the files are there before they are asked for: what cannot be written is noticed before there
is a code. If writing fails all the same, the batch is named that is to be revoked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import typer

from gateway.cli.code_sheets import CodeLabel, picture_name, picture_of, sheets_of, table_of, write_new
from gateway.cli.enrolment import BadTable, BadTableRow, TableRow, open_table, rows_of
from gateway.cli.lists import Columns, Cursor, Limit, print_list
from gateway.cli.options import AsJson, DataDir, ServerUrl, client_of, device_fields, seconds_of
from gateway.cli.server_client import ServerClient, for_terminals, segment
from gateway.cli.terminal import PROGRAM, Failure, fail, json_text, note, print_table

MAX_INVITATIONS = 10_000
"""The API's, for one request."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def devices_invite(
    device_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="For this device and no other")] = None,
    count: Annotated[int, typer.Option(min=1, max=MAX_INVITATIONS, help="So many codes, each for one device")] = 1,
    prefix: Annotated[str | None, typer.Option(help="Ids with numbers behind: kiosk- gives kiosk-001, ...")] = None,
    table: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="A code for each line of a table, as `devices enrol` reads it"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="For people")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated")] = None,
    attribute: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="May be repeated")] = None,
    locale: Annotated[str | None, typer.Option(help="Language of its person, as de-DE")] = None,
    timezone: Annotated[str | None, typer.Option(help="As Europe/Berlin")] = None,
    token_days: Annotated[
        int | None, typer.Option(min=1, max=3_650, help="Lifetime of their tokens, which they renew. Default: for ever")
    ] = None,
    expires: Annotated[str, typer.Option(help="Lifetime of the codes, as 12h or 7d")] = "7d",
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="A new file for the codes, as CSV")] = None,
    pdf: Annotated[Path | None, typer.Option("--pdf", metavar="FILE", help="A new file: labels with QR codes")] = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="DIR", help="A folder for a QR code each")] = None,
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="Where devices find the server. Default: as its settings say")
    ] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make codes by which devices enrol themselves. They are shown this once.

    A device trades its code for a token: `listen --code`, the browser device, `Device.enrol`, or `POST /v1/enrol`.
    Files are new, and only you can read them. Without a file the codes are printed."""
    known = device_fields(attribute, name=name, tags=tag, locale=locale, timezone=timezone, token_days=token_days)
    lifetime = {"expires_in": seconds_of(expires, "--expires")}
    if address is not None and urlsplit(address).scheme not in ("http", "https"):
        fail(f"--address {address!r}: write it as https://HOST:PORT", 2)
    if table is not None and (device_id or prefix or known or count > 1):
        fail("--from names the devices and what is known of them: leave the other options out", 2)
    if prefix is not None and device_id is not None:
        fail("one device has no --prefix: give an ID, or --prefix with --count", 2)
    files = CodeFiles(csv, pdf, png)
    files.reserve()
    try:
        with client_of(server, data_dir) as client:
            if table is not None:
                wanted, bad = _of_table(table)
                answers = _bulk(client, [{**row.device, **lifetime} for row in wanted])
                bad += [
                    BadTableRow(row.line, _complaint(answer["error"]))
                    for row, answer in zip(wanted, answers, strict=True)
                    if "error" in answer
                ]
            else:
                answers, bad = _alike(client, {**known, **lifetime}, device_id, count, prefix), []
    except BaseException:
        files.release()
        raise
    labels = [_label(answer, address) for answer in answers if "code" in answer]
    files.write(labels, answers)
    for row in sorted(bad):
        note(f"line {row.line}: {row.complaint}")
    if as_json:
        for answer, label in zip((answer for answer in answers if "code" in answer), labels, strict=True):
            print(json_text({**answer, "url": label.url}))
    elif not files.wanted:
        rows = [(label.code, label.device_id or label.name or "", label.expires_at, label.url) for label in labels]
        print_table(("code", "for", "until", "address"), rows, "No codes.")
    note(_summary(labels, answers, files))
    if bad:
        raise typer.Exit(1)


def devices_invitations(
    state: Annotated[Literal["open", "used", "expired"] | None, typer.Option(help="In this state")] = None,
    batch: Annotated[str | None, typer.Option(help="Of one `devices invite`")] = None,
    limit: Limit = None,
    cursor: Cursor = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List invitations, without their codes."""
    columns: Columns = {
        "invitation": "id",
        "batch": "batch",
        "state": "state",
        "device": "device_id",
        "name": "name",
        "tags": "tags",
        "until": "expires_at",
        "used": "used_at",
    }
    empty = f"No invitations. Make some: {PROGRAM} devices invite --count 200 --pdf codes.pdf"
    with client_of(server, data_dir) as client:
        print_list(
            client, "/v1/invitations", columns, empty=empty, as_json=as_json, limit=limit, cursor=cursor, state=state,
            batch=batch,
        )  # fmt: skip


def devices_uninvite(
    invitation: Annotated[str, typer.Argument(metavar="INVITATION", help="Or a batch: what is open of it")],
    server: ServerUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Void a code, or all of a batch that nobody has used."""
    with client_of(server, data_dir) as client:
        revoked = client.call("DELETE", f"/v1/invitations/{segment(invitation)}")["revoked"]
    note(f"{revoked} codes are void" if revoked != 1 else "its code is void")


class CodeFiles:
    """The files that codes are written to. They are there, empty, before there are codes."""

    def __init__(self, csv: Path | None, pdf: Path | None, png: Path | None) -> None:
        self._csv, self._pdf, self._png = csv, pdf, png
        self._reserved: list[Path] = []

    @property
    def wanted(self) -> list[Path]:
        return [path for path in (self._csv, self._pdf, self._png) if path is not None]

    def reserve(self) -> None:
        """Make the files. Raises Failure, or Exit when one is there."""
        try:
            for path in (self._csv, self._pdf):
                if path is not None:
                    write_new(path, b"")
                    self._reserved.append(path)
            if self._png is not None:
                self._png.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError as error:
            self.release()
            fail(f"{error.filename!r} exists, and may hold codes: name a new one", 2)
        except OSError as error:
            self.release()
            fail(f"{error.filename!r} cannot be written: {error.strerror}", 2)

    def release(self) -> None:
        """Remove the files again, which are empty."""
        for path in self._reserved:
            path.unlink(missing_ok=True)
        self._reserved.clear()

    def write(self, labels: Sequence[CodeLabel], answers: Sequence[dict[str, Any]]) -> None:
        """Write the codes. Raises Failure that names the batch: its codes are known to nobody then."""
        try:
            self.release()
            if not labels:
                return
            if self._csv is not None:
                write_new(self._csv, table_of(labels))
            if self._pdf is not None:
                write_new(self._pdf, sheets_of(labels))
            if self._png is not None:
                for label in labels:
                    write_new(self._png / picture_name(label), picture_of(label))
        except OSError as error:
            batch = next(answer["batch"] for answer in answers if "batch" in answer)
            raise Failure(
                f"{error.filename!r} cannot be written: {error.strerror}. Void the codes, and make others: "
                f"{PROGRAM} devices uninvite {batch}"
            ) from None


def _of_table(file: str) -> tuple[list[TableRow], list[BadTableRow]]:
    wanted: list[TableRow] = []
    bad: list[BadTableRow] = []
    with open_table(file) as table:
        try:
            for row in rows_of(table):
                if isinstance(row, BadTableRow):
                    bad.append(row)
                else:
                    wanted.append(row)
                if len(wanted) > MAX_INVITATIONS:
                    raise BadTable(f"it has more than {MAX_INVITATIONS} devices: split it")
        except BadTable as complaint:
            raise Failure(f"{file}: {complaint}. There are no codes yet") from None
    return wanted, bad


def _alike(
    client: ServerClient, known: dict[str, Any], device_id: str | None, count: int, prefix: str | None
) -> list[dict[str, Any]]:
    if prefix is None:
        body = {**known, "count": count, **({} if device_id is None else {"device_id": device_id})}
        found: list[dict[str, Any]] = client.call("POST", "/v1/invitations", json=body)["invitations"]
        return found
    digits = max(len(str(count)), 3)
    answers = _bulk(client, [{**known, "device_id": f"{prefix}{number:0{digits}}"} for number in range(1, count + 1)])
    refused = [answer["error"] for answer in answers if "error" in answer]
    if refused:
        raise Failure(f"no code for {len(refused)} of {count}: {_complaint(refused[0])}")
    return answers


def _bulk(client: ServerClient, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.call("POST", "/v1/invitations/bulk", json={"invitations": items})[
        "invitations"
    ]
    if len(found) != len(items):
        raise Failure(f"{len(items)} codes were asked for, and {len(found)} answered: is it another server?")
    return found


def _label(answer: dict[str, Any], address: str | None) -> CodeLabel:
    url = str(answer["url"])
    if address is not None:
        url = f"{address.rstrip('/')}/enrol#{url.partition('#')[2]}"
    return CodeLabel(answer["id"], answer["code"], url, answer["device_id"], answer["name"], answer["expires_at"])


def _complaint(error: dict[str, Any]) -> str:
    return f"{for_terminals(str(error['detail']))} ({error['code']})"


def _summary(labels: Sequence[CodeLabel], answers: Iterable[dict[str, Any]], files: CodeFiles) -> str:
    if not labels:
        return "No codes were made."
    batch = next(answer["batch"] for answer in answers if "batch" in answer)
    made = "1 code, shown this once" if len(labels) == 1 else f"{len(labels)} codes, shown this once"
    where = f" They are in {', '.join(map(str, files.wanted))}." if files.wanted else ""
    text = f"{made}; batch {batch}.{where} `{PROGRAM} devices uninvite {batch}` voids what is not used."
    if urlsplit(labels[0].url).hostname in LOOPBACK:
        text += " Their address is of this machine only: set public_url (or public_host), or give --address."
    return text
