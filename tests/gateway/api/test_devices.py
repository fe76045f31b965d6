from __future__ import annotations

from typing import Any

import pytest

from gateway.api import responses
from gateway.auth import DeviceIdentity
from gateway.store.transaction import Transaction
from tests.gateway.in_process import InProcessGateway


async def token_hash(gateway: InProcessGateway, device_id: str) -> bytes:
    def read(connection: Transaction) -> bytes:
        (found,) = connection.execute(
            "SELECT token_hash FROM device WHERE id = ? AND removed_at IS NULL", (device_id,)
        ).fetchone()
        return bytes(found)

    return await gateway.database.read(read)


def connect(gateway: InProcessGateway, device_no: int, device_id: str) -> None:
    """As the broker reports it."""
    identity = DeviceIdentity(device_no, 1, "default", device_id, device_id)
    gateway.components.delivery.connections.connected(device_id, identity, False)


async def test_enrolment_gives_what_an_mqtt_client_needs(gateway: InProcessGateway) -> None:
    answer = await gateway.call("POST", "/v1/devices", 201, json={"device_id": "kiosk-1"})
    responses.EnrolledDeviceResponse.model_validate(answer)
    assert answer["token"].startswith("dev_")
    mqtt = answer["mqtt"]
    assert (mqtt["host"], mqtt["port"]) == ("push.example", 1883)
    assert mqtt["client_id"] == mqtt["username"] == "kiosk-1"
    assert mqtt["password"] == answer["token"]
    leaves = ("push", "receipts", "settings", "report", "uplink", "presence", "notices")
    assert mqtt["topics"] == {leaf: f"default/devices/kiosk-1/{leaf}" for leaf in leaves}
    again = await gateway.refused("POST", "/v1/devices", 409, "device_exists", json={"device_id": "kiosk-1"})
    assert "rotate its token with POST /v1/devices/ID/token" in again["detail"], "the command line knows the command"
    stored = await token_hash(gateway, "kiosk-1")
    assert len(stored) == 32
    assert answer["token"].encode() not in stored


async def test_an_id_is_chosen_when_none_is_given(gateway: InProcessGateway) -> None:
    first, second = [(await gateway.call("POST", "/v1/devices", 201, json={}))["device_id"] for _ in range(2)]
    assert first != second
    await gateway.call("GET", f"/v1/devices/{first}")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"device_id": "a b"}, "device_id"),
        ({"device_id": ""}, "device_id"),
        ({"device_id": "x" * 65}, "device_id"),
        ({"device_id": "a/b"}, "device_id"),
        ({"device_id": "a:b"}, "device_id"),
        ({"device_id": "x\n"}, "device_id"),
        ({"device_id": "dé"}, "device_id"),
        ({"device_id": 7}, "device_id"),
        ({"name": ""}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"tags": "hall"}, "tags"),
        ({"tags": ["a b"]}, "tags.0"),
        ({"tags": [f"t{n}" for n in range(65)]}, "tags"),
        ({"attributes": []}, "attributes"),
        ({"attributes": {"x": "y" * 17_000}}, "attributes"),
        ({"locale": "not a locale"}, "locale"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"timezone": ""}, "timezone"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_wrong_field_is_named_in_enrolment_and_change(
    gateway: InProcessGateway, fields: dict[str, Any], field: str
) -> None:
    document = await gateway.refused("POST", "/v1/devices", 422, "invalid_request", json=fields)
    assert document["detail"].startswith(f"{field}: ")
    if "device_id" not in fields:
        await gateway.enrol("kiosk-1")
        document = await gateway.refused("PATCH", "/v1/devices/kiosk-1", 422, "invalid_request", json=fields)
        assert document["detail"].startswith(f"{field}: ")


async def test_numbers_that_are_no_json_are_refused(gateway: InProcessGateway) -> None:
    body = b'{"attributes": {"x": NaN}}'
    await gateway.refused("POST", "/v1/devices", 422, content=body, headers={"Content-Type": "application/json"})


async def test_a_device_is_shown_and_listed(gateway: InProcessGateway) -> None:
    fields = {"name": "Lobby", "tags": ["lobby", "hall", "hall"], "attributes": {"floor": 2}, "locale": "de-CH"}
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "kiosk-2", "timezone": "Europe/Berlin", **fields})
    await gateway.enrol("kiosk-1")
    shown = await gateway.call("GET", "/v1/devices/kiosk-2")
    responses.DeviceResponse.model_validate(shown)
    assert shown["tags"] == ["hall", "lobby"]
    assert (shown["name"], shown["attributes"], shown["locale"]) == ("Lobby", {"floor": 2}, "de-CH")
    assert (shown["timezone"], shown["online"], shown["connected_at"]) == ("Europe/Berlin", False, None)
    listed = await gateway.call("GET", "/v1/devices")
    responses.DevicesResponse.model_validate(listed)
    assert [item["device_id"] for item in listed["items"]] == ["kiosk-1", "kiosk-2"]
    assert listed["items"][1] == shown
    assert listed["next_cursor"] is None


async def test_a_list_is_walked_page_by_page(gateway: InProcessGateway) -> None:
    ids = [f"d{n:02}" for n in range(25)]
    await gateway.enrol(*ids)
    walked, cursor = [], None
    while True:
        page = await gateway.call("GET", "/v1/devices", params={"limit": 10} | ({"cursor": cursor} if cursor else {}))
        walked += [item["device_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert walked == ids


@pytest.mark.of_one_server  # whose memory is shown
async def test_presence_and_errors_that_are_in_memory_only_are_shown(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    connect(gateway, 1, "kiosk-1")
    gateway.components.activity.error(1, "said something odd")
    shown = await gateway.call("GET", "/v1/devices/kiosk-1")
    assert (shown["online"], shown["connected_at"]) == (True, "2027-01-15T08:00:00.000Z")
    assert shown["last_error"] == "said something odd"
    gateway.clock.milliseconds += 60_000
    gateway.components.delivery.connections.disconnected("kiosk-1", "connection lost")
    await gateway.components.flush()
    shown = await gateway.call("GET", "/v1/devices/kiosk-1")
    assert (shown["online"], shown["last_seen"]) == (False, "2027-01-15T08:01:00.000Z")
    assert (shown["connected_at"], shown["last_error"]) == ("2027-01-15T08:00:00.000Z", "said something odd")


async def test_a_change_is_a_merge_patch(gateway: InProcessGateway) -> None:
    fields = {"name": "Lobby", "tags": ["a", "b"], "attributes": {"keep": 1, "drop": 2, "deep": {"x": 1, "y": 2}}}
    await gateway.enrol("kiosk-1", **fields)
    patch: dict[str, Any] = {
        "name": None,
        "tags": ["c"],
        "attributes": {"drop": None, "deep": {"x": None}, "new": []},
        "locale": "en",
    }
    changed = await gateway.call(
        "PATCH", "/v1/devices/kiosk-1", json=patch, headers={"Content-Type": "application/merge-patch+json"}
    )
    responses.DeviceResponse.model_validate(changed)
    assert changed["name"] is None
    assert (changed["tags"], changed["locale"]) == (["c"], "en")
    assert changed["attributes"] == {"keep": 1, "deep": {"y": 2}, "new": []}
    assert await gateway.call("PATCH", "/v1/devices/kiosk-1", json={}) == changed
    emptied = await gateway.call("PATCH", "/v1/devices/kiosk-1", json={"attributes": None, "tags": None})
    assert (emptied["attributes"], emptied["tags"]) == ({}, [])
    assert await gateway.call("GET", "/v1/devices/kiosk-1") == emptied


async def test_attributes_stay_bounded_however_they_grow(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1", attributes={"a": "x" * 10_000})
    document = await gateway.refused("PATCH", "/v1/devices/kiosk-1", 422, json={"attributes": {"b": "x" * 10_000}})
    assert document["detail"].startswith("attributes: ")
    assert "b" not in (await gateway.call("GET", "/v1/devices/kiosk-1"))["attributes"]


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"'])
async def test_a_patch_that_is_no_object_is_refused(gateway: InProcessGateway, body: bytes) -> None:
    await gateway.enrol("kiosk-1")
    headers = {"Content-Type": "application/json"}
    await gateway.refused("PATCH", "/v1/devices/kiosk-1", 422, content=body, headers=headers)
    await gateway.refused("PATCH", "/v1/devices/kiosk-1", 400, "malformed_json", content=b"{", headers=headers)
    await gateway.refused("PATCH", "/v1/devices/kiosk-1", 422, json={"device_id": "other"})


async def test_a_rotated_token_replaces_the_old_one(gateway: InProcessGateway) -> None:
    old = await gateway.call("POST", "/v1/devices", 201, json={"device_id": "kiosk-1"})
    before = await token_hash(gateway, "kiosk-1")
    new = await gateway.call("POST", "/v1/devices/kiosk-1/token")
    responses.EnrolledDeviceResponse.model_validate(new)
    assert new["token"] != old["token"]
    assert {**new["mqtt"], "password": ""} == {**old["mqtt"], "password": ""}
    assert await token_hash(gateway, "kiosk-1") != before


async def test_a_removed_device_is_gone_and_its_id_is_free(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1", tags=["hall"], name="Lobby")
    push_id = await gateway.push({"device": "kiosk-1"})
    await gateway.call("DELETE", "/v1/devices/kiosk-1", 204)
    await gateway.refused("DELETE", "/v1/devices/kiosk-1", 404, "device_not_found")
    await gateway.refused("GET", "/v1/devices/kiosk-1", 404, "device_not_found")
    assert (await gateway.call("GET", f"/v1/pushes/{push_id}"))["counts"]["revoked"] == 1
    (delivery,) = (await gateway.call("GET", f"/v1/pushes/{push_id}/deliveries"))["items"]
    assert (delivery["device_id"], delivery["reason"]) == ("kiosk-1", "device_removed")
    await gateway.enrol("kiosk-1")
    shown = await gateway.call("GET", "/v1/devices/kiosk-1")
    assert (shown["tags"], shown["name"]) == ([], None)
    assert (await gateway.call("GET", "/v1/devices/kiosk-1/mailbox"))["items"] == []


@pytest.mark.of_one_server  # whose commits are counted
async def test_bulk_enrolment_answers_each_item_in_order_after_one_commit(gateway: InProcessGateway) -> None:
    await gateway.enrol("known")
    groups = gateway.database.groups
    items: list[Any] = [{"device_id": "a"}, {"device_id": "known"}, {"device_id": "x y"}, {"device_id": "a"}, 7, {}]
    results = (await gateway.call("POST", "/v1/devices/bulk", 201, json={"devices": items}))["devices"]
    responses.EnrolledDevicesResponse.model_validate({"devices": results})
    assert gateway.database.groups == groups + 1
    assert ["token" in result for result in results] == [True, False, False, False, False, True]
    codes = [result["error"]["code"] for result in results if "error" in result]
    assert codes == ["device_exists", "invalid_request", "device_exists", "invalid_request"]
    assert [result["device_id"] for result in results[:5]] == ["a", "known", "x y", "a", None]


async def test_a_bulk_has_its_limit(gateway: InProcessGateway) -> None:
    many = [{"device_id": f"d{n}"} for n in range(10_001)]
    document = await gateway.refused("POST", "/v1/devices/bulk", 422, json={"devices": many})
    assert document["detail"].startswith("devices: ")
    results = (await gateway.call("POST", "/v1/devices/bulk", 201, json={"devices": many[:1000]}))["devices"]
    assert [result["device_id"] for result in results] == [device["device_id"] for device in many[:1000]]
    assert (await gateway.call("POST", "/v1/devices/bulk", 201, json={"devices": []})) == {"devices": []}


async def test_a_mailbox_is_shown_and_emptied(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    low = await gateway.push({"device": "kiosk-1"}, priority="low")
    high = await gateway.push({"device": "kiosk-1"}, priority="high", collapse_key="x")
    page = await gateway.call("GET", "/v1/devices/kiosk-1/mailbox?limit=1")
    responses.MailboxResponse.model_validate(page)
    assert [item["push_id"] for item in page["items"]] == [high]
    page = await gateway.call("GET", f"/v1/devices/kiosk-1/mailbox?limit=1&cursor={page['next_cursor']}")
    assert ([item["push_id"] for item in page["items"]], page["next_cursor"]) == ([low], None)
    await gateway.refused("GET", "/v1/devices/kiosk-1/mailbox?cursor=rubbish", 422)
    assert await gateway.call("DELETE", "/v1/devices/kiosk-1/mailbox") == {"cancelled": 2}
    assert await gateway.call("DELETE", "/v1/devices/kiosk-1/mailbox") == {"cancelled": 0}
    (delivery,) = (await gateway.call("GET", f"/v1/pushes/{low}/deliveries"))["items"]
    assert (delivery["state"], delivery["reason"]) == ("cancelled", "mailbox_emptied")


async def test_uplink_is_listed_newest_first_as_text_or_base64(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")

    def said(connection: Transaction) -> None:
        connection.executemany(
            "INSERT INTO uplink_message (device_no, topic, payload, received_at) VALUES (1, ?, ?, 0)",
            [("door", b"open"), ("raw", b"\xff\x00")],
        )

    await gateway.database.write(said)
    page = await gateway.call("GET", "/v1/devices/kiosk-1/uplink")
    responses.UplinkResponse.model_validate(page)
    raw, door = page["items"]
    assert (door["topic"], door["payload"], door["received_at"]) == ("door", "open", "1970-01-01T00:00:00.000Z")
    assert (raw["topic"], raw["payload_base64"]) == ("raw", "/wA=")
    first = await gateway.call("GET", "/v1/devices/kiosk-1/uplink?limit=1")
    rest = await gateway.call("GET", f"/v1/devices/kiosk-1/uplink?limit=1&cursor={first['next_cursor']}")
    assert [*first["items"], *rest["items"]] == page["items"]
    await gateway.refused("GET", "/v1/devices/kiosk-1/uplink?cursor=-1", 422)


async def test_devices_of_another_app_do_not_exist(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await gateway.key_for("devices", "read", "send", app="hotel")
    await gateway.enrol("kiosk-1")
    for method, path in (
        ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/token"), ("GET", "/mailbox"), ("DELETE", "/mailbox"),
        ("GET", "/uplink"),
    ):  # fmt: skip
        body: dict[str, Any] = {"json": {}} if method == "PATCH" else {}
        await gateway.refused(method, f"/v1/devices/kiosk-1{path}", 404, "device_not_found", theirs, **body)
    assert (await gateway.call("GET", "/v1/devices", http=theirs))["items"] == []
    answer = await gateway.call("POST", "/v1/devices", 201, theirs, json={"device_id": "kiosk-1"})
    assert answer["mqtt"]["username"] == "hotel/kiosk-1"
    assert answer["mqtt"]["topics"]["push"] == "hotel/devices/kiosk-1/push"
    assert (await gateway.call("POST", "/v1/pushes", 202, theirs, json={"target": {"all": True}}))["targeted"] == 1


@pytest.mark.of_one_server  # others know a second later who is online
async def test_a_list_has_the_devices_that_were_asked_for(gateway: InProcessGateway) -> None:
    for device_id, more in (
        ("kiosk-1", {"tags": ["hall"], "name": "Main hall"}),
        ("kiosk-2", {"tags": ["hall", "bar"]}),
        ("sign_1", {"name": "100% Hall"}),
    ):
        await gateway.call("POST", "/v1/devices", 201, json={"device_id": device_id, **more})
    connect(gateway, 1, "kiosk-1")
    await gateway.call("POST", "/v1/pushes", 202, json={"target": {"device": "sign_1"}})
    await gateway.database.write(
        lambda connection: connection.execute(
            "UPDATE device SET last_error = 'x', last_seen = ? WHERE id = 'kiosk-2'", (gateway.clock.milliseconds,)
        )
    )
    for query, expected in (
        ("online=true", ["kiosk-1"]),
        ("online=false", ["kiosk-2", "sign_1"]),
        ("tag=hall", ["kiosk-1", "kiosk-2"]),
        ("tag=nobody", []),
        ("q=HALL", ["kiosk-1", "sign_1"]),
        ("q=%25", ["sign_1"]),
        ("q=n_1", ["sign_1"]),
        ("has_error=true", ["kiosk-2"]),
        ("has_error=false", ["kiosk-1", "sign_1"]),
        ("waiting=true", ["sign_1"]),
        ("waiting=false&online=false", ["kiosk-2"]),
        ("last_seen_before=2020-01-01T00:00:00Z", ["sign_1"]),
        ("last_seen_before=2999-01-01T00:00:00Z&tag=hall", ["kiosk-2"]),
    ):
        items = (await gateway.call("GET", f"/v1/devices?{query}"))["items"]
        assert [item["device_id"] for item in items] == expected, query
    first = await gateway.call("GET", "/v1/devices?tag=hall&limit=1")
    assert [item["device_id"] for item in first["items"]] == ["kiosk-1"]
    second = await gateway.call("GET", f"/v1/devices?tag=hall&limit=1&cursor={first['next_cursor']}")
    assert [item["device_id"] for item in second["items"]] == ["kiosk-2"]
    assert second["next_cursor"] is None
    for query in ("online=perhaps", "last_seen_before=yesterday", "last_seen_before=2020-01-01T00:00:00", "q="):
        await gateway.refused("GET", f"/v1/devices?{query}", 422, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/devices?tags=hall"),
        ("GET", "/v1/pushes?Limit=3"),
        ("POST", "/v1/pushes?dry_run=true"),
        ("GET", "/v1/policy?x"),
        ("GET", "/healthz?verbose=1"),
    ],
)
async def test_a_parameter_that_nobody_knows_is_refused(gateway: InProcessGateway, method: str, path: str) -> None:
    problem = await gateway.refused(method, path, 422, "invalid_request", json={"target": {"all": True}})
    assert "no parameter is called" in problem["detail"]
