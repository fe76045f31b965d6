"""What a bridge may be told, and the password that is no argument."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.bridge.bridge_options import MAX_NAMED_DEVICES, broker_address
from gateway.cli.bridge.topics import BridgeTopics
from gateway.cli.terminal import Failure
from tests.gateway.cli.bridge.fakes import OPTIONS


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("mqtt://ha@broker.example", ("broker.example", 1883, "ha")),
        ("mqtt://broker.example:1884/", ("broker.example", 1884, None)),
        ("mqtts://a%40b@[::1]", ("::1", 8883, "a@b")),
    ],
)
def test_an_address(to: str, expected: tuple[Any, ...]) -> None:
    found = broker_address(to, None, None)
    assert (found.host, found.port, found.username) == expected
    assert (found.tls is not None) == to.startswith("mqtts")
    assert found.password is None


@pytest.mark.parametrize("to", ["broker", "http://broker", "mqtt://", "mqtt://h:x", "mqtt://h/topic", "mqtt://h?a=b"])
def test_what_is_no_address(to: str) -> None:
    with pytest.raises(Failure, match="mqtt://USER@HOST:PORT"):
        broker_address(to, None, None)


def test_a_password_comes_from_a_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("from the file\n")
    monkeypatch.setenv("FLEETPUSH_BRIDGE_PASSWORD", "from the variable")
    assert broker_address("mqtt://ha@h", None, None).password == "from the variable"
    assert broker_address("mqtt://ha@h", file, None).password == "from the file"
    with pytest.raises(Failure, match="needs a user name"):
        broker_address("mqtt://h", None, None)
    with pytest.raises(Failure, match="cannot be read"):
        broker_address("mqtt://ha@h", tmp_path / "none", None)
    with pytest.raises(Failure) as found:
        broker_address("mqtt://ha:secret@h", None, None)
    assert "secret" not in str(found.value)
    with pytest.raises(Failure) as found:
        broker_address("http://ha:secret@h", None, None)
    assert "secret" not in str(found.value)


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("mqtt://ha@broker.example", True),
        ("mqtt://ha@192.0.2.1", True),
        ("mqtts://ha@broker.example", False),
        ("mqtt://ha@localhost", False),
        ("mqtt://ha@[::1]", False),
    ],
)
def test_a_password_without_tls_is_noticed(to: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not broker_address(to, None, None).shows_password
    monkeypatch.setenv("FLEETPUSH_BRIDGE_PASSWORD", "secret")
    assert broker_address(to, None, None).shows_password is expected


def test_an_authority(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="without TLS"):
        broker_address("mqtt://h", None, tmp_path / "ca.pem")
    with pytest.raises(Failure, match="cannot be used"):
        broker_address("mqtts://h", None, tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tags": ()}, "unless you name it"),
        ({"every_device": True}, "leave out --device and --tag"),
        ({"devices": tuple(f"d{n}" for n in range(MAX_NAMED_DEVICES + 1))}, "give the devices a tag"),
        ({"devices": ("a/b",)}, "a device id has"),
        ({"commands": ("a/b",)}, "--command 'a/b'"),
        ({"topics": BridgeTopics("a_b")}, "--name 'a_b'"),
        ({"discovery": "home/+"}, "--discovery 'home/\\+'"),
    ],
)
def test_what_cannot_be_meant(wrong: dict[str, Any], says: str) -> None:
    OPTIONS.check()
    with pytest.raises(Failure, match=says) as found:
        replace(OPTIONS, **wrong).check()
    assert found.value.exit_code == 2


def test_commands_are_denied_unless_they_are_named() -> None:
    assert OPTIONS.allows("reboot")
    assert not OPTIONS.allows("wipe")
    assert replace(OPTIONS, commands=("*",)).allows("wipe")
    assert not replace(OPTIONS, commands=()).allows("wipe")
