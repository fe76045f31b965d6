"""Answers that consoles share: how often one is made, and that nobody is shown what they know to be over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from gateway.api import shared_answers
from gateway.api.shared_answers import MOST_ANSWERS, SHARED_SECONDS, SharedAnswers
from gateway.auth import Principal
from tests.gateway.in_process import InProcessGateway

pytestmark = pytest.mark.of_one_server
"""Each has its own, a second old for who has changed something at another one."""
OWN = {"Fleetpush-Console": "1", "Origin": "http://test"}


class Reads:
    """Counts what is read for apps, and moves the clock of the answers by hand."""

    def __init__(self, gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.now = 0.0
        self.answers = gateway.api.state.services.shared_answers
        monkeypatch.setattr(self.answers, "_monotonic", lambda: self.now)
        read = gateway.database.read

        async def counted(operation: Callable[..., Any], app_no: int | None = None) -> Any:
            self.count += app_no is not None
            return await read(operation, app_no)

        monkeypatch.setattr(gateway.database, "read", counted)

    def taken(self) -> int:
        """Reads since the last time."""
        count, self.count = self.count, 0
        return count


@pytest.fixture
async def reads(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> Reads:
    await gateway.enrol("kiosk-1", "kiosk-2")
    return Reads(gateway, monkeypatch)


async def console(gateway: InProcessGateway, key: str | None = None) -> httpx2.AsyncClient:
    """A browser with a session of its own."""
    browser = gateway.client(None)
    answer = await browser.post("/v1/session", json={"key": key or gateway.key}, headers=OWN)
    browser.headers |= {"Cookie": answer.headers["set-cookie"].partition(";")[0], **OWN}
    return browser


async def test_consoles_that_look_at_one_thing_cost_the_reads_of_one(gateway: InProcessGateway, reads: Reads) -> None:
    consoles = [await console(gateway) for _ in range(5)]
    push_id = await gateway.push({"all": True})
    for path in (f"/v1/pushes/{push_id}", f"/v1/pushes/{push_id}/reasons", "/v1/pushes?limit=6"):
        alone = await gateway.call("GET", path)
        cost = reads.taken()
        shown = await asyncio.gather(*(gateway.call("GET", path, http=one) for one in consoles))
        assert (shown, reads.taken()) == ([alone] * 5, cost), "together"
        await gateway.call("GET", path, http=consoles[0])
        assert reads.taken() == 0, "one after the other"
        reads.now += SHARED_SECONDS
        await gateway.call("GET", path, http=consoles[0])
        assert reads.taken() == cost, "a second later"


async def test_a_program_gets_an_answer_of_its_own(gateway: InProcessGateway, reads: Reads) -> None:
    browser = await console(gateway)
    path = f"/v1/pushes/{await gateway.push({'all': True})}"
    await gateway.call("GET", path, http=browser)
    cost = reads.taken()
    for _ in range(2):
        await gateway.call("GET", path)
        assert reads.taken() == cost


async def test_who_changes_something_sees_it_and_so_does_everybody_else(
    gateway: InProcessGateway, reads: Reads
) -> None:
    mine, yours = await console(gateway), await console(gateway)
    push_id = await gateway.push({"all": True})
    show, listed = f"/v1/pushes/{push_id}", "/v1/pushes"
    for browser in (mine, yours):
        assert (await gateway.call("GET", show, http=browser))["counts"]["waiting"] == 2
    await gateway.call("DELETE", show, http=mine)
    for browser in (mine, yours):
        assert (await gateway.call("GET", show, http=browser))["counts"]["cancelled"] == 2
        assert len((await gateway.call("GET", listed, http=browser))["items"]) == 1
    sent = await gateway.call("POST", "/v1/pushes", 202, mine, json={"target": {"all": True}})
    assert (await gateway.call("GET", listed, http=mine))["items"][0]["push_id"] == sent["push_id"]
    await gateway.call("GET", f"/v1/pushes/{sent['push_id']}", http=yours)
    await gateway.call("DELETE", f"/v1/pushes/{sent['push_id']}")  # a program
    assert (await gateway.call("GET", f"/v1/pushes/{sent['push_id']}", http=yours))["counts"]["cancelled"] == 2


async def test_an_answer_that_was_being_made_during_a_change_is_not_given_after_it(
    gateway: InProcessGateway, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await console(gateway)
    push_id = await gateway.push({"all": True})
    reports = gateway.api.state.services.reports
    push, goes_on, has_read = reports.push, asyncio.Event(), asyncio.Event()

    async def slowly(app_no: int, push_id: str) -> dict[str, Any]:
        found: dict[str, Any] = await push(app_no, push_id)
        has_read.set()
        await goes_on.wait()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(reports, "push", slowly)
        before = asyncio.create_task(gateway.call("GET", f"/v1/pushes/{push_id}", http=browser))
        await has_read.wait()
    await gateway.call("DELETE", f"/v1/pushes/{push_id}", http=browser)
    assert (await gateway.call("GET", f"/v1/pushes/{push_id}", http=browser))["counts"]["cancelled"] == 2
    goes_on.set()
    assert (await before)["counts"]["waiting"] == 2


async def test_apps_and_rights_share_nothing(gateway: InProcessGateway, reads: Reads) -> None:
    await gateway.call("POST", "/v1/apps", 201, json={"id": "shop"})
    keys = [
        (await gateway.call("POST", "/v1/keys", 201, json={"name": "k", "scopes": ["read"], "app": app}))["key"]
        for app in ("default", "shop")
    ]
    push_id = await gateway.push({"all": True})
    admin, reader, other = await console(gateway), await console(gateway, keys[0]), await console(gateway, keys[1])
    await gateway.call("GET", f"/v1/pushes/{push_id}", http=admin)
    cost = reads.taken()
    await gateway.call("GET", f"/v1/pushes/{push_id}", http=reader)
    assert reads.taken() == cost
    await gateway.refused("GET", f"/v1/pushes/{push_id}", 404, "push_not_found", other)


async def test_a_refusal_is_not_kept(gateway: InProcessGateway, reads: Reads) -> None:
    browser = await console(gateway)
    for _ in range(2):
        await gateway.refused("GET", "/v1/pushes/none", 404, "push_not_found", browser)
        assert reads.taken() == 1
    assert not reads.answers._answers


async def test_answers_are_few_and_small(
    gateway: InProcessGateway, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await console(gateway)
    for limit in range(1, MOST_ANSWERS + 3):
        await gateway.call("GET", f"/v1/pushes?limit={limit}", http=browser)
    assert [question[-1] for question in reads.answers._answers] == [
        f"limit={limit}".encode() for limit in range(3, MOST_ANSWERS + 3)
    ], "the oldest leave"
    reads.now += SHARED_SECONDS
    monkeypatch.setattr(shared_answers, "MOST_BYTES", 10)
    await gateway.call("GET", "/v1/pushes", http=browser)
    assert not reads.answers._answers


async def test_who_goes_away_takes_the_answer_from_nobody() -> None:
    answers = SharedAnswers(lambda: 0.0)
    principal = Principal(1, "default", "k_1", frozenset({"read"}), session_id="s_1")
    request: Any = SimpleNamespace(scope={"path": "/", "query_string": b""})
    goes_on = asyncio.Event()

    async def make() -> bytes:
        await goes_on.wait()
        return b"{}"

    asked = [asyncio.create_task(answers.respond(request, principal, make)) for _ in range(2)]
    await asyncio.sleep(0)
    asked[0].cancel()
    goes_on.set()
    assert (await asked[1]).body == b"{}"
