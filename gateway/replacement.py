"""Replace what a data directory holds, all or nothing: the steps of `restore` that a crash may interrupt.

The new files wait, complete and synced, in a folder beside the old ones. One rename decides:

    .restore-staging-…   being filled; whoever finds one later may remove it: the old state holds
    .restore-decided-…   complete: the new state holds. The old files move into their own folder ...
    .restore-placing-…   ... and then the new ones to their places

After the decision only renames follow, which need no space. `finish` does what is left of them, as often as it takes:
`serve` calls it before it opens anything, and `restore` before it begins. What happens in between shows at most a
directory without a ledger, never one with files of both states: whoever does not hold the lock and finds one of the
folders (`unfinished`) keeps away.
"""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from gateway.data_directory import ASIDE, LOCK_FILE, STAGING, sync_directory

DECIDED = ".restore-decided-"
PLACING = ".restore-placing-"
"""The prefix of the marker of a decided restore; the time of the decision follows, as in the name of the old state's
folder."""


def unfinished(data_dir: Path) -> bool:
    """Has a restore been decided that is not yet carried out?"""
    return bool([*data_dir.glob(f"{DECIDED}*"), *data_dir.glob(f"{PLACING}*")])


def present(data_dir: Path) -> list[Path]:
    """List what a restore would move aside."""
    own = (STAGING, DECIDED, PLACING, ASIDE)
    return sorted(path for path in data_dir.iterdir() if path.name != LOCK_FILE and not path.name.startswith(own))


def replace(data_dir: Path, staging: Path) -> None:
    """Put what `staging` holds in the place of everything else in `data_dir`. Call with the directory's lock held."""
    for folder, _, _ in os.walk(staging):
        sync_directory(Path(folder))
    os.rename(staging, data_dir / f"{DECIDED}{_unused_time(data_dir)}")
    sync_directory(data_dir)
    finish(data_dir)


def finish(data_dir: Path) -> bool:
    """Carry out what has been decided; was there anything? Call with the directory's lock held. Raises OSError."""
    found = unfinished(data_dir)
    for decided in sorted(data_dir.glob(f"{DECIDED}*")):
        time = decided.name.removeprefix(DECIDED)
        old = present(data_dir)
        if old:
            aside = data_dir / f"{ASIDE}{time}"
            aside.mkdir(mode=0o700, exist_ok=True)  # after a crash it may be there, with a part of them
            for path in old:
                os.rename(path, aside / path.name)
            sync_directory(aside)
            sync_directory(data_dir)
        os.rename(decided, data_dir / f"{PLACING}{time}")
        sync_directory(data_dir)
    for placing in sorted(data_dir.glob(f"{PLACING}*")):
        for path in sorted(placing.iterdir()):
            os.rename(path, data_dir / path.name)
        sync_directory(data_dir)
        placing.rmdir()
    if found:
        sync_directory(data_dir)
    return found


def _unused_time(data_dir: Path) -> str:
    """Now, to the second, with a number behind it if an old state of this second is there already."""
    time = now = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    number = 1
    while (data_dir / f"{ASIDE}{time}").exists():
        number += 1
        time = f"{now}-{number}"
    return time


def remove_leftovers(data_dir: Path) -> None:
    """Remove what an interrupted restore had unpacked and not decided. Call with the directory's lock held."""
    for path in data_dir.glob(f"{STAGING}*"):
        shutil.rmtree(path, ignore_errors=True)
