"""A disk that fails when told to, for a real process: `disk_faults.c`, preloaded."""

from __future__ import annotations

import errno
from pathlib import Path

from tests.preloaded import preload_environment


class DiskFaults:
    """`env` is for the process whose calls on files below `below` shall fail; what is to fail stands in `folder`."""

    def __init__(self, folder: Path, below: Path) -> None:
        self._rules = folder / "disk_faults"
        self._rules.write_text("")
        self.env = {
            **preload_environment(),
            "DISK_FAULTS_FILE": str(self._rules),
            "DISK_FAULTS_BELOW": str(below),
        }

    def fail(self, call: str, name: str = "-", number: int = errno.EIO) -> None:
        """From now on `call` (sync, write) fails on files with `name` in their paths."""
        self._rules.write_text(f"{call} {number} {name}\n")

    def delay_syncs(self, milliseconds: int, name: str = "-") -> None:
        """From now on each sync of files with `name` in their paths takes so much longer."""
        self._rules.write_text(f"delay {milliseconds} {name}\n")

    def mend(self) -> None:
        self._rules.write_text("")
