"""Tables of devices: what is read, which lines are named, and where tokens are when something breaks."""

from __future__ import annotations

import csv
import io
import json
import stat
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.cli import enrolment
from gateway.cli.enrolment import BadTable, BadTableRow, TableRow, rows_of
from tests.gateway.cli.fake_server import FakeServer, Request, problem


def read(text: str) -> list[TableRow | BadTableRow]:
    return list(rows_of(io.StringIO(text, newline="")))


def enrolled(request: Request) -> Any:
    """Every device, but for those whose id says what is wrong with them."""
    return {"devices": [answer_to(device) for device in request.json["devices"]]}


def answer_to(device: dict[str, Any]) -> dict[str, Any]:
    device_id = device.get("device_id", "d-1")
    if device_id.startswith("there"):
        detail = "a device with this id exists"
        return {"device_id": device_id, "error": {"code": "device_exists", "detail": detail, "status": 409}}
    if device_id.startswith("bad"):
        error = {"code": "invalid_request", "detail": "device_id: \x1b[2J", "status": 422}
        return {"device_id": device_id, "error": error}
    mqtt = {"host": "0.0.0.0", "port": 1883, "tls": False, "websocket": "ws://x/mqtt"}
    credential = {"client_id": device_id, "username": device_id}
    return {"device_id": device_id, "token": f"dev_{device_id}", "mqtt": mqtt | credential}


def test_columns_come_in_any_order_and_with_any_separator() -> None:
    expected = [
        TableRow(2, {"device_id": "k1", "tags": ["a", "b"], "attributes": {"floor": 2, "Serial": "007"}}),
        TableRow(3, {"name": 'The "till",\nleft'}),
        TableRow(6, {"device_id": "k2"}),
    ]
    rows = [
        ["tags", "attribute.floor", " device_id ", "attribute.Serial", "name"],
        ["a, b", "2", "k1", "007", " "],
        ["", "", "", "", 'The "till",\nleft'],
        ["", "", "", "", ""],
        ["", "", "k2", "", ""],
    ]
    for delimiter in ",;\t":
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter).writerows(rows)
        assert read(text.getvalue()) == expected, delimiter


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1 names the columns: device_id, "),
        ("kiosk-1\n", "none is called 'kiosk-1'"),
        ("device_id,attribute.\n", "none is called 'attribute.'"),
        ("device_id,name,device_id\n", "twice"),
        ('device_id\nk1\n"k2\n', "line 3 is no CSV"),
        ('"device_id\n', "line 1 is no CSV"),
    ],
)
def test_a_table_that_is_none(text: str, says: str) -> None:
    with pytest.raises(BadTable, match=says):
        read(text)


def test_a_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "MAX_DEVICES", 2)
    assert len(read("name\na\nb\n")) == 2
    with pytest.raises(BadTable, match="more than 2 lines"):
        read("name\na\nb\nc\n")


def test_lines_are_named_and_the_others_enrolled(fake: FakeServer, tmp_path: Path) -> None:
    fake.answer = enrolled
    table = b"\xef\xbb\xbfdevice_id,name\nk1,One\nk2\nk1,Twice\nk3,caf\xe9\nbad-1,x\nthere-1,x\nk4,\n"
    tokens = tmp_path / "tokens.csv"
    ended = fake.run("devices", "enrol", "-", "--tokens", str(tokens), input=table)
    assert ended.exit_code == 1
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "line 3: it has 1 cells, and there are 2 columns",
        "line 4: k1 is in line 2 already",
        "line 5: it is not UTF-8: save the table as CSV UTF-8",
        "line 6: bad-1: device_id: �[2J (invalid_request)",
        "line 7: there-1: a device with this id exists (device_exists)",
        f"2 enrolled, 5 not enrolled. Their tokens are in {tokens}.",
    ]
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o600
    rows = list(csv.DictReader(tokens.read_text().splitlines()))
    assert [(row["device_id"], row["token"], row["host"], row["tls"]) for row in rows] == [
        ("k1", "dev_k1", "127.0.0.1", "false"),
        ("k4", "dev_k4", "127.0.0.1", "false"),
    ]


def test_a_second_run_skips_what_is_there(fake: FakeServer) -> None:
    fake.answer = enrolled
    ended = fake.run("devices", "enrol", "-", "--skip-existing", "--json", input=b"device_id\nthere-1\nk1\n")
    assert (ended.exit_code, ended.stderr) == (0, "1 enrolled, 1 were there already, 0 not enrolled.\n")
    (line,) = ended.stdout.splitlines()
    assert json.loads(line)["token"] == "dev_k1"


def test_tokens_are_never_written_over(fake: FakeServer, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.csv"
    tokens.write_text("precious")
    ended = fake.run("devices", "enrol", "-", "--tokens", str(tokens), input=b"device_id\nk1\n")
    assert (ended.exit_code, fake.requests) == (2, [])
    assert "may hold tokens" in ended.stderr
    tokens.unlink()
    fake.answer = enrolled
    assert fake.run("devices", "enrol", "-", "--tokens", str(tokens), input=b"device_id\nbad\n").exit_code == 1
    assert not tokens.exists(), "there were none"


def test_who_breaks_off_has_the_tokens_so_far_and_knows_which_lines_are_open(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "PART_DEVICES", 2)

    def answer(request: Request) -> Any:
        if len(fake.requests) == 2:
            raise httpx2.ReadError("gone")
        return enrolled(request)

    fake.answer = answer
    tokens = tmp_path / "tokens.csv"
    ended = fake.run("devices", "enrol", "-", "--tokens", str(tokens), input=b"device_id\nk1\nk2\nk3\nk4\nk5\n")
    assert ended.exit_code == 1
    assert "2 enrolled, 0 not enrolled. What is in lines 4 to 5 may be, without its token" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert len(tokens.read_text().splitlines()) == 3
    fake.answer = lambda request: problem(403, "forbidden", "the key lacks the scope devices")
    assert (
        "0 enrolled, 0 not enrolled. Not line 2 and what follows."
        in fake.run("devices", "enrol", "-", input=b"device_id\nk1\n").stderr
    )


def test_large_devices_are_sent_a_few_at_a_time(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "PART_BYTES", 5_000)
    fake.answer = enrolled
    table = "device_id,attribute.text\n" + "".join(f"k{number},{'x' * 1_000}\n" for number in range(8))
    ended = fake.run("devices", "enrol", "-", input=table.encode())
    assert ended.exit_code == 0
    assert [len(request.json["devices"]) for request in fake.requests] == [5, 3]
    assert len(ended.stdout.splitlines()) == 9, "one heading"
