"""Curves of two nodes: whoever is asked shows what both have accepted, delivered and have connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import DeviceIdentity
from gateway.nodes.peer_connections import VERB
from tests.gateway.in_process import InProcessGateway
from tests.nodes import gateways_in_process


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[InProcessGateway]]:
    async with gateways_in_process(tmp_path, 2, run=True) as nodes:
        await nodes[0].enrol("kiosk-1", "kiosk-2", "kiosk-3")
        for node in nodes:
            await node.components.measurements.load()
        yield nodes


def connect(node: InProcessGateway, *device_nos: int) -> None:
    for no in device_nos:
        identity = DeviceIdentity(no, 1, "default", f"kiosk-{no}", f"kiosk-{no}")
        node.components.delivery.connections.connected(identity.client_id, identity, False)


async def curves(node: InProcessGateway) -> dict[str, Any]:
    """The curves as a console has them after some turns, without what is 0."""
    await node.components.flush()
    for _ in range(2):
        await node.components.measurements.count_new()
    found = (await node.call("GET", "/v1/stats", params={"minutes": 1}))["curves"]
    return {name: curve[0] for name, curve in found.items() if isinstance(curve, list) and any(curve)}


async def test_either_node_shows_what_both_do(nodes: list[InProcessGateway]) -> None:
    connect(nodes[0], 1)
    connect(nodes[1], 2, 3)
    for node in nodes:
        await node.push({"device": "kiosk-1"})
        await node.push({"devices": ["kiosk-1", "kiosk-2"]})
    for node in nodes:
        await node.components.flush()
    for node in nodes:
        found = await curves(node)
        assert {name: found[name] for name in ("pushes", "targeted", "online", "connects")} == {
            "pushes": 4, "targeted": 6, "online": 3, "connects": 3,
        }  # fmt: skip


async def test_who_is_connected_to_a_node_that_does_not_answer_is_left_out(nodes: list[InProcessGateway]) -> None:
    connect(nodes[0], 1)
    connect(nodes[1], 2, 3)
    await nodes[1].push({"device": "kiosk-1"})
    await nodes[1].components.flush()
    assert nodes[1].components.peers is not None
    nodes[1].components.peers.verbs._verbs.clear()
    found = await curves(nodes[0])
    assert (found["online"], found["pushes"], found["connects"]) == (1, 1, 3)


async def test_a_node_that_hangs_keeps_no_curve_from_being_shown(nodes: list[InProcessGateway]) -> None:
    connect(nodes[0], 1)
    connect(nodes[1], 2, 3)
    await nodes[1].push({"device": "kiosk-1"})
    await nodes[1].components.flush()
    asked, resumed = asyncio.Event(), asyncio.Event()

    async def hang(body: bytes) -> bytes:
        asked.set()
        await resumed.wait()
        return b"[]"

    assert nodes[1].components.peers is not None
    verbs = nodes[1].components.peers.verbs
    del verbs._verbs[VERB]
    verbs.add(VERB, hang)
    try:
        found = await curves(nodes[0])
    finally:
        resumed.set()
    assert asked.is_set()
    assert (found["online"], found["pushes"], found["connects"]) == (1, 1, 3)
