"""Sessions as the API gives them, uses them and ends them, with a clock that is moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from gateway.api import responses
from gateway.auth import secret_hash
from gateway.backup import make_startable
from gateway.store.transaction import Transaction
from tests.gateway.in_process import OURS, InProcessGateway

COOKIE = "fleetpush_session"
MINUTE_MS = 60_000


@pytest.fixture
async def browser(gateway: InProcessGateway) -> AsyncIterator[httpx2.AsyncClient]:
    async with gateway.client(None) as client:
        yield client


async def sign_in(gateway: InProcessGateway, browser: httpx2.AsyncClient, key: str | None = None) -> dict[str, Any]:
    body = {"key": key or gateway.key}
    document: dict[str, Any] = await gateway.call("POST", "/v1/session", 201, browser, json=body, headers=OURS)
    return document


async def new_key(gateway: InProcessGateway, *scopes: str, app: str = "default") -> dict[str, Any]:
    body = {"name": f"key with {', '.join(scopes)}", "scopes": list(scopes), "app": app}
    made: dict[str, Any] = await gateway.call("POST", "/v1/keys", 201, json=body)
    return made


async def rows(gateway: InProcessGateway) -> list[tuple[Any, ...]]:
    await gateway.database.write(lambda connection: None)  # behind what was submitted

    def read(connection: Transaction) -> list[tuple[Any, ...]]:
        return connection.execute("SELECT id, token_hash, used_at FROM console_session ORDER BY no").fetchall()

    return await gateway.database.read(read)


async def test_a_key_is_exchanged_for_a_cookie_that_does_what_the_key_may(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    key = await new_key(gateway, "read", "send")
    answer = await browser.post("/v1/session", json={"key": key["key"]}, headers=OURS)
    responses.SessionResponse.model_validate(answer.json())
    assert answer.status_code == 201
    (header,) = answer.headers.get_list("set-cookie")
    assert {part.strip() for part in header.split(";")[1:]} == {"HttpOnly", "Path=/", "SameSite=strict"}
    token = browser.cookies[COOKIE]
    assert key["key"] not in answer.text + header
    assert token not in answer.text

    shown = await gateway.call("GET", "/v1/session", http=browser)
    assert (shown["app"], shown["role"], shown["scopes"]) == ("default", "sender", ["read", "send"])
    assert (shown["name"], shown["sign_in"]) == (key["name"], "key")
    await gateway.call("GET", "/v1/pushes", http=browser)
    await gateway.call("POST", "/v1/pushes", 202, browser, json={"target": {"all": True}}, headers=OURS)
    await gateway.refused("POST", "/v1/devices", 403, "forbidden", browser, json={}, headers=OURS)
    ((_, stored, _),) = await rows(gateway)
    assert stored == secret_hash(token)

    await gateway.call("DELETE", "/v1/session", 204, browser, headers=OURS)
    assert COOKIE not in browser.cookies
    assert await rows(gateway) == []
    for path in ("/v1/session", "/v1/pushes"):
        await gateway.refused("GET", path, 401, "unauthorized", browser, headers={"Cookie": f"{COOKIE}={token}"})


async def test_over_tls_no_other_host_can_set_the_cookie(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    browser.base_url = httpx2.URL("https://test")
    ours = OURS | {"Origin": "https://test"}
    answer = await browser.post("/v1/session", json={"key": gateway.key}, headers=ours)
    (header,) = answer.headers.get_list("set-cookie")
    assert header.startswith("__Host-fleetpush_session=")
    assert "Secure" in header
    await gateway.call("GET", "/v1/session", http=browser)
    plain = {"Cookie": header.partition(";")[0].removeprefix("__Host-")}
    browser.cookies.clear()
    await gateway.refused("GET", "/v1/session", 401, "unauthorized", browser, headers=plain)


async def test_the_key_of_a_request_wins_over_its_session(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    reader = await new_key(gateway, "read")
    await sign_in(gateway, browser, reader["key"])
    admin = {"Authorization": f"Bearer {gateway.key}"}
    await gateway.call("GET", "/v1/keys", http=browser, headers=admin)
    await gateway.call(
        "POST", "/v1/apps", 201, browser, json={"id": "hotel"}, headers=admin
    )  # needs no more than before
    await gateway.refused("GET", "/v1/pushes", 401, http=browser, headers={"Authorization": "Bearer wrong"})
    # A proxy in front may ask for Basic itself: that is no credential of ours.
    await gateway.call("GET", "/v1/pushes", http=browser, headers={"Authorization": "Basic dTpw"})


@pytest.mark.of_one_server  # other nodes hear of its use once a minute
async def test_use_renews_a_session_and_idleness_ends_it(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    await sign_in(gateway, browser)
    for _ in range(4):
        gateway.clock.milliseconds += 14 * MINUTE_MS
        await gateway.call("GET", "/v1/pushes", http=browser)
    gateway.clock.milliseconds += 15 * MINUTE_MS
    await gateway.refused("GET", "/v1/pushes", 401, "unauthorized", browser)


@pytest.mark.of_one_server  # other nodes hear of its use once a minute
async def test_a_day_s_work_ends_a_session_however_much_it_is_used(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    begun = await sign_in(gateway, browser)
    for _ in range(12 * 6 - 1):
        gateway.clock.milliseconds += 10 * MINUTE_MS
        shown = await gateway.call("GET", "/v1/session", http=browser)
    assert shown["expires_at"] == shown["ends_at"] == begun["ends_at"]
    gateway.clock.milliseconds += 10 * MINUTE_MS
    await gateway.refused("GET", "/v1/session", 401, "unauthorized", browser)


@pytest.mark.of_one_server  # whose memory is written
async def test_use_is_written_once_a_minute_and_survives_a_restart(
    gateway: InProcessGateway, browser: httpx2.AsyncClient, tmp_path: Path
) -> None:
    sessions = gateway.components.people.sessions
    await sign_in(gateway, browser)
    sessions.flush()
    (begun,) = await rows(gateway)
    gateway.clock.milliseconds += MINUTE_MS // 2
    for _ in range(3):
        await gateway.call("GET", "/v1/pushes", http=browser)
        sessions.tick()
    assert await rows(gateway) == [begun]
    gateway.clock.milliseconds += MINUTE_MS // 2
    sessions.tick()
    ((_, _, used_at),) = await rows(gateway)
    assert used_at == begun[2] + MINUTE_MS // 2

    token = browser.cookies[COOKIE]
    await gateway.close()
    again = await InProcessGateway.build(tmp_path, asyncio.get_running_loop())
    try:
        await again.components.recover()
        again.clock.milliseconds = gateway.clock.milliseconds
        async with again.client(None) as same:
            await again.call("GET", "/v1/session", http=same, headers={"Cookie": f"{COOKIE}={token}"})
    finally:
        await again.close()


@pytest.mark.sqlite("whose file is restored")
async def test_a_restored_server_has_nobody_signed_in(
    gateway: InProcessGateway, browser: httpx2.AsyncClient, tmp_path: Path
) -> None:
    await sign_in(gateway, browser)
    await gateway.close()
    make_startable(tmp_path)
    again = await InProcessGateway.build(tmp_path, asyncio.get_running_loop())
    try:
        assert await rows(again) == []
    finally:
        await again.close()


async def test_a_revoked_key_ends_its_sessions_at_once(gateway: InProcessGateway, browser: httpx2.AsyncClient) -> None:
    key = await new_key(gateway, "read")
    other = gateway.client(None)
    await sign_in(gateway, browser, key["key"])
    await sign_in(gateway, other)
    await gateway.call("DELETE", f"/v1/keys/{key['id']}", 204)
    await gateway.refused("GET", "/v1/pushes", 401, "unauthorized", browser)
    await gateway.call("GET", "/v1/pushes", http=other)
    assert len(await rows(gateway)) == 1
    await gateway.refused("POST", "/v1/session", 401, "unauthorized", browser, json={"key": key["key"]}, headers=OURS)


async def test_a_key_that_is_revoked_while_somebody_signs_in_with_it_begins_no_session(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    key = await new_key(gateway, "read")
    await gateway.call("GET", "/v1/pushes", http=gateway.client(key["key"]))  # it is remembered
    body = {"key": key["key"]}
    outcomes = await asyncio.gather(
        *(browser.post("/v1/session", json=body, headers=OURS) for _ in range(3)),
        gateway.http.delete(f"/v1/keys/{key['id']}"),
        *(browser.post("/v1/session", json=body, headers=OURS) for _ in range(3)),
    )
    assert {answer.status_code for answer in outcomes} <= {201, 204, 401}
    for answer in outcomes:
        if answer.status_code == 201:
            cookie = answer.headers["set-cookie"].partition(";")[0]
            await gateway.refused(
                "GET", "/v1/pushes", 401, "unauthorized", headers={"Cookie": cookie}, http=gateway.client(None)
            )
    assert await rows(gateway) == []


async def test_what_a_browser_shows_when_it_signs_in_is_never_adopted(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    """Session fixation: an attacker has a browser show a session that the attacker knows, valid or made up."""
    attacker = gateway.client(None)
    reader = await new_key(gateway, "read")
    await sign_in(gateway, attacker, reader["key"])
    planted = attacker.cookies[COOKIE]
    for token in (planted, "ses_" + "a" * 43):
        cookies = {**OURS, "Cookie": f"{COOKIE}={token}"}
        answer = await browser.post("/v1/session", json={"key": gateway.key}, headers=cookies)
        assert answer.status_code == 201
        assert answer.cookies[COOKIE] != token
        browser.cookies.clear()
        await gateway.refused(
            "GET", "/v1/pushes", 401, "unauthorized", browser, headers={"Cookie": f"{COOKIE}={token}"}
        )


async def test_two_cookies_of_the_name_count_for_nothing(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    await sign_in(gateway, browser)
    token = browser.cookies[COOKIE]
    browser.cookies.clear()
    for cookies in (f"{COOKIE}={token}; {COOKIE}=ses_planted", f"{COOKIE}=ses_planted; {COOKIE}={token}", f"{COOKIE}="):
        await gateway.refused("GET", "/v1/pushes", 401, "unauthorized", browser, headers={"Cookie": cookies})
    await gateway.call("GET", "/v1/pushes", http=browser, headers={"Cookie": f"theme=dark; {COOKIE}={token}; x"})


@pytest.mark.of_one_server  # other nodes hear of its use once a minute
async def test_the_session_of_a_holder_that_was_not_used_for_longest_makes_room(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.people.sessions.SESSIONS_OF_HOLDER", 2)
    browsers = [gateway.client(None) for _ in range(3)]
    for browser in browsers[:2]:
        await sign_in(gateway, browser)
        gateway.clock.milliseconds += 1
    await gateway.call("GET", "/v1/session", http=browsers[0])
    await sign_in(gateway, browsers[2])
    await gateway.refused("GET", "/v1/session", 401, "unauthorized", browsers[1])
    for browser in (browsers[0], browsers[2]):
        await gateway.call("GET", "/v1/session", http=browser)
    gateway.components.people.sessions.tick()
    assert len(await rows(gateway)) == 2


@pytest.mark.of_one_server  # the limit is of each
async def test_a_key_cannot_fill_the_audit_log_with_sign_ins(
    gateway: InProcessGateway, browser: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.people.sessions.SIGN_INS_TOGETHER", 2)
    reader = (await new_key(gateway, "read"))["key"]
    for _ in range(2):
        await sign_in(gateway, browser, reader)
    before = (await gateway.call("GET", "/v1/audit/chain"))["head"]
    refused = {"json": {"key": reader}, "headers": OURS}
    for _ in range(3):
        await gateway.refused("POST", "/v1/session", 429, "rate_limited", browser, **refused)
    await gateway.database.write(lambda connection: None)  # behind what was submitted
    assert (await gateway.call("GET", "/v1/audit/chain"))["head"] == before
    await gateway.call("GET", "/v1/session", http=browser)  # the session that there was has not suffered
    await sign_in(gateway, gateway.client(None))  # nor has anybody else
    gateway.clock.milliseconds += 10_000
    await sign_in(gateway, browser, reader)
    await gateway.refused("POST", "/v1/session", 429, "rate_limited", browser, **refused)


@pytest.mark.of_one_server  # whose memory is asked
async def test_a_stream_ends_with_the_time_of_its_session(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    await sign_in(gateway, browser)
    sessions, token = gateway.components.people.sessions, browser.cookies[COOKIE]
    assert sessions.known(token) is not None
    gateway.clock.milliseconds += 15 * MINUTE_MS
    assert sessions.known(token) is None  # without a flush


@pytest.mark.of_one_server  # other nodes hear of its use once a minute
async def test_a_full_server_takes_the_room_from_the_app_that_has_most_of_it(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.people.sessions.MAX_SESSIONS", 3)
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = (await new_key(gateway, "read", app="hotel"))["key"]
    hotel, *ours = (gateway.client(None) for _ in range(4))
    await sign_in(gateway, hotel, theirs)
    for browser in ours:
        gateway.clock.milliseconds += 1
        await sign_in(gateway, browser)
    await gateway.call("GET", "/v1/session", http=hotel)
    await gateway.refused("GET", "/v1/session", 401, "unauthorized", ours[0])


async def test_a_session_reaches_its_own_app_only(gateway: InProcessGateway, browser: httpx2.AsyncClient) -> None:
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    await gateway.enrol("kiosk-1")
    push_id = await gateway.push({"device": "kiosk-1"})
    ours = (await gateway.call("GET", "/v1/keys"))["items"][0]
    await sign_in(gateway, browser, (await new_key(gateway, "admin", app="hotel"))["key"])
    await gateway.refused("GET", "/v1/devices/kiosk-1", 404, "device_not_found", browser)
    await gateway.refused("GET", f"/v1/pushes/{push_id}", 404, "push_not_found", browser)
    await gateway.refused("DELETE", f"/v1/pushes/{push_id}", 404, "push_not_found", browser, headers=OURS)
    await gateway.refused("DELETE", f"/v1/keys/{ours['id']}", 404, "key_not_found", browser, headers=OURS)


@pytest.mark.of_one_server  # the limit is of each
async def test_wrong_keys_are_answered_late_and_too_many_not_at_all(
    gateway: InProcessGateway, browser: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_time = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await is_time.wait()

    monkeypatch.setattr("gateway.enrolment.guesses.asyncio", SimpleNamespace(sleep=sleep))
    wrong = {"json": {"key": "key_wrong"}, "headers": OURS}
    asking = [asyncio.ensure_future(browser.post("/v1/session", **wrong)) for _ in range(8)]  # type: ignore[arg-type]
    for answered in islice(asyncio.as_completed(asking), 4):
        assert (await answered).json()["code"] == "too_many_attempts"
    is_time.set()
    answers = await asyncio.gather(*asking)
    codes = [answer.json()["code"] for answer in answers]
    assert {code: codes.count(code) for code in codes} == {"unauthorized": 4, "too_many_attempts": 4}
    await sign_in(gateway, browser)


@pytest.mark.parametrize("key", ["", "two words", "x" * 257, "schlüssel", 7, None])
async def test_what_cannot_be_a_key_is_refused_as_a_field(
    gateway: InProcessGateway, browser: httpx2.AsyncClient, key: object
) -> None:
    await gateway.refused("POST", "/v1/session", 422, "invalid_request", browser, json={"key": key}, headers=OURS)


async def test_the_page_of_the_sign_in_is_told_that_there_are_keys_alone(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    options = await gateway.call("GET", "/v1/session/options", http=browser)
    responses.SignInOptionsResponse.model_validate(options)
    assert options == {"oidc": None}


async def test_each_device_of_a_removal_of_many_says_from_which_session(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    for device_id in ("kiosk-1", "kiosk-2"):
        await gateway.enrol(device_id)
    session = await sign_in(gateway, browser)
    body = {"devices": ["kiosk-1", "kiosk-2"]}
    await gateway.call("POST", "/v1/devices/removal", http=browser, json=body, headers=OURS)
    entries = (await gateway.call("GET", "/v1/audit", params={"action": "device.remove_many"}))["items"]
    assert {entry["object"]: entry["details"] for entry in entries} == {
        "device:kiosk-1": {"session": session["id"]},
        "device:kiosk-2": {"session": session["id"]},
    }


async def test_the_audit_log_has_sign_ins_and_what_is_done_with_a_session(
    gateway: InProcessGateway, browser: httpx2.AsyncClient
) -> None:
    key = await new_key(gateway, "read", "send")
    session = await sign_in(gateway, browser, key["key"])
    body = {"target": {"all": True}}
    sent = await gateway.call("POST", "/v1/pushes", 202, browser, json=body, headers=OURS)
    await gateway.call("DELETE", "/v1/session", 204, browser, headers=OURS)
    entries = (await gateway.call("GET", "/v1/audit"))["items"][:3]
    assert [(entry["action"], entry["object"]) for entry in entries] == [
        ("session.end", f"session:{session['id']}"),
        ("push.send", f"push:{sent['push_id']}"),
        ("session.begin", f"session:{session['id']}"),
    ]
    assert {entry["actor"] for entry in entries} == {f"key:{key['id']}"}
