"""Each finding has its level and, where it is not ok, its remedy."""

from __future__ import annotations

import socket
from pathlib import Path

from gateway.cli.doctor import SetUp, check_clock, check_data_dir, check_disk, check_ports


def test_an_unwritable_data_directory_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = check_data_dir(tmp_path / "file" / "data")
    assert (finding.level, bool(finding.remedy)) == ("fail", True)


def test_a_data_directory_may_not_exist_yet(tmp_path: Path) -> None:
    assert check_data_dir(tmp_path / "a" / "b").level == "ok"
    assert not (tmp_path / "a").exists()
    assert check_disk(tmp_path / "a" / "b").subject == "disk"


def test_an_open_data_directory_warns(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert check_data_dir(tmp_path).level == "warn"


def test_a_clock_behind_server_time_warns() -> None:
    assert check_clock(1000.0, None).level == "ok"
    assert check_clock(1000.0, 900.0).level == "ok"
    assert check_clock(1000.0, 5000.0).level == "warn"


def test_a_port_in_use_names_the_command_that_finds_its_owner(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        findings = list(check_ports(SetUp(tmp_path, "127.0.0.1", http_port=port, mqtt_port=0)))
        assert [finding.level for finding in findings] == ["fail"]
        assert f"sport = :{port}" in findings[0].remedy
    assert [finding.level for finding in check_ports(SetUp(tmp_path, "127.0.0.1", port, 0))] == ["ok"]
