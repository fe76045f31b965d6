"""The benchmarks that connect a fleet in every way run through, with a fleet of few: no figure is looked at."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.benchmarks import node_deliveries, segments
from tests.benchmarks.__main__ import main
from tests.benchmarks.tools import has_openssl
from tests.third_party import require

FEW = "5"


def figures(file: Path, *arguments: str) -> dict[tuple[str, str], float]:
    """What a benchmark measured of ours, by what it is and what stands beside it."""
    assert main([*arguments, "--devices", FEW, "--json", str(file)]) == 0
    return {(figure["what"], figure["beside"]): figure["ours"] for figure in json.loads(file.read_text())["figures"]}


@pytest.fixture(autouse=True)
def tools() -> None:
    for needed in ("cc", "mosquitto", "mosquitto_passwd"):
        require(needed)
    if not has_openssl():
        missing = "OpenSSL's headers are not installed (Debian package libssl-dev)"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)


@pytest.mark.parametrize(("transport", "name"), [("tls", "TLS"), ("ws", "WebSocket"), ("wss", "WebSocket in TLS")])
def test_fan_out_over(transport: str, name: str, tmp_path: Path) -> None:
    """To the end: every device has acknowledged every push, at ours and at Mosquitto."""
    small = ["--pushes", "1", "--stream", "50"]
    found = figures(tmp_path / "figures.json", "fanout", "--transport", transport, *small)
    assert {what for what, _ in found} == {f"fan-out to 5 over {name}, {kind}" for kind in ("single push", "stream")}
    assert all(rate > 0 for rate in found.values())


def test_handshakes(tmp_path: Path) -> None:
    found = figures(tmp_path / "figures.json", "handshakes")
    assert found["TLS handshakes and connects", "Mosquitto, password file"] > 0
    assert found["TLS handshakes and connects", "the same without TLS"] > 0


@pytest.mark.sqlite("whose file it fills")
def test_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the end: every connected device has acknowledged every push. The file says how devices were found."""
    monkeypatch.setattr(segments, "SINGLE_PUSHES", 10)
    file = tmp_path / "figures.json"
    found = figures(file, "segments")
    assert {what.partition(":")[0] for what, _ in found} == {
        "segment of 5",
        "push to 5 of 5 by an expression",
        "push to 5 of 5 in five languages",
        "campaign to 5 of 5 in three groups",
    }
    details = [figure["detail"] for figure in json.loads(file.read_text())["figures"] if figure["detail"]]
    assert len(details) == len(segments.SEGMENTS)
    assert details[3].startswith("online && attributes.model == 'K3': 5 devices; SEARCH ")
    assert not any("SCAN" in detail for detail in details)


@pytest.mark.full_only
@pytest.mark.timeout(180)
def test_node_deliveries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the end: devices of both nodes have acknowledged every push, with nudges and without."""
    for needed in ("haproxy", "psql"):
        require(needed)
    monkeypatch.setattr(node_deliveries, "FEW", 5)
    monkeypatch.setattr(node_deliveries, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(node_deliveries, "TELL_SECONDS", 1.0)
    file, small = tmp_path / "figures.json", ["--pushes", "1", "--stream", "20"]
    found = figures(file, "node_deliveries", "--registered", "20", *small)
    assert found["WAL of a delivery, push to 4 of 20 on two nodes, alone", "one node"] > 0
    found = figures(file, "node_deliveries", "--singles", "10", "--seconds", "1", *small)
    assert found["push to 4 on two nodes, stream", "one node"] > 0
    assert found["WAL of a single push on two nodes", "one node"] > 0
    late = found["request to device socket at 200/s, p50, of another node without nudges", "with them"]
    assert late > found["request to device socket at 200/s, p50, of another node", "the accepting node"]


@pytest.mark.full_only
@pytest.mark.timeout(120)
def test_node_sessions(tmp_path: Path) -> None:
    """To the end: all devices were at the one node, and at the other."""
    require("psql")
    found = figures(tmp_path / "figures.json", "node_sessions")
    assert found["connects of 4 authenticated devices, at the other node", "at the same again"] > 0
    assert found["memory of a node, 2 of 4 devices connected", "one server over a file"] > 0
