"""What `fleetpush backup` and `restore` say when the system refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import backup as archive
from tests.gateway.cli.fake_server import run_command


@pytest.mark.parametrize(("command", "operation"), [("backup", "create"), ("restore", "restore")])
def test_a_refusal_of_the_system_is_in_words(
    command: str, operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        (tmp_path / "none" / "folder").mkdir()

    monkeypatch.setattr(archive, operation, refuse)
    ended = run_command(command, str(tmp_path / "b.bak"), "--data-dir", str(tmp_path))
    assert ended.exit_code == 1
    assert ended.stderr.endswith(f": {tmp_path}/none/folder: No such file or directory\n")
    assert "Errno" not in ended.stderr
