"""What the doctor finds in nodes."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from gateway.cli.node_findings import check_nodes, connect_error
from gateway.store.nodes.examination import ExaminedNode, ExaminedNodes, examine_nodes
from gateway.store.postgresql.examination import read_ledger
from tests.end_to_end.wire_device import WireDevice
from tests.nodes import start_nodes

NOW = 1_700_000_000_000


def node(no: int, *, url: str = "", age_ms: int = 200, line_ms: int | None = 5) -> ExaminedNode:
    return ExaminedNode(no, url or f"http://10.0.0.1{no}:8080", age_ms, line_ms, 7)


def levels(
    *nodes: ExaminedNode,
    own_url: str | None = None,
    standbys: int = 0,
    waits: bool = False,
    several: bool = False,
    database_ms: int = NOW,
    unreachable: str = "",
) -> dict[str, str]:
    found = ExaminedNodes(list(nodes), 3, database_ms, standbys, waits)
    findings = check_nodes(
        found,
        own_url,
        float(NOW),
        names_several=several,
        connect=lambda url: "refused" if url == unreachable else None,
    )
    return {finding.subject: finding.level for finding in findings}


def test_a_server_by_itself_hears_nothing_of_nodes() -> None:
    assert levels() == {}


def test_nodes_that_are_well() -> None:
    assert set(levels(node(1), node(2), own_url="http://10.0.0.11:8080").values()) == {"ok"}


@pytest.mark.parametrize(
    ("found", "subject", "level"),
    [
        (levels(own_url="http://10.0.0.11:8080"), "nodes", "warn"),
        (levels(node(1), node(2, age_ms=3_500)), "node 2", "warn"),
        (levels(node(1), node(2, url="http://10.0.0.11:8080")), "nodes", "fail"),
        (levels(node(1), node(2, url="http://localhost:8080")), "node 2", "fail"),
        (levels(node(1, url="http://127.0.0.11:8080"), node(2, url="http://127.0.0.12:8080")), "node 2", "ok"),
        (levels(node(1), node(2), unreachable="http://10.0.0.12:8080"), "node 2", "warn"),
        (levels(node(1), node(2, line_ms=86_400_000)), "server time", "warn"),
        (levels(node(1), node(2, line_ms=None)), "sessions", "ok"),
        (levels(node(1), database_ms=NOW - 86_400_000), "clocks", "warn"),
        (levels(standbys=2), "standbys", "fail"),
        (levels(several=True), "standbys", "fail"),
        (levels(several=True, waits=True), "standbys", "warn"),
        (levels(standbys=2, waits=True), "standbys", "ok"),
    ],
)
def test_what_is_wrong(found: dict[str, str], subject: str, level: str) -> None:
    assert found[subject] == level


def test_an_address_is_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert connect_error(url) is None
    assert "refused" in (connect_error(url) or "")


def test_what_nodes_have_stored_of_themselves(tmp_path: Path) -> None:
    with start_nodes(tmp_path, 2) as nodes:
        device = nodes[0].api.enrol("kiosk-1")
        wire = WireDevice(nodes[1].mqtt_port, device.client_id, device.token).start()
        found = read_ledger(nodes[0].database, examine_nodes)
        wire.drop()
        assert [(each.url, each.sessions) for each in found.nodes] == [
            (f"http://127.0.0.1:{nodes[0].http_port}", 0),
            (f"http://127.0.0.1:{nodes[1].http_port}", 1),
        ]
        told = list(check_nodes(found, found.nodes[0].url, time.time() * 1000, names_several=False))
        assert {finding.level for finding in told} == {"ok"}, told
        assert {finding.subject for finding in told} == {"node 1", "node 2", "sessions", "server time"}
