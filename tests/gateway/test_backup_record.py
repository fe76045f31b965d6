"""What is recorded of backups, and whose proof counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import backup_record
from gateway.backup_record import BackupRecord, origin_of, read_record, record_failure, record_made, record_proof


def test_a_directory_keeps_the_name_that_its_first_backup_gave_it(tmp_path: Path) -> None:
    assert read_record(tmp_path) == BackupRecord()
    origin = origin_of(tmp_path)
    assert len(origin) == 16
    assert origin_of(tmp_path) == origin == read_record(tmp_path).origin
    assert (tmp_path / "backups.json").stat().st_mode & 0o777 == 0o600


def test_only_a_proof_of_its_own_counts_and_an_older_one_hides_no_newer(tmp_path: Path) -> None:
    origin = origin_of(tmp_path)
    assert not record_proof(tmp_path, origin="another", proven_of=9, proven_at=9, file="x")
    assert not record_proof(tmp_path, origin="", proven_of=9, proven_at=9, file="x")
    assert record_proof(tmp_path, origin=origin, proven_of=5, proven_at=6, file="/b/new")
    assert record_proof(tmp_path, origin=origin, proven_of=3, proven_at=7, file="/b/old")
    record = read_record(tmp_path)
    assert (record.proven_of, record.proven_file, record.proven_at) == (5, "/b/new", 7)


def test_failures_are_counted_until_one_succeeds(tmp_path: Path) -> None:
    for at in (1, 2):
        record_failure(tmp_path, at, "the disk is full" + "!" * 1_000, 3_600)
    record = read_record(tmp_path)
    assert (record.failed_at, record.failed_attempts, record.interval_seconds) == (2, 2, 3_600)
    assert len(record.failure) == backup_record.REASON_CHARACTERS
    record_made(tmp_path, 3, 1_000)
    record = read_record(tmp_path)
    assert (record.failed_attempts, record.failure, record.made_at, record.made_bytes) == (0, "", 3, 1_000)
    assert record.interval_seconds == 3_600, "one backup by hand ends no schedule"


@pytest.mark.parametrize("content", ["", "[]", "[" * 50_000, "null", '{"made_at": "soon", "proven_of": 7}', "\0"])
def test_a_file_that_says_nothing_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "backups.json").write_text(content)
    assert read_record(tmp_path) in (BackupRecord(), BackupRecord(proven_of=7))
