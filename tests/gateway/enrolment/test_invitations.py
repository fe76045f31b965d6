"""Invitations: made, listed, revoked, and traded once for the token of one device."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest

from gateway.api import responses
from gateway.enrolment import guesses, invitations
from gateway.enrolment.addresses import FleetCa
from gateway.enrolment.codes import new_code
from gateway.enrolment.invitations import DEFAULT_SECONDS, REPEAT_MS
from gateway.store.transaction import Transaction
from tests.gateway.in_process import START, InProcessGateway

DAY_MS = 86_400_000
NONCE = "n" * 43


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong codes are answered at once."""
    monkeypatch.setattr(guesses, "MAX_DELAY_SECONDS", 0.0)


async def invited(gateway: InProcessGateway, **wanted: Any) -> Any:
    answer = await gateway.call("POST", "/v1/invitations", 201, json=wanted)
    responses.NewInvitationsResponse.model_validate(answer)
    return answer["invitations"][0]


async def enrolled(gateway: InProcessGateway, code: str, expect: int = 201, **said: Any) -> Any:
    answer = await gateway.call("POST", "/v1/enrol", expect, gateway.client(None), json={"code": code, **said})
    responses.EnrolledDeviceResponse.model_validate(answer)
    return answer


async def refused(gateway: InProcessGateway, status: int, problem: str, **said: Any) -> str:
    answer = await gateway.refused("POST", "/v1/enrol", status, problem, gateway.client(None), json=said)
    return str(answer["detail"])


async def may_connect(gateway: InProcessGateway, device_id: str, token: str) -> bool:
    try:
        await gateway.components._key_cache.authenticate_device(device_id, token)
    except Exception:
        return False
    return True


async def test_a_code_is_traded_once_for_the_token_of_a_device(gateway: InProcessGateway) -> None:
    made = await invited(gateway, name="Entrance", tags=["store-7", "store-7", "a"], attributes={"floor": 1})
    answer = await enrolled(gateway, made["code"].lower(), attributes={"floor": 2, "serial": "007"}, name="Mine")
    assert answer["token"].startswith("dev_")
    device = await gateway.call("GET", f"/v1/devices/{answer['device_id']}")
    assert (device["name"], device["tags"]) == ("Entrance", ["a", "store-7"])
    assert device["attributes"] == {"floor": 1, "serial": "007"}, "what the invitation says counts more"
    assert await may_connect(gateway, answer["device_id"], answer["token"])
    assert "was used" in await refused(gateway, 409, "code_used", code=made["code"])
    (listed,) = (await gateway.call("GET", "/v1/invitations?state=used"))["items"]
    responses.InvitationResponse.model_validate(listed)
    assert (listed["id"], listed["device_id"], listed["state"]) == (made["id"], answer["device_id"], "used")
    (event,) = (await gateway.call("GET", "/v1/devices?tag=store-7"))["items"]
    assert event["device_id"] == answer["device_id"], "pushes for its tag go to it"


async def test_what_the_invitation_leaves_open_is_the_device_s_to_say(gateway: InProcessGateway) -> None:
    code = (await invited(gateway))["code"]
    answer = await enrolled(gateway, code, device_id="kiosk-1", name="Mine", timezone="Europe/Berlin", locale="de")
    assert answer["mqtt"]["client_id"] == answer["device_id"] == "kiosk-1"
    device = await gateway.call("GET", "/v1/devices/kiosk-1")
    assert (device["name"], device["timezone"], device["locale"]) == ("Mine", "Europe/Berlin", "de")
    fixed = (await invited(gateway, device_id="kiosk-2"))["code"]
    assert "for the device 'kiosk-2'" in await refused(gateway, 422, "invalid_request", code=fixed, device_id="kiosk-3")
    assert (await enrolled(gateway, fixed, device_id="kiosk-2"))["device_id"] == "kiosk-2"


@pytest.mark.parametrize(
    "said",
    [{"tags": ["a"]}, {"device_id": "a b"}, {"attributes": []}, {"nonce": "short"}, {"colour": "red"}, {"name": ""}],
)
async def test_a_device_says_nothing_else(gateway: InProcessGateway, said: dict[str, Any]) -> None:
    code = (await invited(gateway))["code"]
    assert next(iter(said)) in await refused(gateway, 422, "invalid_request", code=code, **said)
    await enrolled(gateway, code)


async def test_both_together_are_a_device_as_large_as_one_may_be(gateway: InProcessGateway) -> None:
    code = (await invited(gateway, attributes={"a": "x" * 12_000}))["code"]
    detail = await refused(gateway, 422, "invalid_request", code=code, attributes={"b": "y" * 7_000})
    assert "attributes" in detail
    await refused(gateway, 413, "payload_too_large", code=code, attributes={"b": "y" * 9_000})
    await enrolled(gateway, code)


async def test_an_id_that_is_taken_does_not_spend_the_code(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    code = (await invited(gateway))["code"]
    assert "still good" in await refused(gateway, 409, "device_exists", code=code, device_id="kiosk-1")
    assert (await enrolled(gateway, code, device_id="kiosk-2"))["device_id"] == "kiosk-2"
    (listed,) = (await gateway.call("GET", "/v1/invitations"))["items"]
    assert listed["state"] == "used"


@pytest.mark.of_one_server  # whose counters are compared
async def test_a_lost_answer_is_repeated_for_the_device_that_proves_to_be_the_same(gateway: InProcessGateway) -> None:
    code = (await invited(gateway))["code"]
    lost = await enrolled(gateway, code, nonce=NONCE)
    again = await enrolled(gateway, code, nonce=NONCE)
    assert again["device_id"] == lost["device_id"]
    assert again["token"] != lost["token"]
    assert not await may_connect(gateway, lost["device_id"], lost["token"]), "one token at a time"
    assert await may_connect(gateway, again["device_id"], again["token"])
    for said in ({}, {"nonce": "m" * 43}):
        await refused(gateway, 409, "code_used", code=code, **said)
    assert gateway.components.enrolment.invitations.codes == {"enrolled": 1, "repeated": 1, "code_used": 2}
    assert len((await gateway.call("GET", "/v1/devices"))["items"]) == 1


async def test_a_lost_answer_is_repeated_for_an_hour(gateway: InProcessGateway) -> None:
    code = (await invited(gateway))["code"]
    await enrolled(gateway, code, nonce=NONCE)
    gateway.clock.milliseconds += REPEAT_MS - 1
    await enrolled(gateway, code, nonce=NONCE)
    gateway.clock.milliseconds += 1
    await refused(gateway, 409, "code_used", code=code, nonce=NONCE)


async def test_who_has_connected_has_had_the_answer(gateway: InProcessGateway) -> None:
    code = (await invited(gateway))["code"]
    device_id = (await enrolled(gateway, code, nonce=NONCE))["device_id"]
    await gateway.database.write(
        lambda connection: connection.execute("UPDATE device SET connected_at = ? WHERE id = ?", (START, device_id))
    )
    await refused(gateway, 409, "code_used", code=code, nonce=NONCE)


async def test_a_removed_device_does_not_come_back_by_its_code(gateway: InProcessGateway) -> None:
    code = (await invited(gateway))["code"]
    device_id = (await enrolled(gateway, code, nonce=NONCE))["device_id"]
    await gateway.call("DELETE", f"/v1/devices/{device_id}", 204)
    await refused(gateway, 409, "code_used", code=code, nonce=NONCE)


async def test_repetitions_are_counted(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invitations, "MAX_ANSWERS", 3)
    code = (await invited(gateway))["code"]
    for _ in range(3):
        await enrolled(gateway, code, nonce=NONCE)
    await refused(gateway, 409, "code_used", code=code, nonce=NONCE)


async def test_one_code_that_many_show_at_once_enrols_one_device(gateway: InProcessGateway) -> None:
    code = (await invited(gateway))["code"]
    http = gateway.client(None)
    answers = await asyncio.gather(*(http.post("/v1/enrol", json={"code": code}) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
    assert len((await gateway.call("GET", "/v1/devices"))["items"]) == 1
    counted = [
        node.components.enrolments._devices[1] for node in gateway.nodes
    ]  # each what it has enrolled, and knows of
    assert max(counted) == 1, "no place of the quota is lost"


async def test_codes_expire_and_leave_thirty_days_later(gateway: InProcessGateway) -> None:
    code = (await invited(gateway))["code"]
    gateway.clock.milliseconds += DEFAULT_SECONDS * 1000
    assert "expired" in await refused(gateway, 410, "code_expired", code=code)
    assert (await gateway.call("GET", "/v1/invitations?state=expired"))["items"]
    await gateway.components._retention.run(START + DEFAULT_SECONDS * 1000 + 30 * DAY_MS)
    assert (await gateway.call("GET", "/v1/invitations"))["items"] == []
    await refused(gateway, 404, "code_unknown", code=code)


async def test_a_code_that_is_over_costs_the_writer_nothing(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, old = (await invited(gateway))["code"], (await invited(gateway, expires_in=60))["code"]
    await enrolled(gateway, used, nonce=NONCE)
    gateway.clock.milliseconds += 60_000
    monkeypatch.setattr(invitations, "_spend", None)
    for said in ({}, {"nonce": "o" * 43}):
        await refused(gateway, 409, "code_used", code=used, **said)
    await refused(gateway, 410, "code_expired", code=old)
    gateway.clock.milliseconds += REPEAT_MS
    await refused(gateway, 409, "code_used", code=used, nonce=NONCE)


@pytest.mark.of_one_server  # whose counters are compared
async def test_a_mistyped_code_is_told_from_a_wrong_one(gateway: InProcessGateway) -> None:
    code = (await invited(gateway))["code"]
    other = "0" if code[0] != "0" else "1"
    assert "mistyped" in await refused(gateway, 422, "invalid_request", code=other + code[1:])
    await refused(gateway, 404, "code_unknown", code=new_code())
    assert gateway.components.enrolment.invitations.codes == {"mistyped": 1, "wrong": 1}
    assert b'fleetpush_enrolment_codes_total{outcome="wrong"} 1.0' in gateway.components.metrics.text()


async def test_batches_are_listed_and_revoked(gateway: InProcessGateway) -> None:
    answer = await gateway.call("POST", "/v1/invitations", 201, json={"count": 3, "tags": ["a"]})
    codes = [made["code"] for made in answer["invitations"]]
    batch = answer["invitations"][0]["batch"]
    assert len(set(codes)) == 3
    other = await invited(gateway)
    await enrolled(gateway, codes[0])
    page = await gateway.call("GET", f"/v1/invitations?batch={batch}&limit=2")
    responses.InvitationsResponse.model_validate(page)
    rest = await gateway.call("GET", f"/v1/invitations?batch={batch}&limit=2&cursor={page['next_cursor']}")
    assert [item["id"] for item in page["items"] + rest["items"]] == [made["id"] for made in answer["invitations"]]
    assert await gateway.call("DELETE", f"/v1/invitations/{batch}") == {"revoked": 2}, "the device stays"
    assert await gateway.call("DELETE", f"/v1/invitations/{batch}") == {"revoked": 0}
    await refused(gateway, 404, "code_unknown", code=codes[1])
    await gateway.call("DELETE", f"/v1/invitations/{other['id']}")
    await gateway.refused("DELETE", f"/v1/invitations/{other['id']}", 404, "invitation_not_found")


async def test_a_list_has_a_result_for_each_item(gateway: InProcessGateway) -> None:
    items = [{"device_id": "kiosk-1", "expires_in": 3600}, {"device_id": "a b"}, {"count": 2}, {"name": "Any"}]
    answer = await gateway.call("POST", "/v1/invitations/bulk", 201, json={"invitations": items})
    responses.NewInvitationsResponse.model_validate(answer)
    first, second, third, fourth = answer["invitations"]
    assert (first["device_id"], fourth["name"]) == ("kiosk-1", "Any")
    assert second["error"]["detail"].startswith("device_id")
    assert third["error"]["detail"].startswith("count")
    assert first["expires_at"] == "2027-01-15T09:00:00.000Z"
    assert (await enrolled(gateway, first["code"]))["device_id"] == "kiosk-1"


async def test_ten_thousand_are_made_at_once_and_no_more(gateway: InProcessGateway) -> None:
    answer = await gateway.call("POST", "/v1/invitations", 201, json={"count": 10_000})
    assert len({made["code"] for made in answer["invitations"]}) == 10_000
    await gateway.refused("POST", "/v1/invitations", 422, "invalid_request", json={"count": 10_001})
    await gateway.refused("POST", "/v1/invitations", 422, json={"count": 2, "device_id": "kiosk-1"})
    large = {"count": 10_000, "attributes": {"a": "x" * 10_000}}
    await gateway.refused("POST", "/v1/invitations", 413, "payload_too_large", json=large)


async def test_an_app_keeps_so_many_and_another_its_own(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invitations, "INVITATIONS_OF_APP", 3)
    await invited(gateway, count=3)
    await gateway.refused("POST", "/v1/invitations", 422, "too_many_invitations", json={})
    await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
    other = await gateway.key_for("devices", app="other")
    made = (await gateway.call("POST", "/v1/invitations", 201, other, json={}))["invitations"][0]
    answer = await enrolled(gateway, made["code"], device_id="kiosk-1")
    assert answer["mqtt"]["username"] == "other/kiosk-1", "the code knows its app"
    await gateway.refused("DELETE", f"/v1/invitations/{made['id']}", 404, "invitation_not_found")
    assert (await gateway.call("GET", "/v1/invitations", http=other))["items"][0]["device_id"] == "kiosk-1"


@pytest.mark.sqlite("whose file is looked through")
async def test_a_code_is_nowhere_on_the_disk(gateway: InProcessGateway) -> None:
    code = (await invited(gateway))["code"]

    def read(connection: Transaction) -> str:
        assert isinstance(connection, sqlite3.Connection)
        return "\n".join(connection.iterdump())

    dump = await gateway.database.read(read)
    assert code not in dump
    assert code.replace("-", "") not in dump


async def test_an_enrolment_is_an_event(gateway: InProcessGateway) -> None:
    made = await invited(gateway, device_id="kiosk-1")
    await enrolled(gateway, made["code"])

    def read(connection: Transaction) -> list[tuple[str, str]]:
        return connection.execute("SELECT type, content FROM event").fetchall()

    ((kind, content),) = await gateway.database.read(read)
    assert kind == "device.enrolled"
    assert made["id"] in content


async def test_pages_of_any_origin_may_enrol(gateway: InProcessGateway) -> None:
    http = gateway.client(None)
    permitted = await http.options("/v1/enrol", headers={"Origin": "http://kiosk.example"})
    assert permitted.headers["access-control-allow-headers"] == "Content-Type"
    code = (await invited(gateway))["code"]
    for body, status in (({"code": code}, 201), ({"code": code}, 409), ({"code": "x"}, 422), ({}, 422)):
        answer = await http.post("/v1/enrol", json=body)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "*", "a page can read why"


@pytest.mark.of_one_server  # whose folder has the CA
async def test_the_address_of_a_code_names_the_server_and_its_ca(gateway: InProcessGateway) -> None:
    made = await invited(gateway)
    assert made["url"] == f"http://push.example:8080/enrol#{made['code']}"
    await gateway.refused("GET", "/v1/enrol/ca", 404, "not_found", gateway.client(None))
    gateway.components.enrolment.fleet_ca = FleetCa("PEM\n", "f" * 43)
    made = await invited(gateway)
    assert made["url"] == f"http://push.example:8080/enrol#{made['code']}.{'f' * 43}"
    assert (await gateway.client(None).get("/v1/enrol/ca")).text == "PEM\n"
    page = await gateway.client(None).get("/enrol")
    assert "scan it with the device" in page.text


async def test_only_who_manages_devices_makes_codes(gateway: InProcessGateway) -> None:
    reader = await gateway.key_for("read")
    await gateway.refused("POST", "/v1/invitations", 403, "forbidden", reader, json={})
    await gateway.call("GET", "/v1/invitations", http=reader)
    await gateway.refused("GET", "/v1/invitations", 401, "unauthorized", gateway.client(None))
