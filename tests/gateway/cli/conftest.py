"""A server for commands that is none."""

from __future__ import annotations

import pytest

from gateway.cli.server_client import ServerClient
from tests.gateway.cli.fake_server import FakeServer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """Every command talks to it."""
    fake = FakeServer()
    monkeypatch.setattr(ServerClient, "find", lambda url, data_dir: fake.client())
    return fake
