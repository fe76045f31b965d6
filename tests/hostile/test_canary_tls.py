"""Strangers who connect where TLS is spoken and say nothing: devices and senders have their descriptors."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.end_to_end.harness import Server
from tests.hostile.canary import Canary
from tests.hostile.peer import connect_silently

SECONDS = 1.0
STRANGERS = "127.0.0.2"
"""From another address than the canary's."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("port", ["mqtts", pytest.param("https", marks=pytest.mark.full_only)])
def test_who_does_not_begin_a_handshake_keeps_nobody_out(tmp_path: Path, port: str, full: int) -> None:
    """Silent sockets counted for no share, or for the devices', and those on their way in were cut off for them."""
    authority = Authority(tmp_path)
    pair = authority.issue("server", "localhost", "127.0.0.1")
    options = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--listen", "mqtt://127.0.0.1:0"]
    with (
        contextlib.ExitStack() as ending,
        Server(tmp_path / "data", *options, ca=authority.certificate, open_files=512) as server,
    ):
        target = ("127.0.0.1", server.mqtt_port if port == "mqtts" else server.http_port)
        with Canary(server) as canary:
            connect_silently(ending, target, SECONDS * full, 600, STRANGERS)
        assert canary.report.descriptors_most < 400
        text = server.api.request("GET", "/metrics").text
        assert 'fleetpush_broker_refused_connections_total{reason="evicted_stranger"}' in text
        assert "no_descriptor" not in text
