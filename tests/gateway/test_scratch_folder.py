"""Copies in the clear are gone afterwards, whatever happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.scratch_folder import PREFIX, UNLOCKED_SECONDS, remove_abandoned, scratch_folder

ROOT = Path(__file__).parents[2]


def test_it_is_the_owners_and_ends_with_its_block(tmp_path: Path) -> None:
    def fail() -> None:
        with scratch_folder(tmp_path) as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            (folder / "secret").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from gateway.scratch_folder import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1])) as folder: print(folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None, "opened as a pipe"
        folder = Path(process.stdout.readline().strip())
        long_ago = folder.stat().st_mtime - 2 * UNLOCKED_SECONDS
        os.utime(folder, (long_ago, long_ago))
        remove_abandoned(tmp_path)
        assert folder.exists(), "its maker lives"
        process.send_signal(signal.SIGKILL)
        process.wait()
    with scratch_folder(tmp_path) as other:
        assert [path.name for path in tmp_path.glob(f"{PREFIX}*")] == [other.name]


def test_a_service_manager_that_ends_a_command_leaves_nothing_behind(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from gateway.cli.backups import end_by_exception\n"
        "from gateway.scratch_folder import scratch_folder\n"
        "end_by_exception()\n"
        "with scratch_folder(Path(sys.argv[1])) as folder: print(folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None, "opened as a pipe"
        assert Path(process.stdout.readline().strip()).exists()
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM, "nothing is done"
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_just_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}new").mkdir()
    remove_abandoned(tmp_path)
    assert (tmp_path / f"{PREFIX}new").exists()
