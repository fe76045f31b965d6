"""Which passed socket belongs to which listener, and what is said of one that belongs to none."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.socket_activation import BadPassedSocket, PassedSockets


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(stack: ExitStack, host: str = "127.0.0.1", *, v6only: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    made.bind((host, 0))
    made.listen()
    return made


def passed(stack: ExitStack, *sockets: tuple[str, socket.socket]) -> PassedSockets:
    """As a service manager passes them: descriptors one behind the other."""
    first = 200
    for number, (_, each) in enumerate(sockets, first):
        os.dup2(each.fileno(), number)
    names = ":".join(name for name, _ in sockets)
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names}
    found = PassedSockets.from_environment(environment, first)
    assert environment == {}
    return stack.enter_context(found)


def port(of: socket.socket) -> int:
    return int(of.getsockname()[1])


def test_nothing_is_passed_to_another_process(stack: ExitStack) -> None:
    for environment in ({}, {"LISTEN_PID": "1", "LISTEN_FDS": "2"}, {"LISTEN_PID": str(os.getpid())}):
        found = stack.enter_context(PassedSockets.from_environment(dict(environment)))
        assert found.claim("http", "127.0.0.1:8080", "http") is None
        found.require_all_claimed()


def test_a_name_or_an_address_finds_its_listener(stack: ExitStack, tmp_path: Path) -> None:
    http, mqtt, further = (listening(stack) for _ in range(3))
    unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    unix.bind(str(tmp_path / "s"))
    unix.listen()
    found = passed(stack, ("fleetpush.socket", further), ("mqtt", mqtt), ("other", unix), ("http", http))
    claimed = [
        found.claim("http", "127.0.0.1:8080", "http"),
        found.claim("mqtt", f"127.0.0.1:{port(http)}", "mqtt"),
        found.claim("ws", f"127.0.0.1:{port(further)}"),
        found.claim("unix", str(tmp_path / "s")),
        found.claim("mqtt", f"127.0.0.1:{port(http)}"),
    ]
    found.require_all_claimed()
    for each in filter(None, claimed):
        stack.enter_context(each)
        assert not each.getblocking()
        assert not os.get_inheritable(each.fileno())
    names = [each and each.getsockname() for each in claimed]
    assert names == [http.getsockname(), mqtt.getsockname(), further.getsockname(), str(tmp_path / "s"), None]


def test_every_address_is_ipv4s_too_unless_it_is_for_ipv6_alone(stack: ExitStack) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    both, alone = listening(stack, "::"), listening(stack, "::", v6only=True)
    found = passed(stack, ("unknown", both), ("unknown", alone))
    assert found.claim("http", f"0.0.0.0:{port(alone)}", "http") is None
    claimed = found.claim("http", f"0.0.0.0:{port(both)}", "http")
    assert claimed is not None
    stack.enter_context(claimed)
    with pytest.raises(BadPassedSocket, match=rf"\[::\]:{port(alone)}"):
        found.require_all_claimed()


def test_one_that_belongs_to_nothing_is_named_with_the_remedy(stack: ExitStack) -> None:
    stray = listening(stack)
    found = passed(stack, ("fleetpush.socket", stray))
    assert found.claim("http", "127.0.0.1:8080", "http") is None
    assert found.claim("mqtt", "127.0.0.1:1883", "mqtt") is None
    with pytest.raises(BadPassedSocket) as refused:
        found.require_all_claimed()
    said = str(refused.value)
    assert f"127.0.0.1:{port(stray)} (named 'fleetpush.socket')" in said
    assert "http 127.0.0.1:8080, mqtt 127.0.0.1:1883" in said
    assert "ListenStream=" in said


def test_two_sockets_for_one_port_are_refused(stack: ExitStack) -> None:
    found = passed(stack, ("http", listening(stack)), ("http", listening(stack)))
    with pytest.raises(BadPassedSocket, match="2 sockets for http"):
        found.claim("http", "127.0.0.1:8080", "http")


def test_what_does_not_listen_for_streams_is_refused(stack: ExitStack, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    stack.enter_context(theirs)
    datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    for wrong in (ours, datagrams):
        with pytest.raises(BadPassedSocket, match="Accept=no"):
            passed(stack, ("http", wrong))
    unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    unix.bind(str(tmp_path / "s"))
    unix.listen()
    with pytest.raises(BadPassedSocket, match="unix:PATH"):
        passed(stack, ("mqtt", unix)).claim("mqtt", "127.0.0.1:1883", "mqtt")
    ours_is = {"LISTEN_PID": str(os.getpid())}
    with pytest.raises(BadPassedSocket, match="no socket"):
        PassedSockets.from_environment(ours_is | {"LISTEN_FDS": "1"}, first=900)
    for count in ("-1", "x", "100000"):
        with pytest.raises(BadPassedSocket, match="LISTEN_FDS"):
            PassedSockets.from_environment(ours_is | {"LISTEN_FDS": count})
