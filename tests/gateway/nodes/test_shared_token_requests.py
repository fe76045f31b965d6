"""Requests for new tokens that a device makes at one node, and its operator answers at another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.enrolment import token_requests
from gateway.enrolment.token_requests import FORGOTTEN_MS, NOTED_MS, TokenRequest
from gateway.errors import Problem
from tests.gateway.in_process import InProcessGateway
from tests.nodes import gateways_in_process


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[InProcessGateway]]:
    async with gateways_in_process(tmp_path, 2, run=True) as nodes:
        await nodes[0].enrol("kiosk-1", "kiosk-2")
        nodes[0].share_requests(nodes[1])  # for `catch_up`
        for node in nodes:
            node.http = node.client(node.key)
        yield nodes


async def ask(
    node: InProcessGateway, secret: str, device_id: str = "kiosk-1", host: str = "10.0.0.1"
) -> dict[str, Any] | None:
    asked = TokenRequest(device_id=device_id, secret=secret * 43)
    return await node.components.enrolment.token_requests.ask(asked, host)


def listed(node: InProcessGateway) -> list[tuple[str, str]]:
    page = node.components.enrolment.token_requests.page(1, 100, None)
    return [(item["id"], item["state"]) for item in page["items"]]


async def test_it_is_confirmed_at_another_node_and_answered_at_any(nodes: list[InProcessGateway]) -> None:
    first, second = nodes
    assert await ask(first, "s") is None
    await first.catch_up()
    ((request_id, state),) = listed(second)
    assert state == "pending"
    await second.components.enrolment.token_requests.confirm(1, request_id)
    await first.catch_up()
    for node in nodes * 3:
        given = await ask(node, "s")
        assert given is not None, "each knows of the answer before, which the device may have lost"
    await first.catch_up()
    await first.refused("DELETE", f"/v1/token-requests/{request_id}", 409, "request_answered")


async def test_one_of_a_device_is_confirmed_whoever_is_asked(nodes: list[InProcessGateway]) -> None:
    first, second = nodes
    await ask(first, "a")
    await ask(second, "b")
    await first.catch_up()
    (one, _), (other, _) = listed(first)
    answers = await asyncio.gather(
        first.components.enrolment.token_requests.confirm(1, one),
        second.components.enrolment.token_requests.confirm(1, other),
        return_exceptions=True,
    )
    assert [isinstance(answer, Exception) for answer in answers].count(True) == 1
    await first.catch_up()
    for node in nodes:
        assert sorted(state for _, state in listed(node)) == ["confirmed", "refused"]


async def test_a_token_on_its_way_is_not_voided_by_another_node(nodes: list[InProcessGateway]) -> None:
    first, second = nodes
    await ask(first, "s")
    ((request_id, _),) = listed(first)
    await first.components.enrolment.token_requests.confirm(1, request_id)
    await first.catch_up()
    answers = await asyncio.gather(ask(first, "s"), ask(second, "s"))
    (given,) = [answer for answer in answers if answer is not None]
    await first.catch_up()
    for node in nodes:
        await node.components._key_cache.authenticate_device("kiosk-1", given["token"])


async def test_a_token_is_given_so_often_over_all_nodes(
    nodes: list[InProcessGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_requests, "MAX_ANSWERS", 3)
    first = nodes[0]
    await ask(first, "s")
    ((request_id, _),) = listed(first)
    await first.components.enrolment.token_requests.confirm(1, request_id)
    await first.catch_up()
    given, refused = 0, 0
    while not refused:  # a node that is giving one answers as if it waited
        answers = await asyncio.gather(*(ask(node, "s") for node in nodes * 3), return_exceptions=True)
        given += sum(isinstance(answer, dict) for answer in answers)
        refused += sum(isinstance(answer, Problem) for answer in answers)
    assert given == 3


async def test_the_room_is_that_of_all_nodes(nodes: list[InProcessGateway], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_requests, "REQUESTS_OF_DEVICE", 2)
    await asyncio.gather(
        *(ask(nodes[number % 2], secret, host=f"10.0.{number}.1") for number, secret in enumerate("abcdefgh"))
    )
    await nodes[0].catch_up()
    assert len(listed(nodes[0])) == 2
    assert listed(nodes[0]) == listed(nodes[1])


async def test_it_is_kept_for_a_device_that_asks_one_node_only(nodes: list[InProcessGateway]) -> None:
    first, second = nodes
    await ask(first, "s")
    for _ in range(FORGOTTEN_MS // NOTED_MS * 3):
        first.clock.milliseconds += NOTED_MS
        await ask(first, "s")
        await first.catch_up()
    assert len(listed(second)) == 1
    first.clock.milliseconds += FORGOTTEN_MS + 1
    await first.components.enrolment.token_requests.remove_ended()
    await first.catch_up()
    for node in nodes:
        assert node.components.enrolment.token_requests._requests == {}


async def test_one_that_was_forgotten_and_is_made_anew_is_the_new_one_everywhere(nodes: list[InProcessGateway]) -> None:
    """With the same secret, as a device has it that was switched off."""
    first, second = nodes
    await ask(first, "s")
    await first.catch_up()
    ((before, _),) = listed(second)
    first.clock.milliseconds += FORGOTTEN_MS
    await ask(first, "s")
    await first.catch_up()
    ((anew, _),) = listed(second)
    assert anew != before
    assert listed(first) == listed(second)
    await first.components.enrolment.token_requests.confirm(1, anew)
    await first.catch_up()
    assert (await ask(second, "s") or {})["token"]


async def test_a_node_that_starts_has_them(nodes: list[InProcessGateway]) -> None:
    first, second = nodes
    await ask(first, "s")
    second.components.enrolment.token_requests._requests.clear()
    await second.components.enrolment.token_requests.load()
    assert listed(second) == listed(first)
