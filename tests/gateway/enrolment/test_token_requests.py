"""A device that has lost its token asks again: nobody is believed, and an operator sees who is who."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.api import responses
from gateway.enrolment import token_requests
from gateway.enrolment.token_requests import ANSWERED_MS, FORGOTTEN_MS, PENDING_MS, confirmation_of
from gateway.store.transaction import Transaction
from tests.gateway.in_process import InProcessGateway

SECRET = "s" * 43
OTHER = "o" * 43


async def ask(
    gateway: InProcessGateway, device_id: str = "kiosk-1", secret: str = SECRET, expect: int = 202, **more: Any
) -> Any:
    body = {"device_id": device_id, "secret": secret, **more}
    return await gateway.call("POST", "/v1/enrol/again", expect, gateway.client(None), json=body)


async def listed(gateway: InProcessGateway) -> list[dict[str, Any]]:
    await gateway.catch_up()
    page = await gateway.call("GET", "/v1/token-requests")
    responses.TokenRequestsResponse.model_validate(page)
    items: list[dict[str, Any]] = page["items"]
    return items


async def may_connect(gateway: InProcessGateway, device_id: str, token: str) -> bool:
    try:
        await gateway.components._key_cache.authenticate_device(device_id, token)
    except Exception:
        return False
    return True


async def test_a_confirmed_device_fetches_its_token_and_keeps_the_old_one_until_then(gateway: InProcessGateway) -> None:
    old = (await gateway.call("POST", "/v1/devices", 201, json={"device_id": "kiosk-1"}))["token"]
    pending = await ask(gateway, note="new disk")
    responses.PendingTokenResponse.model_validate(pending)
    assert pending == {"status": "pending", "confirmation": confirmation_of(SECRET)}
    (request,) = await listed(gateway)
    assert (request["device_id"], request["confirmation"], request["note"], request["state"]) == (
        "kiosk-1", pending["confirmation"], "new disk", "pending",
    )  # fmt: skip
    confirmed = await gateway.call("POST", f"/v1/token-requests/{request['id']}/confirm")
    assert confirmed["state"] == "confirmed"
    assert await may_connect(gateway, "kiosk-1", old)
    answer = await ask(gateway, expect=200)
    responses.EnrolledDeviceResponse.model_validate(answer)
    assert not await may_connect(gateway, "kiosk-1", old)
    assert await may_connect(gateway, "kiosk-1", answer["token"])
    again = await ask(gateway, expect=200)
    assert await may_connect(gateway, "kiosk-1", again["token"]), "an answer may be lost"
    await ask(gateway, secret=OTHER)
    await gateway.refused("DELETE", f"/v1/token-requests/{request['id']}", 409, "request_answered")


async def test_what_a_stranger_is_told_does_not_depend_on_what_is_here(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    http = gateway.client(None)
    answers = []
    for device_id in ("kiosk-1", "nobody"):
        answer = await http.post("/v1/enrol/again", json={"device_id": device_id, "secret": SECRET})
        answers.append((answer.status_code, answer.json(), answer.headers["retry-after"]))
    assert answers[0] == answers[1]
    assert len(await listed(gateway)) == 1
    assert (await ask(gateway, "nobody"))["status"] == "pending", "a secret is of one device"
    assert (await ask(gateway, app="nowhere"))["status"] == "pending"


async def test_a_refused_device_is_told_so_and_asks_with_another_secret(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    await ask(gateway)
    (request,) = await listed(gateway)
    await gateway.call("DELETE", f"/v1/token-requests/{request['id']}", 204)
    body = {"device_id": "kiosk-1", "secret": SECRET}
    await gateway.refused("POST", "/v1/enrol/again", 403, "request_refused", gateway.client(None), json=body)
    await gateway.refused("POST", f"/v1/token-requests/{request['id']}/confirm", 409, "request_answered")
    await ask(gateway, secret=OTHER)


async def test_of_several_that_say_they_are_a_device_one_is_confirmed_and_the_others_are_refused(
    gateway: InProcessGateway,
) -> None:
    await gateway.enrol("kiosk-1", "kiosk-2")
    await ask(gateway)
    await ask(gateway, secret=OTHER)
    await ask(gateway, "kiosk-2", secret="t" * 43)
    by_confirmation = {item["confirmation"]: item["id"] for item in await listed(gateway)}
    assert len(by_confirmation) == 3
    await gateway.call("POST", f"/v1/token-requests/{by_confirmation[confirmation_of(OTHER)]}/confirm")
    states = {item["confirmation"]: item["state"] for item in await listed(gateway)}
    assert states == {
        confirmation_of(SECRET): "refused", confirmation_of(OTHER): "confirmed", confirmation_of("t" * 43): "pending",
    }  # fmt: skip


async def test_requests_are_forgotten(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    await ask(gateway)
    gateway.clock.milliseconds += FORGOTTEN_MS
    assert await listed(gateway) == [], "its device asks no more"
    await ask(gateway)
    (request,) = await listed(gateway)
    for _ in range(PENDING_MS // (FORGOTTEN_MS - 1)):
        gateway.clock.milliseconds += FORGOTTEN_MS - 1
        await ask(gateway)
        await gateway.catch_up()
    assert [item["id"] for item in await listed(gateway)] == [request["id"]]
    gateway.clock.milliseconds += FORGOTTEN_MS - 1
    await ask(gateway)
    (anew,) = await listed(gateway)
    assert anew["id"] != request["id"], "after a day it is another request"
    await gateway.call("POST", f"/v1/token-requests/{anew['id']}/confirm")
    gateway.clock.milliseconds += ANSWERED_MS
    await gateway.refused("POST", f"/v1/token-requests/{anew['id']}/confirm", 404, "request_not_found")
    await ask(gateway)


async def test_a_removed_device_gets_no_token_and_neither_does_who_has_its_id_now(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    await ask(gateway)
    (request,) = await listed(gateway)
    await gateway.call("POST", f"/v1/token-requests/{request['id']}/confirm")
    await gateway.call("DELETE", "/v1/devices/kiosk-1", 204)
    body = {"device_id": "kiosk-1", "secret": SECRET}
    for _ in range(2):
        await gateway.refused("POST", "/v1/enrol/again", 403, "request_refused", gateway.client(None), json=body)
        if not (await gateway.http.get("/v1/devices/kiosk-1")).is_success:
            await gateway.enrol("kiosk-1")


async def test_requests_are_of_one_app(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
    other = await gateway.key_for("devices", app="other")
    await gateway.call("POST", "/v1/devices", 201, other, json={"device_id": "kiosk-1"})
    await ask(gateway, app="other")
    assert await listed(gateway) == []
    (request,) = (await gateway.call("GET", "/v1/token-requests", http=other))["items"]
    await gateway.refused("POST", f"/v1/token-requests/{request['id']}/confirm", 404, "request_not_found")
    await gateway.call("POST", f"/v1/token-requests/{request['id']}/confirm", http=other)
    assert (await ask(gateway, app="other", expect=200))["mqtt"]["username"] == "other/kiosk-1"


@pytest.mark.of_one_server  # each gives one at a time
async def test_answers_are_counted_and_given_one_at_a_time(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_requests, "MAX_ANSWERS", 3)
    await gateway.enrol("kiosk-1")
    await ask(gateway)
    (request,) = await listed(gateway)
    await gateway.call("POST", f"/v1/token-requests/{request['id']}/confirm")
    body = {"device_id": "kiosk-1", "secret": SECRET}
    http = gateway.client(None)
    answers = await asyncio.gather(*(http.post("/v1/enrol/again", json=body) for _ in range(4)))
    (token,) = [answer.json()["token"] for answer in answers if answer.status_code == 200]
    assert await may_connect(gateway, "kiosk-1", token), "none was voided by another"
    for _ in range(2):
        await ask(gateway, expect=200)
    await gateway.refused("POST", "/v1/enrol/again", 403, "request_refused", http, json=body)


@pytest.mark.of_one_server  # the limit is of each
async def test_an_event_says_so_and_not_too_often(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_requests, "EVENTS_OF_APP_PER_HOUR", 2)
    await gateway.enrol("kiosk-1", "kiosk-2", "kiosk-3")
    for device_id, secret in (("kiosk-1", SECRET), ("kiosk-1", OTHER), ("kiosk-2", "t" * 43), ("kiosk-3", "u" * 43)):
        await ask(gateway, device_id, secret)
    await gateway.components.flush()

    def read(connection: Transaction) -> list[tuple[str, str]]:
        return connection.execute(
            "SELECT d.id, e.content FROM event AS e JOIN device AS d ON d.no = e.device_no"
            " WHERE e.type = 'device.token_requested' ORDER BY e.no"
        ).fetchall()

    found = await gateway.database.read(read)
    assert [device_id for device_id, _ in found] == ["kiosk-1", "kiosk-2"], "one of a device, two of the app"
    assert confirmation_of(SECRET) in found[0][1]


class Crowd:
    """Requests from many addresses, without HTTP."""

    def __init__(self, gateway: InProcessGateway) -> None:
        self._requests = gateway.components.enrolment.token_requests
        self._number = 0

    async def ask(self, host: str, device_id: str) -> bool:
        """Whether it is listed."""
        self._number += 1
        secret = f"{self._number:043}"
        await self._requests.ask(token_requests.TokenRequest(device_id=device_id, secret=secret), host)
        return any(found.confirmation == confirmation_of(secret) for found in self._requests._requests.values())


async def test_who_asks_much_makes_room_for_who_asks_little(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_requests, "REQUESTS_OF_APP", 6)
    monkeypatch.setattr(token_requests, "REQUESTS_OF_ADDRESS", 5)
    monkeypatch.setattr(token_requests, "REQUESTS_OF_DEVICE", 2)
    devices = [f"kiosk-{number}" for number in range(9)]
    await gateway.enrol(*devices)
    crowd = Crowd(gateway)
    assert [await crowd.ask("a", device_id) for device_id in devices[:6]] == [True] * 5 + [False], "of an address"
    assert await crowd.ask("b", "kiosk-6")
    assert len(await listed(gateway)) == 6, "the room of the app is used up"
    assert await crowd.ask("c", "kiosk-7")
    assert len(await listed(gateway)) == 6, "the newest of a made room"
    assert {item["device_id"] for item in await listed(gateway)} == {*devices[:4], "kiosk-6", "kiosk-7"}
    assert await crowd.ask("d", "kiosk-0")
    assert not await crowd.ask("e", "kiosk-0"), "of a device"
    assert await crowd.ask("d", "kiosk-8")
    assert not await crowd.ask("b", "kiosk-8"), "nobody has two more than it"
    monkeypatch.setattr(token_requests, "REQUESTS_OF_APP", 7)
    monkeypatch.setattr(token_requests, "REQUESTS_OF_ALL", 6)
    assert await crowd.ask("f", "kiosk-7"), "of all: a has two"
    assert await crowd.ask("g", "kiosk-6"), "d has two"
    assert not await crowd.ask("h", "kiosk-1"), "of all: nobody has two"
    assert b"fleetpush_token_requests_pending 6.0" in gateway.components.metrics.text()


async def test_a_stranger_keeps_no_device_off_the_list(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    crowd = Crowd(gateway)
    assert [await crowd.ask("stranger", "kiosk-1") for _ in range(5)] == [True] * 4 + [False]
    assert await crowd.ask("shop", "kiosk-1"), "who has most makes room"
    assert not await crowd.ask("stranger", "kiosk-1")
    waiting = [item for item in await listed(gateway) if item["address"] == "stranger"]
    assert len(waiting) == 3
    await gateway.call("DELETE", f"/v1/token-requests/{waiting[0]['id']}", 204)
    assert await crowd.ask("branch", "kiosk-1"), "who was refused makes room"
