"""Nodes in one process over one PostgreSQL: they see each other come and go."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.nodes.membership import Node
from tests.nodes import gateways_in_process


async def test_nodes_see_each_other_come_and_go(tmp_path: Path) -> None:
    async with gateways_in_process(tmp_path, 2) as (first, second):
        ours, theirs = first.components.membership, second.components.membership
        assert ours is not None
        assert theirs is not None
        assert [node.no for node in theirs.peers()] == [ours.own.no]
        joined: asyncio.Future[Node] = asyncio.get_running_loop().create_future()
        ended: asyncio.Future[Node] = asyncio.get_running_loop().create_future()
        ours.follow(joined.set_result, ended.set_result)
        if not ours.peers():
            assert await joined == theirs.own
        assert ours.peers() == [theirs.own]
        assert ours.is_live(theirs.own.no, theirs.own.epoch)
        assert not ours.is_live(theirs.own.no, theirs.own.epoch + 1)
        assert ours.may_serve()
        await first.enrol("kiosk-1")
        assert (await second.call("GET", "/v1/devices/kiosk-1"))["device_id"] == "kiosk-1"
        await theirs.end()
        assert await ended == theirs.own
        assert ours.peers() == []
        assert not theirs.lost.done()
