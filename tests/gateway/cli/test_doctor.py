"""Each finding has its level and, where it is not ok, its remedy."""

from __future__ import annotations

import resource
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from gateway.backup_record import change_record, record_failure, record_made
from gateway.certificates import initialize
from gateway.cli.doctor import (
    SetUp,
    age,
    check_backups,
    check_ca,
    check_certificate,
    check_clock,
    check_data_dir,
    check_descriptors,
    check_disk,
    check_ports,
    check_server,
    check_tokens,
    examine,
)
from gateway.cli.findings import Finding
from tests.gateway.cli.fake_server import FakeServer, problem

NOW = datetime.now(UTC)


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


def test_open_files_are_what_serve_may_raise_its_limit_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for limits, level in (
        ((1_024, 20_000), "warn"),
        ((1_024, 65_536), "ok"),
        ((1_024, resource.RLIM_INFINITY), "ok"),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        finding = check_descriptors()
        assert (finding.level, "LimitNOFILE=65536" in finding.remedy) == (level, level == "warn")
        assert "1024" not in finding.text


def test_a_clock_behind_server_time_warns() -> None:
    now = 1_800_000_000.0
    assert check_clock(now, None).level == "ok"
    assert check_clock(now, now - 100).level == "ok"
    assert check_clock(now, now + 4_000).level == "warn"
    assert "--mend-clock" in check_clock(now, now + 4_000).remedy


def test_a_clock_that_cannot_be_right_warns() -> None:
    assert check_clock(1_000.0, None).level == "warn"


def test_a_port_in_use_names_the_command_that_finds_its_owner(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        findings = list(check_ports(SetUp(tmp_path, "127.0.0.1", http_port=port, mqtt_port=0)))
        assert [finding.level for finding in findings] == ["fail"]
        assert f"sport = :{port}" in findings[0].remedy
    assert [finding.level for finding in check_ports(SetUp(tmp_path, "127.0.0.1", port, 0))] == ["ok"]


def test_without_tls_nothing_is_wrong(tmp_path: Path) -> None:
    findings = [found for found in examine(SetUp(tmp_path, "127.0.0.1", 0, 0)) if found.subject == "certificate"]
    assert [found.level for found in findings] == ["ok"]
    assert "fleetpush tls init" in findings[0].text
    assert list(check_ca(tmp_path / "ca.pem", tmp_path / "ca.key", NOW)) == []


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    initialize(tmp_path, ["push.example"], 825, NOW, host="vm")
    return tmp_path / "tls"


def certificate(tls: Path, now: datetime = NOW, public_host: str | None = "push.example") -> list[Finding]:
    return list(check_certificate(tls / "server.pem", tls / "server.key", public_host, now))


def ca(tls: Path, now: datetime = NOW) -> list[Finding]:
    return list(check_ca(tls / "ca.pem", tls / "ca.key", now))


@pytest.mark.parametrize(
    ("days", "level"), [(0, "ok"), (790, "ok"), (800, "warn"), (825, "fail"), (900, "fail"), (-1, "fail")]
)
def test_a_certificate_that_ends_is_seen_a_month_before(tls: Path, days: int, level: str) -> None:
    (finding,) = certificate(tls, NOW + timedelta(days=days))
    assert finding.level == level
    assert level == "ok" or finding.remedy


def test_a_ca_that_ends_is_seen_a_year_before(tls: Path) -> None:
    years = [0, 8.9, 9.1, 10.1]
    assert [ca(tls, NOW + timedelta(days=365.25 * count))[0].level for count in years] == ["ok", "ok", "warn", "fail"]


def test_keys_that_others_may_read_are_found(tls: Path) -> None:
    for mode, level in ((0o644, "fail"), (0o604, "fail"), (0o640, "warn")):
        for name, check in (("server.key", certificate), ("ca.key", ca)):
            (tls / name).chmod(mode)
            found = check(tls)[-1]
            assert (found.level, found.remedy.startswith("chmod 600")) == (level, True)
            (tls / name).chmod(0o600)
            assert [found.level for found in check(tls)] == ["ok"]


def test_a_key_that_does_not_belong_fails(tls: Path) -> None:
    (tls / "server.key").write_text((tls / "ca.key").read_text())
    assert [found.level for found in certificate(tls)] == ["ok", "fail"]
    (tls / "server.key").unlink()
    assert [found.level for found in certificate(tls)] == ["ok", "fail"]
    (tls / "server.pem").write_text("broken")
    assert [found.level for found in certificate(tls)] == ["fail"]
    (tls / "ca.key").unlink()
    assert [found.level for found in ca(tls)] == ["ok"], "it may be kept elsewhere"


def test_devices_that_dial_a_name_it_is_not_for_are_warned_about(tls: Path) -> None:
    found = certificate(tls, public_host="192.0.2.7")[-1]
    assert (found.level, found.remedy) == ("warn", "fleetpush tls init --name 192.0.2.7")
    assert [found.level for found in certificate(tls, public_host=None)] == ["ok"]


def test_what_the_settings_name_is_looked_at_and_has_to_be_there(tls: Path, tmp_path: Path) -> None:
    def found(certificate: Path, key: Path, ca: Path) -> dict[str, Finding]:
        set_up = SetUp(tmp_path / "elsewhere", "127.0.0.1", 0, 0, tls_cert=certificate, tls_key=key, tls_ca=ca)
        return {found.subject: found for found in examine(set_up) if str(tls) in found.text}

    files = [tls / "server.pem", tls / "server.key", tls / "ca.pem"]
    assert {subject: finding.level for subject, finding in found(*files).items()} == {
        "certificate": "ok",
        "fleet CA": "ok",
    }
    missing = [path.with_suffix(".gone") for path in files]
    assert {subject: finding.level for subject, finding in found(*missing).items()} == {
        "certificate": "fail",
        "fleet CA": "fail",
    }


def backups(data_dir: Path, hours: float = 1) -> list[tuple[str, str]]:
    found = list(check_backups(data_dir, BACKUP_AT + hours * 3_600))
    assert all(finding.remedy for finding in found if finding.level != "ok")
    return [(finding.level, finding.text) for finding in found]


BACKUP_AT = 1_800_000_000


def test_the_age_of_the_last_proven_backup_is_told(tmp_path: Path) -> None:
    assert backups(tmp_path) == [], "there is nothing to back up yet"
    (tmp_path / "fleetpush.db").touch()
    assert backups(tmp_path) == [("warn", "there is none")]
    record_made(tmp_path, BACKUP_AT, 1)
    assert backups(tmp_path, 5) == [("warn", "the last one is 5 hours old, and not proven")]
    change_record(tmp_path, proven_of=BACKUP_AT, proven_file="/backup/a.tgz")
    text = "the last one that is proven is {} old: /backup/a.tgz"
    assert backups(tmp_path, 47) == [("ok", text.format("47 hours"))]
    assert backups(tmp_path, 170) == [("warn", text.format("7 days"))]
    record_failure(tmp_path, BACKUP_AT, "no room", 6 * 3_600)
    assert backups(tmp_path, 11) == [("warn", "the schedule has failed once: no room"), ("ok", text.format("11 hours"))]
    assert backups(tmp_path, 13)[1] == ("warn", text.format("13 hours")), "two of the schedule are missing"
    assert age(59) == "59 seconds"
    assert age(150) == "2 minutes"


def test_a_server_that_answers_need_not_be_started(fake: FakeServer, tmp_path: Path) -> None:
    set_up = SetUp(tmp_path, "127.0.0.1", 8080, 1883, url="http://127.0.0.1:8080")
    fake.answer = lambda request: problem(503, "unavailable", "the database does not answer")
    (found,) = check_server(set_up)
    assert (found.level, "start it" in found.remedy) == ("fail", False)
    fake.answer = lambda request: httpx2.Response(503, text="none of ours")
    (found,) = check_server(set_up)
    assert (found.level, "start it" in found.remedy) == ("fail", True)


def test_devices_that_do_not_renew_their_token_are_named(fake: FakeServer) -> None:
    assert list(check_tokens(fake.client())) == [], "nothing where no token ends"
    fake.answer = lambda request: {"items": [{"device_id": "kiosk-1"}, {"device_id": "kiosk-2"}], "next_cursor": None}
    (found,) = check_tokens(fake.client())
    assert found.level == "warn"
    assert found.text.startswith("2 devices have a token that has ended or ends within 3 days, kiosk-1 for one")
    assert "devices list --token-ends-within 3d" in found.remedy
    fake.answer = lambda request: {"items": [{"device_id": "kiosk-1"}] * 1000, "next_cursor": "x"}
    (found,) = check_tokens(fake.client())
    assert found.text.startswith("more than 1000 devices")
