"""Backups come when they are due, over restarts and wrong clocks, and the last good one never goes."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from gateway import backup, backup_schedule
from gateway.backup_archive import BackupError
from gateway.backup_record import change_record, read_record
from gateway.backup_schedule import RETRY_SECONDS, BackupSchedule, SchedulePlan, scheduled_folder
from tests.gateway.fleet_directory import make_fleet_directory

HOUR = 3_600
EVERY = 6 * HOUR
START = int(datetime(2026, 12, 1, 8, 20, tzinfo=UTC).timestamp())


class Clock:
    """A wall clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = float(START)

    def __call__(self) -> float:
        return self.at


class Service:
    """A schedule, its folder, and the lines that it has said."""

    def __init__(self, tmp_path: Path, keep: int = 3, verify: bool = False) -> None:
        self.folder = tmp_path / "backups"
        self.folder.mkdir(exist_ok=True)
        self.data_dir = tmp_path / "data"
        self.clock = Clock()
        self.lines: list[str] = []
        self.plan = SchedulePlan(self.data_dir, self.folder, EVERY, keep, verify)
        self.restart()

    def restart(self) -> None:
        self.schedule = BackupSchedule(self.plan, self.lines.append, self.clock)

    def run_until(self, end: float) -> None:
        while self.clock.at < end:
            self.clock.at = min(self.clock.at + self.schedule.run_due(), end)

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def service(tmp_path: Path) -> Service:
    make_fleet_directory(tmp_path / "data")
    return Service(tmp_path)


def empty_backups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write empty files: when they come is the question, and not what is in them."""
    create = backup.create

    def create_quickly(data_dir: Path, archive: Path, **options: object) -> object:
        if not hasattr(create_quickly, "manifest"):
            create_quickly.manifest = create(data_dir, archive)  # type: ignore[attr-defined]
        archive.touch()
        return create_quickly.manifest  # type: ignore[attr-defined]

    monkeypatch.setattr(backup_schedule, "create", create_quickly)


def test_the_first_comes_at_once_and_the_others_at_the_full_slots(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_backups(monkeypatch)
    service.run_until(START + 24 * HOUR)
    assert service.names == [
        "fleetpush-20261201T180000Z.tgz",
        "fleetpush-20261202T000000Z.tgz",
        "fleetpush-20261202T060000Z.tgz",
    ]
    made = [line.split(":")[0].rpartition("-")[2] for line in service.lines if "bytes" in line]
    assert made == [
        f"{time}Z.tgz" for time in ("20261201T082000", "20261201T120000", "20261201T180000", "20261202T000000",
                                    "20261202T060000")
    ]  # fmt: skip


def test_a_restart_neither_repeats_nor_skips_one(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_backups(monkeypatch)
    for _ in range(5):
        service.schedule.run_due()
        service.restart()
        service.clock.at += 60
    assert len(service.names) == 1
    service.clock.at = START + 5 * HOUR  # it was off at 12
    service.restart()
    service.schedule.run_due()
    assert service.names[-1] == "fleetpush-20261201T132000Z.tgz"


def test_a_clock_that_was_far_ahead_stops_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_backups(monkeypatch)
    service.clock.at += 5 * 365 * 24 * HOUR
    service.schedule.run_due()
    service.clock.at = START
    service.run_until(START + 12 * HOUR)
    assert len(service.names) == 3
    assert service.names[0].startswith("fleetpush-20261201T12")
    assert service.names[2].startswith("fleetpush-2031")


def test_a_failure_is_told_recorded_and_tried_again_and_costs_no_old_backup(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_backups(monkeypatch)
    service.run_until(START + 12 * HOUR)
    before, attempts = service.names, []

    def refuse(*_: object, **__: object) -> None:
        attempts.append(service.clock.at)
        raise OSError(28, "No space left on device", "/backup")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(backup_schedule, "create", refuse)
        service.run_until(START + 15 * HOUR + 40 * 60 + 2 * RETRY_SECONDS)
    assert service.names == before
    record = read_record(service.data_dir)
    assert record.failed_attempts == len(attempts) >= 2
    assert record.failure == "/backup: No space left on device"
    assert record.interval_seconds == EVERY
    pauses = {later - sooner for sooner, later in pairwise(attempts)}
    assert pauses == {RETRY_SECONDS}
    assert len([line for line in service.lines if "trying again" in line]) == len(attempts)
    service.run_until(service.clock.at + 2 * RETRY_SECONDS)
    assert len(service.names) == 3
    assert service.names != before
    assert read_record(service.data_dir).failed_attempts == 0


def test_the_newest_that_is_proven_is_never_removed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_backups(monkeypatch)
    proven = service.folder / "fleetpush-20261101T000000Z.tgz"
    for path in (proven, service.folder / "fleetpush-20261102T000000Z.tgz", service.folder / "letter.tgz"):
        path.touch()
    change_record(service.data_dir, proven_file=str(proven), proven_of=1)
    service.run_until(START + 24 * HOUR)
    assert proven.exists()
    assert (service.folder / "letter.tgz").exists(), "somebody else's"
    assert len(service.names) == 3 + 2


def test_with_verify_each_is_proven_and_recorded(tmp_path: Path) -> None:
    make_fleet_directory(tmp_path / "data")
    service = Service(tmp_path, verify=True)
    service.schedule.run_due()
    (name,) = service.names
    record = read_record(service.data_dir)
    assert record.proven_file == str(service.folder / name)
    assert record.proven_of == record.made_at > 0
    assert record.made_bytes == (service.folder / name).stat().st_size
    assert "proven in" in service.lines[0]
    assert "3 devices" in service.lines[0]


def test_a_folder_has_one_schedule(tmp_path: Path) -> None:
    with (
        scheduled_folder(tmp_path / "b"),
        pytest.raises(BackupError, match="another schedule"),
        scheduled_folder(tmp_path / "b"),
    ):
        raise AssertionError


def test_the_one_just_made_stays_beside_one_of_the_future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_fleet_directory(tmp_path / "data")
    empty_backups(monkeypatch)
    service = Service(tmp_path, keep=1)
    (service.folder / "fleetpush-20310101T000000Z.tgz").touch()
    service.schedule.run_due()
    assert service.names == ["fleetpush-20261201T082000Z.tgz", "fleetpush-20310101T000000Z.tgz"]
