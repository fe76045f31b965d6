"""Servers for the black-box tests.

`server` is shared by all tests of a run that neither kill it nor push to everybody: each uses device ids of its own.
`start_server` makes private ones. Starting a server costs about a second, which is most of what these tests cost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.harness import Api, Device, Server
from tests.end_to_end.wire_device import WireDevice

StartServer = Callable[..., Server]
Wire = Callable[..., WireDevice]
Name = Callable[[], str]


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("shared") / "data") as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Server:
    """The shared server; started again if a test before has ended it."""
    if not shared_server.running:
        shared_server.start()
    return shared_server


@pytest.fixture
def api(server: Server) -> Api:
    return server.api


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start a private server with the given options and environment; ended after the test."""
    servers: list[Server] = []

    def start(*options: str, env: dict[str, str] | None = None, data_dir: Path | None = None) -> Server:
        server = Server(data_dir or tmp_path / f"data{len(servers)}", *options, env=env)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.__exit__()


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Make devices from what enrolment answered; all vanish after the test."""
    devices: list[WireDevice] = []

    def make(server: Server, enrolled: Device, **options: Any) -> WireDevice:
        options.setdefault("topic", enrolled.topics["push"])
        device = WireDevice(server.mqtt_port, enrolled.client_id, enrolled.token, **options)
        devices.append(device)
        return device

    yield make
    for device in devices:
        device.drop()


_numbers = itertools.count(1)


@pytest.fixture
def name() -> Name:
    """Device ids that no other test of the run uses."""
    return lambda: f"device-{next(_numbers)}"
