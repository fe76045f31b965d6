from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.data_directory import DirectoryInUse, announced, locked, write_private


def test_a_directory_is_made_private_and_held_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data"
    with locked(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        with pytest.raises(DirectoryInUse, match=f"process {os.getpid()}"), locked(path):
            pass
    with locked(path):
        pass


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from gateway.data_directory import locked\n"
    code += f"with locked(Path({str(tmp_path)!r})):\n print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(DirectoryInUse, match=f"process {holder.pid}"), locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with locked(tmp_path):
        pass


def test_private_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["admin.key"]


def test_a_server_is_announced_while_it_runs(tmp_path: Path) -> None:
    with announced(tmp_path, {"url": "http://127.0.0.1:1"}):
        assert '"url"' in (tmp_path / "server.json").read_text()
    assert not (tmp_path / "server.json").exists()
