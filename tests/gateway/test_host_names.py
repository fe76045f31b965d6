from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway import host_names
from gateway.certificates import checked_name


def test_a_machine_is_found_from_itself() -> None:
    found = host_names.host_names()
    assert {"localhost", "127.0.0.1", "::1"} <= set(found)
    assert len(set(found)) == len(found)
    assert [checked_name(name) for name in found] == [name.lower() for name in found], "all fit into a certificate"


def test_a_longer_name_comes_before_the_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "vm.fleet.example", ("192.0.2.7", 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1%eth0", 0, 0, 2)),
    ]
    monkeypatch.setattr(socket, "gethostname", lambda: "vm")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    monkeypatch.setattr(host_names, "interface_addresses", lambda: ["192.0.2.7", "198.51.100.1", "127.0.0.1"])
    expected = ["vm.fleet.example", "vm", "localhost", "192.0.2.7", "198.51.100.1", "127.0.0.1", "::1"]
    assert host_names.host_names() == expected


def test_a_machine_that_cannot_resolve_itself_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "gethostname", lambda: "vm")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert host_names.host_names()[:2] == ["vm", "localhost"]


def test_addresses_that_others_cannot_dial_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tmp_path / "if_inet6"
    listing.write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "20010db8000000000000000000000007 02 40 00 80     eth0\n"
        "20010db80000000000000000000000aa 02 40 00 01     eth0\n"  # temporary
        "fe80000000000000fc00fffe00000100 02 40 20 80     eth0\n"  # link-local
    )
    monkeypatch.setattr(host_names, "IF_INET6", listing)
    assert [address for address in host_names.interface_addresses() if ":" in address] == ["2001:db8::7"]
    monkeypatch.setattr(host_names, "IF_INET6", tmp_path / "none")
    assert not [address for address in host_names.interface_addresses() if ":" in address]
