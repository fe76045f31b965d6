"""What the tests of alerts stand on: the same servers and devices as other tests."""

from __future__ import annotations

from tests.end_to_end.conftest import start_server, wire
from tests.gateway.conftest import gateway

__all__ = ["gateway", "start_server", "wire"]
