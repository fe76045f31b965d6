"""Requests that other pages have a browser send with the session's cookie: each header that gives them away."""

from __future__ import annotations

import pytest

from tests.gateway.in_process import OURS, InProcessGateway

PUSH = {"target": {"all": True}}


async def cookie_of(gateway: InProcessGateway) -> dict[str, str]:
    answer = await gateway.client(None).post("/v1/session", json={"key": gateway.key}, headers=OURS)
    assert answer.status_code == 201
    return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="a form"),
        pytest.param({"Origin": "http://test"}, id="without the header"),
        pytest.param({"Fleetpush-Console": "1"}, id="without an origin"),
        pytest.param({"Fleetpush-Console": "0", "Origin": "http://test"}, id="with another value"),
        pytest.param(OURS | {"Origin": "http://evil.example"}, id="of another host"),
        pytest.param(OURS | {"Origin": "http://test:81"}, id="of another port"),
        pytest.param(OURS | {"Origin": "http://test.evil.example"}, id="of a host that begins alike"),
        pytest.param(OURS | {"Origin": "null"}, id="of a sandboxed frame"),
        pytest.param(OURS | {"Origin": "test"}, id="of no scheme"),
        pytest.param(OURS | {"Origin": "http://"}, id="of no host"),
        pytest.param(OURS | {"Sec-Fetch-Site": "cross-site"}, id="of another site"),
        pytest.param(OURS | {"Sec-Fetch-Site": "same-site"}, id="of another port of the same host"),
        pytest.param(OURS | {"Sec-Fetch-Site": "none"}, id="of no page"),
    ],
)
async def test_a_change_has_to_come_from_a_page_of_ours(gateway: InProcessGateway, headers: dict[str, str]) -> None:
    cookie = await cookie_of(gateway)
    browser = gateway.client(None)
    sent = {**cookie, **headers}
    await gateway.refused("POST", "/v1/pushes", 403, "not_same_origin", browser, json=PUSH, headers=sent)
    await gateway.refused("DELETE", "/v1/session", 403, "not_same_origin", browser, headers=sent)
    body = {"key": gateway.key}  # or somebody would work in another person's session, and not notice
    await gateway.refused("POST", "/v1/session", 403, "not_same_origin", browser, json=body, headers=sent)
    assert (await gateway.call("GET", "/v1/pushes"))["items"] == []
    await gateway.call("GET", "/v1/pushes", http=browser, headers=cookie)  # the session has not suffered


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_other_origins_do_not_read_either(gateway: InProcessGateway, site: str) -> None:
    headers = {**await cookie_of(gateway), "Sec-Fetch-Site": site}
    await gateway.refused("GET", "/v1/devices", 403, "not_same_origin", gateway.client(None), headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Origin": "http://test"}, id="a browser over plain HTTP"),
        pytest.param({"Sec-Fetch-Site": "same-origin", "Origin": "http://test"}, id="a browser"),
        pytest.param({"Sec-Fetch-Site": "same-origin", "Origin": "https://push.example"}, id="behind a proxy"),
        pytest.param({"Origin": "https://test"}, id="behind a proxy that speaks TLS"),
        pytest.param({"Origin": "http://TEST"}, id="in capital letters"),
    ],
)
async def test_pages_of_ours_may(gateway: InProcessGateway, headers: dict[str, str]) -> None:
    sent = {**await cookie_of(gateway), "Fleetpush-Console": "1", **headers}
    await gateway.call("POST", "/v1/pushes", 202, gateway.client(None), json=PUSH, headers=sent)


async def test_a_page_without_tls_is_not_ours_over_tls(gateway: InProcessGateway) -> None:
    browser = gateway.client(None)
    browser.base_url = browser.base_url.copy_with(scheme="https")
    body = {"key": gateway.key}
    await gateway.refused("POST", "/v1/session", 403, "not_same_origin", browser, json=body, headers=OURS)


async def test_no_page_of_another_origin_is_permitted_the_header(gateway: InProcessGateway) -> None:
    asked = {
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "fleetpush-console,content-type",
    }
    for path in ("/v1/pushes", "/v1/session", "/v1/keys", "/v1/devices"):
        answer = await gateway.client(None).options(path, headers=asked)
        assert "access-control-allow-origin" not in answer.headers
