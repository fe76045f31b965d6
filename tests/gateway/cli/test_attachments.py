"""Fetching an attachment: a whole file or none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2

from tests.gateway.cli.fake_server import FakeServer

CONTENT = bytes(range(256)) * 400
ID = hashlib.sha256(CONTENT).hexdigest()


def test_a_file_is_fetched_and_checked(fake: FakeServer, tmp_path: Path) -> None:
    fake.answer = lambda request: httpx2.Response(200, content=CONTENT)
    file = tmp_path / "menu.png"
    assert fake.run("attachments", "fetch", f"attachment:{ID}", str(file)).stderr == "102,400 bytes\n"
    assert fake.only.path == f"/v1/attachments/{ID}"
    assert file.read_bytes() == CONTENT
    again = fake.run("attachments", "fetch", ID, str(file))
    assert (again.exit_code, "--force" in again.stderr) == (2, True)


def test_what_is_broken_leaves_what_was_there(fake: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "menu.png"
    file.write_text("before")
    fake.answer = lambda request: httpx2.Response(200, content=CONTENT[1:])
    ended = fake.run("attachments", "fetch", ID, str(file), "--force")
    assert (ended.exit_code, "its SHA-256 is another" in ended.stderr) == (1, True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("menu.png", "before")]
    assert "cannot be written" in fake.run("attachments", "fetch", ID, str(tmp_path / "no" / "file")).stderr
