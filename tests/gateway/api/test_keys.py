from __future__ import annotations

import pytest

from gateway.api import responses
from tests.gateway.in_process import InProcessGateway


async def test_a_key_is_shown_once_works_and_can_be_revoked(gateway: InProcessGateway) -> None:
    made = await gateway.call("POST", "/v1/keys", 201, json={"name": "till", "scopes": ["send", "read"]})
    responses.NewKeyResponse.model_validate(made)
    client = gateway.client(made["key"])
    await gateway.call("GET", "/v1/pushes", http=client)
    listed = await gateway.call("GET", "/v1/keys")
    responses.KeysResponse.model_validate(listed)
    assert {key["name"] for key in listed["items"]} == {"first start", "till"}
    assert made["key"] not in str(listed)
    await gateway.call("DELETE", f"/v1/keys/{made['id']}", 204)
    await gateway.refused("GET", "/v1/pushes", 401, "unauthorized", client)
    await gateway.call("DELETE", f"/v1/keys/{made['id']}", 204)
    assert any(key["revoked_at"] for key in (await gateway.call("GET", "/v1/keys"))["items"])
    await gateway.refused("DELETE", "/v1/keys/k_nothing", 404, "key_not_found")


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", "Basic x", "Bearer Grüße"])
async def test_without_a_valid_key_there_is_401_and_nothing_else(
    gateway: InProcessGateway, authorization: str | None
) -> None:
    headers = {} if authorization is None else {b"Authorization": authorization.encode()}
    client = gateway.client(None)
    for path in ("/v1/pushes", "/v1/devices/x", "/v1/keys"):
        answer = await client.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    await gateway.refused("POST", "/v1/pushes", 401, "unauthorized", client, content=b"{", headers=headers)


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("send", "POST", "/v1/pushes"),
        ("send", "POST", "/v1/pushes/batch"),
        ("send", "POST", "/v1/pushes/forecast"),
        ("send", "DELETE", "/v1/pushes/x"),
        ("read", "GET", "/v1/pushes"),
        ("read", "GET", "/v1/pushes/x"),
        ("read", "GET", "/v1/pushes/x/deliveries"),
        ("devices", "POST", "/v1/devices"),
        ("devices", "POST", "/v1/devices/bulk"),
        ("devices", "PATCH", "/v1/devices/x"),
        ("devices", "DELETE", "/v1/devices/x"),
        ("devices", "POST", "/v1/devices/x/token"),
        ("devices", "DELETE", "/v1/devices/x/mailbox"),
        ("admin", "POST", "/v1/apps"),
        ("admin", "GET", "/v1/apps"),
        ("admin", "POST", "/v1/keys"),
        ("admin", "GET", "/v1/keys"),
        ("admin", "DELETE", "/v1/keys/x"),
    ],
)
async def test_each_call_needs_its_scope(gateway: InProcessGateway, scope: str, method: str, path: str) -> None:
    others = {"send", "read", "devices"} - {scope}
    document = await gateway.refused(method, path, 403, "forbidden", await gateway.key_for(*others))
    assert scope in document["detail"]


@pytest.mark.parametrize("path", ["", "/x", "/x/mailbox", "/x/uplink"])
async def test_devices_may_be_looked_at_by_readers_and_by_managers(gateway: InProcessGateway, path: str) -> None:
    for scope in ("read", "devices"):
        answer = await (await gateway.key_for(scope)).get(f"/v1/devices{path}")
        assert answer.status_code in (200, 404)
    await gateway.refused("GET", f"/v1/devices{path}", 403, "forbidden", await gateway.key_for("send"))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "", "scopes": ["send"]},
        {"name": "x", "scopes": ["send"], "colour": 1},
        {"name": "x", "scopes": ["send"], "app": "No App"},
    ],
)
async def test_a_key_request_is_checked(gateway: InProcessGateway, body: dict[str, object]) -> None:
    await gateway.refused("POST", "/v1/keys", 422, "invalid_request", json=body)


async def test_keys_of_other_apps(gateway: InProcessGateway) -> None:
    unknown = {"name": "x", "scopes": ["send"], "app": "hotel"}
    await gateway.refused("POST", "/v1/keys", 404, "not_found", json=unknown)
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await gateway.key_for("admin", app="hotel")
    ours = (await gateway.call("GET", "/v1/keys"))["items"][0]
    await gateway.refused("DELETE", f"/v1/keys/{ours['id']}", 404, "key_not_found", theirs)
    across = {"name": "x", "scopes": ["send"], "app": "default"}
    await gateway.refused("POST", "/v1/keys", 403, "forbidden", theirs, json=across)
    (own,) = (await gateway.call("GET", "/v1/keys", http=theirs))["items"]
    assert own["app"] == "hotel"
    await gateway.call("DELETE", f"/v1/keys/{own['id']}", 204)
    await gateway.refused("GET", "/v1/keys", 401, "unauthorized", theirs)


async def test_the_last_way_in_cannot_be_revoked(gateway: InProcessGateway) -> None:
    (first,) = (await gateway.call("GET", "/v1/keys"))["items"]
    await gateway.refused("DELETE", f"/v1/keys/{first['id']}", 409, "last_admin_key")
    await gateway.key_for("send")
    await gateway.refused("DELETE", f"/v1/keys/{first['id']}", 409, "last_admin_key")
    second = await gateway.key_for("admin")
    await gateway.call("DELETE", f"/v1/keys/{first['id']}", 204, http=second)
    await gateway.refused("GET", "/v1/keys", 401)


async def test_an_app_has_so_many_valid_keys_and_there_are_so_many_apps(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.keys.MAX_KEYS", 2)
    monkeypatch.setattr("gateway.keys.MAX_APPS", 2)
    body = {"name": "x", "scopes": ["read"]}
    made = await gateway.call("POST", "/v1/keys", 201, json=body)
    await gateway.refused("POST", "/v1/keys", 422, "invalid_request", json=body)
    await gateway.call("DELETE", f"/v1/keys/{made['id']}", 204)
    await gateway.call("POST", "/v1/keys", 201, json=body)
    await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
    await gateway.refused("POST", "/v1/apps", 422, "invalid_request", json={"id": "another"})


async def test_keys_of_another_app_are_listed_by_the_main_one_alone(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await gateway.key_for("admin", app="hotel")
    (listed,) = (await gateway.call("GET", "/v1/keys?app=hotel"))["items"]
    assert listed["app"] == "hotel"
    assert (await gateway.call("GET", "/v1/keys?app=hotel", http=theirs))["items"] == [listed]
    await gateway.refused("GET", "/v1/keys?app=default", 403, "forbidden", theirs)
    await gateway.refused("GET", "/v1/keys?app=nobody", 404, "not_found")
