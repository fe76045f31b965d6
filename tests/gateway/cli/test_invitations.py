"""Codes from the command line: what is asked for, and where they are when something breaks."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import code_sheets
from tests.gateway.cli.fake_server import FakeServer, Request

URL = "https://push.example:8080"


def made(request: Request) -> Any:
    """A code for each that is asked for; none for ids that say so."""
    if request.path.endswith("/bulk"):
        return {"invitations": [answer_to(number, item) for number, item in enumerate(request.json["invitations"])]}
    return {"invitations": [answer_to(number, request.json) for number in range(request.json["count"])]}


def answer_to(number: int, item: dict[str, Any]) -> dict[str, Any]:
    if str(item.get("device_id")).startswith("bad"):
        return {"error": {"code": "invalid_request", "detail": "device_id: \x1b[2J", "status": 422}}
    code = f"K7QF-2M9T-4XWA-{number:04}"
    return {
        "id": f"i_{number}", "batch": "b_1", "code": code, "url": f"{URL}/enrol#{code}.ca",
        "device_id": item.get("device_id"), "name": item.get("name"), "expires_at": "2026-12-06T12:00:00.000Z",
    }  # fmt: skip


@pytest.fixture(autouse=True)
def answers(fake: FakeServer) -> None:
    fake.answer = made


def test_alike_ones_are_one_request(fake: FakeServer) -> None:
    about = ["--name", "Till", "--tag", "a", "--tag", "b", "--attribute", "floor=1", "--expires", "12h"]
    ended = fake.run("devices", "invite", "--count", "2", *about)
    assert ended.exit_code == 0
    assert fake.only.json == {
        "name": "Till", "tags": ["a", "b"], "attributes": {"floor": 1}, "expires_in": 43_200, "count": 2,
    }  # fmt: skip
    assert [line.split("\t")[0] for line in ended.stdout.splitlines()[1:]] == [
        "K7QF-2M9T-4XWA-0000", "K7QF-2M9T-4XWA-0001",
    ]  # fmt: skip
    assert "2 codes, shown this once; batch b_1." in ended.stderr


def test_ids_are_numbered(fake: FakeServer) -> None:
    ended = fake.run("devices", "invite", "--count", "2", "--prefix", "kiosk-", "--tag", "a", "--json")
    items = fake.only.json["invitations"]
    assert [item["device_id"] for item in items] == ["kiosk-001", "kiosk-002"]
    assert [json.loads(line)["device_id"] for line in ended.stdout.splitlines()] == ["kiosk-001", "kiosk-002"]
    assert all(item["tags"] == ["a"] for item in items)
    refused = fake.run("devices", "invite", "--count", "2", "--prefix", "bad")
    assert refused.exit_code == 1
    assert "no code for 2 of 2" in refused.stderr


def test_a_table_has_a_code_for_each_line_that_is_a_device(fake: FakeServer, tmp_path: Path) -> None:
    table = tmp_path / "fleet.csv"
    table.write_text("device_id,name,tags\nkiosk-1,Entrance,a b\nbad-1,,\nkiosk-2,Exit\n")
    codes = tmp_path / "codes.csv"
    ended = fake.run("devices", "invite", "--from", str(table), "--csv", str(codes))
    assert ended.exit_code == 1
    assert [line.partition(":")[0] for line in ended.stderr.splitlines()[:2]] == ["line 3", "line 4"]
    assert "\x1b" not in ended.stderr
    assert fake.only.json["invitations"][0] == {
        "device_id": "kiosk-1", "name": "Entrance", "tags": ["a", "b"], "expires_in": 604_800,
    }  # fmt: skip
    (row,) = csv.DictReader(codes.read_text().splitlines())
    assert (row["device_id"], row["url"]) == ("kiosk-1", f"{URL}/enrol#K7QF-2M9T-4XWA-0000.ca")
    assert stat.S_IMODE(codes.stat().st_mode) == 0o600


def test_all_files_at_once(fake: FakeServer, tmp_path: Path) -> None:
    files = ["--csv", str(tmp_path / "c.csv"), "--pdf", str(tmp_path / "c.pdf"), "--png", str(tmp_path / "png")]
    ended = fake.run("devices", "invite", "kiosk-1", *files, "--address", "http://10.0.0.1:8080/")
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout == "", "they are in the files"
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")
    (picture,) = (tmp_path / "png").iterdir()
    assert picture.name == "kiosk-1-i_0.png"
    assert "http://10.0.0.1:8080/enrol#K7QF-2M9T-4XWA-0000.ca" in (tmp_path / "c.csv").read_text()
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "c.pdf", picture))


def test_no_code_is_made_that_cannot_be_written(fake: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("")
    for option, where in (("--csv", "there.csv"), ("--pdf", "missing/c.pdf"), ("--png", "there.csv/x")):
        ended = fake.run("devices", "invite", option, str(tmp_path / where))
        assert ended.exit_code == 2, ended.stderr
    assert fake.requests == []


def test_a_batch_is_named_whose_codes_are_lost(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        if content:
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("gateway.cli.invitations.write_new", full)
    ended = fake.run("devices", "invite", "--csv", str(tmp_path / "c.csv"))
    assert ended.exit_code == 1
    assert "devices uninvite b_1" in ended.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--from", "x", "--count", "2"],
        ["kiosk-1", "--prefix", "k"],
        ["--address", "push.example"],
        ["--expires", "soon"],
    ],
)
def test_wrong_use(fake: FakeServer, options: list[str]) -> None:
    assert fake.run("devices", "invite", *options).exit_code == 2
    assert fake.requests == []


def test_a_long_name_does_not_leave_its_label() -> None:
    label = code_sheets.CodeLabel("i_1", "K7QF-2M9T-4XWA-0HZP", f"{URL}/enrol#x", None, "x" * 128 + "→", "2026-12-06")
    assert code_sheets.sheets_of([label]).startswith(b"%PDF")
    assert code_sheets.picture_name(label) == f"{'x' * 80}-i_1.png"
    assert code_sheets.picture_name(label._replace(name="../../→")) == "i_1.png"
