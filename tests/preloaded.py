"""Libraries that a real process loads before all others, so that a test decides about its disk and its clock.

`disk_faults.c` and `end_to_end/clock_shim.c`, compiled once for each test process. Each does nothing until its own
variables are set, so that one process with both of them is the parent of all servers that need either
(`end_to_end/warm_start.py`).
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from tests.third_party import require

FOLDER: Final = Path(__file__).parent
SOURCES: Final = (FOLDER / "disk_faults.c", FOLDER / "end_to_end" / "clock_shim.c")


@cache
def preload_environment() -> dict[str, str]:
    """The variables with which the loader loads them."""
    compiler = require("cc")
    folder = Path(mkdtemp(prefix="fleetpush-preloaded-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    libraries = [folder / f"{source.stem}.so" for source in SOURCES]
    for source, library in zip(SOURCES, libraries, strict=True):
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": ":".join(map(str, libraries))}
