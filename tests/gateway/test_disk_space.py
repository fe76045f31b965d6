"""Room for what has been accepted: the logs, the reserve, the pages that are free inside, and what a start needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway import disk_space
from gateway.disk_space import RESERVE_FILE, DiskSpace

KIB = 1024


class Disk:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, blocks: int, free: int) -> None:
        self.blocks, self.free, self.looks = blocks, free, 0
        monkeypatch.setattr(os, "statvfs", self._statvfs)

    def _statvfs(self, _: Path) -> os.statvfs_result:
        self.looks += 1
        return os.statvfs_result((KIB, KIB, self.blocks, self.free, self.free, 0, 0, 0, 0, 255))


def test_the_logs_must_be_able_to_grow_and_the_reserve_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, blocks=128 * KIB, free=0)
    now, inside = 0.0, 0
    space = DiskSpace(path=tmp_path, reserve=1 << 30, clock=lambda: now, free_inside=lambda: inside)
    # Two logs, 4 MiB each between checkpoints (a thirty-second of the disk) and twice that at most; an eighth of it.
    logs, reserve = 16 * KIB, 16 * KIB
    disk.free = logs + reserve
    assert not space.has_room()
    disk.free += 1
    assert not space.has_room(), "not looked at again so soon"
    now += 1
    assert space.has_room()
    assert disk.looks == 2

    disk.free, inside, now = logs, reserve * KIB, now + 1
    assert not space.has_room()
    inside, now = inside + 1, now + 1
    assert space.has_room(), "pages that are free inside are room"
    disk.free, now = logs - 1, now + 1
    assert not space.has_room(), "but not for the logs"
    (tmp_path / "fleetpush.db-wal").write_bytes(bytes(1 << 20))
    now += 1
    assert space.has_room(), "what a log has taken, it need not take again"


def test_the_less_is_left_the_sooner_it_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second of a fast disk was more than all that a small one had left."""
    disk = Disk(monkeypatch, blocks=128 * KIB, free=128 * KIB)
    now = 0.0
    space = DiskSpace(path=tmp_path, reserve=1 << 30, clock=lambda: now, free_inside=lambda: 0)
    looks: list[tuple[float, int]] = []
    while space.has_room():
        now += 0.001
        if disk.looks > len(looks):
            looks.append((now, disk.free))
        disk.free -= 256  # KiB in a millisecond: 256 MiB/s, as a batch of large pushes writes
    assert looks[1][0] - looks[0][0] > 0.09, "rarely, while there is much"
    assert space.left() == 0
    assert 32 * KIB - disk.free <= 2 * 256, "and not seen too late"


def test_without_a_reserve_everything_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, blocks=1_000, free=1)
    assert DiskSpace(path=tmp_path, reserve=0, clock=lambda: 0.0, free_inside=lambda: 0).has_room()


def test_what_is_put_by_is_given_up_once(tmp_path: Path) -> None:
    disk_space.make_reserve(tmp_path)
    assert (tmp_path / RESERVE_FILE).stat().st_blocks * 512 >= disk_space.RESERVE_FILE_BYTES
    disk_space.release_for_start(tmp_path)
    assert (tmp_path / RESERVE_FILE).exists(), "there is room"
    assert disk_space.release(tmp_path)
    assert not disk_space.release(tmp_path)


def test_nothing_is_put_by_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, blocks=100 * KIB, free=4 * KIB - 1)
    disk_space.make_reserve(tmp_path)
    assert not os.listdir(tmp_path)


def test_a_start_on_a_full_disk_gives_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_space.make_reserve(tmp_path)
    Disk(monkeypatch, blocks=100 * KIB, free=10)
    disk_space.release_for_start(tmp_path)
    assert not os.listdir(tmp_path)


def test_what_is_left_is_what_pushes_may_still_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, blocks=128 * KIB, free=40 * KIB)
    inside = 0
    space = DiskSpace(path=tmp_path, reserve=1 << 30, clock=lambda: 0.0, free_inside=lambda: inside)
    assert space.left() == 8 * KIB * KIB, "without the logs' 16 MiB and the reserve's 16 MiB"
    inside = 4 * KIB * KIB
    assert space.left() == 12 * KIB * KIB
    disk.free = 30 * KIB
    assert space.left() == 2 * KIB * KIB
    inside = 0
    assert space.left() == 0
