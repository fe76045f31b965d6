"""Attachments that one node was sent and another serves; their room and their end are those of all nodes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.delivery import shared_files
from gateway.delivery.shared_files import ABANDONED_MS, SharedFiles
from gateway.nodes.tasks import TaskName
from gateway.store.app_locks import NO_APP
from gateway.store.nodes import attachment_files
from gateway.store.nodes.attachment_files import PIECE_BYTES, store_piece, whole_files
from gateway.store.transaction import Transaction
from tests.gateway.in_process import InProcessGateway
from tests.nodes import gateways_in_process

CONTENT = bytes(range(256)) * 2_500  # three pieces
ID = hashlib.sha256(CONTENT).hexdigest()
HOUR = 3_600_000


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[InProcessGateway]]:
    async with gateways_in_process(tmp_path, 2, run=True) as nodes:
        yield nodes


def copies(tmp_path: Path, number: int) -> list[str]:
    folder = tmp_path / f"node-{number}" / "attachments"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


async def upload(node: InProcessGateway, content: bytes = CONTENT, expect: int = 201, query: str = "") -> Any:
    headers = {"Content-Type": "image/png"}
    return await node.call("POST", f"/v1/attachments{query}", expect, content=content, headers=headers)


async def has_file(node: InProcessGateway) -> bool:
    """Whether a node serves the file as it was sent."""
    answer = await node.http.get(f"/v1/attachments/{ID}")
    return answer.status_code == 200 and hashlib.sha256(answer.content).hexdigest() == ID


async def stored(node: InProcessGateway) -> dict[str, int]:
    return await node.database.read(whole_files)


async def remove_expired(nodes: list[InProcessGateway]) -> None:
    """As the node does that sees to it."""
    async with asyncio.timeout(10):
        while True:
            for node in nodes:
                assert node.components.nodes is not None
                if node.components.nodes.tasks.is_owned(TaskName.RETENTION):
                    await node.components.delivery.attachments.remove_expired()
                    return
            await asyncio.sleep(0.01)


async def test_every_node_serves_what_one_was_sent_and_fetches_it_once(
    nodes: list[InProcessGateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes
    assert (await upload(first))["id"] == ID
    assert copies(tmp_path, 1) == [], "nobody has asked there"
    read: list[int] = []

    def noted(transaction: Transaction, attachment_id: str, no: int) -> bytes | None:
        read.append(no)
        return read_piece(transaction, attachment_id, no)

    read_piece = attachment_files.read_piece
    monkeypatch.setattr(shared_files, "read_piece", noted)
    answers = await asyncio.gather(*(second.http.get(f"/v1/attachments/{ID}") for _ in range(10)))
    assert [hashlib.sha256(answer.content).hexdigest() for answer in answers] == [ID] * 10
    assert sorted(read) == [0, 1, 2], "one copy, however many ask"
    assert copies(tmp_path, 1) == [ID]
    assert (await upload(second, expect=200))["id"] == ID, "the app has it"


async def test_a_push_by_any_node_refers_to_it_and_keeps_it(nodes: list[InProcessGateway]) -> None:
    first, second = nodes
    await first.enrol("till-1")
    await upload(first, query="?ttl=60")
    await second.push({"device": "till-1"}, notification={"title": "t", "image": f"attachment:{ID}"}, ttl=3_600)
    for node in nodes:  # a push is answered without it, a tenth of a second before
        assert node.components.nodes is not None
        await node.components.nodes.invalidations.read()
    first.clock.milliseconds += 20 * HOUR
    await remove_expired(nodes)
    assert await has_file(first)
    first.clock.milliseconds += 7 * HOUR
    await remove_expired(nodes)
    for node in nodes:
        await node.refused("GET", f"/v1/attachments/{ID}", 404, "attachment_not_found")
    assert await stored(first) == {}


async def test_what_one_removes_is_gone_everywhere(nodes: list[InProcessGateway], tmp_path: Path) -> None:
    first, second = nodes
    await upload(first)
    assert (await second.http.get(f"/v1/attachments/{ID}")).status_code == 200
    await second.call("DELETE", f"/v1/attachments/{ID}", 204)
    await first.refused("GET", f"/v1/attachments/{ID}", 404, "attachment_not_found")
    assert (copies(tmp_path, 0), copies(tmp_path, 1)) == ([], [])
    assert await stored(first) == {}


async def test_the_room_is_that_of_all_nodes(nodes: list[InProcessGateway]) -> None:
    first, second = nodes
    for node in nodes:
        attachments = node.components.delivery.attachments
        attachments.limits = replace(attachments.limits, storage=2 * len(CONTENT))
    both = await asyncio.gather(
        *(
            node.http.post("/v1/attachments", content=content, headers={"Content-Type": "image/png"})
            for node, content in zip(nodes, (CONTENT, CONTENT[::-1]), strict=True)
        )
    )
    assert sorted(answer.status_code for answer in both) == [201, 507], "three quarters are of one app"
    assert len(await stored(first)) == 1, "nothing is left of the other one"
    assert second.components.delivery.attachments.stored == len(CONTENT)


async def test_what_a_failed_upload_has_left_goes_when_it_is_old(nodes: list[InProcessGateway]) -> None:
    first = nodes[0]
    await upload(first)
    now_ms = first.clock.milliseconds
    await first.database.write(lambda t: store_piece(t, "0" * 64, 0, b"begun", now_ms), apps=NO_APP)
    await remove_expired(nodes)
    assert len(await stored(first)) == 2, "an upload may be under way"
    first.clock.milliseconds += ABANDONED_MS + 1
    await remove_expired(nodes)
    assert list(await stored(first)) == [ID]


async def test_a_file_that_is_removed_while_it_arrives_is_stored_again(
    nodes: list[InProcessGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes
    await upload(first)
    store = SharedFiles.store
    removed: list[str] = []

    async def store_and_remove(shared: SharedFiles, *file: Any) -> None:
        await store(shared, *file)
        if not removed:
            removed.append(ID)
            removing = first.call("DELETE", f"/v1/attachments/{ID}", 204)
            await asyncio.create_task(removing, context=Context())  # it is no part of this request

    monkeypatch.setattr(SharedFiles, "store", store_and_remove)
    await upload(second)
    assert await stored(first) == {ID: -(-len(CONTENT) // PIECE_BYTES)}
    assert await has_file(first)


async def test_who_becomes_a_node_brings_its_files_along(nodes: list[InProcessGateway], tmp_path: Path) -> None:
    first, second = nodes
    await upload(first)
    await first.database.write(
        lambda t: t.executemany("DELETE FROM attachment_piece WHERE id = ?", [(ID,)]), apps=NO_APP
    )
    await second.refused("GET", f"/v1/attachments/{ID}", 404, "attachment_not_found")
    attachments = first.components.delivery.attachments
    await attachments.load()
    assert await has_file(second)


async def test_a_copy_that_is_not_what_it_was_is_not_given_to_anybody(nodes: list[InProcessGateway]) -> None:
    first, second = nodes
    await upload(first)
    await first.database.write(
        lambda t: t.executemany("UPDATE attachment_piece SET content = ? WHERE no = 1", [(b"other",)]), apps=NO_APP
    )
    await second.refused("GET", f"/v1/attachments/{ID}", 404, "attachment_not_found")
