"""Backups on a schedule: `fleetpush backup --every 6h --keep 14 --to DIR`, a small service beside the server.

Laws
1. The folder is the schedule's only memory. Time is divided into slots of the interval, counted from 1970 in UTC (every
   6 h: at 0, 6, 12 and 18 o'clock); a backup is due as long as the folder has none of the present slot. So a restart
   neither skips one nor makes one twice, what was missed while the machine was off is made up at once, and nothing
   drifts.
2. A name is that of a complete file (`backup`, law 7), with `verify` of a proven one. What failed leaves no name.
3. Old ones are removed only after a new one has its name, the oldest first, down to `keep`; the newest that is proven
   is never removed. A disk that fills therefore costs new backups, not old ones: that is recorded and told.
4. What failed is tried again after `RETRY_SECONDS`, and every attempt is one line.

The wall clock may be wrong. A backup whose name is in the future counts for no slot, so that a clock that was once too
far ahead keeps no backup from being made; it is kept like any other.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.backup import create
from gateway.backup_archive import BackupError
from gateway.backup_proof import create_proven
from gateway.backup_record import read_record, record_failure, record_made, record_proof
from gateway.data_directory import sync_directory

if TYPE_CHECKING:
    from pyrage.x25519 import Recipient

NAME = re.compile(r"fleetpush-(\d{8}T\d{6}Z)\.tgz(?:\.age)?")
TIME_FORMAT = "%Y%m%dT%H%M%SZ"
LEAST_INTERVAL_SECONDS = 60
RETRY_SECONDS = 300
RETRY_SHARE = 4
"""A short interval is tried again after this part of it."""
CHECK_SECONDS = 60.0
"""Time between two looks at the clock, which somebody may set."""


@dataclass(slots=True, frozen=True)
class SchedulePlan:
    """The schedule as it was asked for."""

    data_dir: Path
    folder: Path
    every_seconds: int
    keep: int
    verify: bool = False
    recipients: Sequence[Recipient] = ()
    scratch: Path | None = None


class BackupSchedule:
    """Makes the backups that are due in a folder, and removes those that are too many."""

    def __init__(
        self, plan: SchedulePlan, report: Callable[[str], None], wall_time: Callable[[], float] = time.time
    ) -> None:
        """`report` is given a line for each attempt; `wall_time` returns Unix seconds."""
        self._plan = plan
        self._report = report
        self._wall_time = wall_time
        self._retry_at = 0.0

    def run_due(self) -> float:
        """Make a backup if one is due; return the seconds until it should be called again."""
        began = self._wall_time()
        if self.is_due(began) and not began < self._retry_at <= began + RETRY_SECONDS:
            try:
                self._make(began)
                self._retry_at = 0.0
            except (BackupError, OSError) as error:
                self._note_failure(began, error)
        every = self._plan.every_seconds
        ended = self._wall_time()
        next_slot = (ended // every + 1) * every
        wanted = self._retry_at if ended < self._retry_at < next_slot else next_slot
        return min(max(wanted - ended, 0.1), CHECK_SECONDS)

    def is_due(self, at: float) -> bool:
        """Does the folder lack a backup of the slot that this Unix time is in?"""
        every = self._plan.every_seconds
        return not any(made <= at and made // every == at // every for made, _ in self.existing())

    def existing(self) -> list[tuple[float, Path]]:
        """List complete backups of the folder with their Unix times, the oldest first."""
        found = []
        for path in self._plan.folder.iterdir():
            if match := NAME.fullmatch(path.name):
                with suppress(ValueError):  # no time, so none of ours
                    made = datetime.strptime(match[1], TIME_FORMAT).replace(tzinfo=UTC).timestamp()
                    found.append((made, path))
        return sorted(found)

    def _make(self, began: float) -> None:
        plan = self._plan
        suffix = ".tgz.age" if plan.recipients else ".tgz"
        path = plan.folder / f"fleetpush-{datetime.fromtimestamp(began, UTC):{TIME_FORMAT}}{suffix}"
        proof = None
        if plan.verify:
            proof = create_proven(plan.data_dir, path, recipients=plan.recipients, scratch=plan.scratch)
            manifest = proof.manifest
        else:
            manifest = create(plan.data_dir, path, recipients=plan.recipients, scratch=plan.scratch)
        size = path.stat().st_size
        text = f"{path}: {size:,} bytes" + (f", {proof.describe()}" if proof is not None else "")
        try:
            record_made(plan.data_dir, manifest.moment, size, plan.every_seconds)
            if proof is not None:
                record_proof(
                    plan.data_dir,
                    origin=manifest.origin,
                    proven_of=manifest.moment,
                    proven_at=proof.proven_at,
                    file=str(path.absolute()),
                )
        except OSError as error:
            text += f"; it cannot be recorded in {plan.data_dir}: {error.strerror}"
        self._report(text)
        self.remove_surplus(made=path)

    def remove_surplus(self, made: Path) -> None:
        """Remove the oldest backups beyond those to keep; never the newest that is proven, nor the one just made."""
        kept = {read_record(self._plan.data_dir).proven_file, str(made.absolute())}
        surplus = [path for _, path in self.existing()][: -self._plan.keep]
        removed = [path for path in surplus if str(path.absolute()) not in kept]
        for path in removed:
            path.unlink(missing_ok=True)
        if removed:
            sync_directory(self._plan.folder)
            self._report(f"{', '.join(path.name for path in removed)}: removed, {self._plan.keep} newer are kept")

    def _note_failure(self, began: float, error: Exception) -> None:
        every = self._plan.every_seconds
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        pause = min(RETRY_SECONDS, every / RETRY_SHARE)
        self._retry_at = self._wall_time() + pause
        self._report(f"no backup was made, trying again in {pause:.0f} s: {reason}")
        with suppress(OSError):  # the data directory may be what is missing
            record_failure(self._plan.data_dir, int(began), reason, every)


@contextmanager
def scheduled_folder(folder: Path) -> Iterator[None]:
    """Make the folder if need be, and have it alone. Raises BackupError, OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"{folder} is another schedule's: stop that, or give each a folder of its own") from None
        yield
    finally:
        os.close(descriptor)
