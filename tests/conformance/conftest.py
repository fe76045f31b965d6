"""One broker for all tests that do not end it; each uses client identifiers and topics of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.party import Party
from tests.conformance.standalone import BrokerProcess
from tests.conformance.transports import Ways, transports_of
from tests.wire import V5, VERSIONS, RawClient


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "transport" in metafunc.fixturenames:
        full = bool(metafunc.config.getoption("--full"))
        test = f"{metafunc.module.__name__}.{metafunc.function.__name__}"
        metafunc.parametrize("transport", transports_of(test, full))


@pytest.fixture(scope="session")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    with Ways(tmp_path_factory.mktemp("broker")) as found:
        yield found


@pytest.fixture(scope="session")
def broker(ways: Ways) -> BrokerProcess:
    return ways.broker


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker to be killed and started again."""
    with BrokerProcess(tmp_path / "data") as process:
        yield process


@pytest.fixture(params=VERSIONS, ids=["3.1.1", "5.0"])
def version(request: pytest.FixtureRequest) -> int:
    value = request.param
    assert isinstance(value, int)
    return value


@pytest.fixture
def raw(ways: Ways, transport: str) -> Iterator[Callable[[], RawClient]]:
    """Open connections to the shared broker, each time by the same way; closed after the test."""
    clients: list[RawClient] = []

    def open_socket() -> RawClient:
        clients.append(ways.open(transport))
        return clients[-1]

    yield open_socket
    for client in clients:
        client.close()


_numbers = itertools.count(1)


@pytest.fixture
def name() -> Callable[[], str]:
    """Client identifiers and topics that no other test of the run uses."""
    return lambda: f"thing-{next(_numbers)}"


@pytest.fixture
def party(raw: Callable[[], RawClient], name: Callable[[], str], version: int) -> Party:
    return Party(raw, name, version)


@pytest.fixture
def party_5(raw: Callable[[], RawClient], name: Callable[[], str]) -> Party:
    """A party for features that exist in 5.0 only."""
    return Party(raw, name, V5)
