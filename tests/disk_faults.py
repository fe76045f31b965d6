"""A disk that fails when told to, for a real process: `disk_faults.c`, preloaded."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

from tests.third_party import require

SOURCE = Path(__file__).with_suffix(".c")


class DiskFaults:
    """Compiled into `folder`; `env` is for the process whose calls on files below `below` shall fail."""

    def __init__(self, folder: Path, below: Path) -> None:
        require("cc")
        library, self._rules = folder / "disk_faults.so", folder / "disk_faults"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        self._rules.write_text("")
        self.env = {
            "LD_PRELOAD": str(library),
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
