from __future__ import annotations

from typing import Any

import pytest

from gateway import bulk_changes
from gateway.api import responses
from gateway.store.audience import device_filter
from tests.gateway.in_process import InProcessGateway

TAGS, REMOVAL = "/v1/devices/tags", "/v1/devices/removal"


async def enrol(gateway: InProcessGateway, *devices: str | dict[str, Any]) -> None:
    listed = [{"device_id": one} if isinstance(one, str) else one for one in devices]
    await gateway.call("POST", "/v1/devices/bulk", 201, json={"devices": listed})


async def listed(gateway: InProcessGateway, **query: Any) -> list[str]:
    page = await gateway.call("GET", "/v1/devices", params=query)
    return [one["device_id"] for one in page["items"]]


def results(answer: Any) -> dict[str, str]:
    found = responses.ChangedDevicesResponse.model_validate(answer)
    return {one.device_id: one.result or (one.error.code if one.error else "") for one in found.devices}


@pytest.mark.parametrize("joined", [0, 1_000])
async def test_a_list_of_devices_by_an_expression(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch, joined: int
) -> None:
    """Small sets are joined, large ones are asked about each device: the pages are the same."""
    monkeypatch.setattr(device_filter, "JOINED_DEVICES", joined)
    await enrol(gateway, *({"device_id": f"k{n:03}", "tags": ["odd"] if n % 2 else []} for n in range(130)), "z")
    found, cursor = [], None
    while True:
        query = {"where": "'odd' in tags", "limit": 20} | ({} if cursor is None else {"cursor": cursor})
        page = await gateway.call("GET", "/v1/devices", params=query)
        assert "count" not in page
        found += [one["device_id"] for one in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert found == [f"k{n:03}" for n in range(1, 130, 2)]
    assert await listed(gateway, where="'odd' in tags", q="K12") == ["k121", "k123", "k125", "k127", "k129"]
    page = await gateway.call("GET", "/v1/devices", params={"where": "id > 'k1'", "with_count": True, "limit": 2})
    assert page["count"] == 31
    page = await gateway.call("GET", "/v1/devices", params={"where": "id > 'k1'", "q": "k12", "with_count": True})
    assert page["count"] == 10
    assert (await gateway.call("GET", "/v1/devices", params={"with_count": True, "limit": 1}))["count"] == 131
    assert (await gateway.call("GET", "/v1/devices", params={"where": "id == 'none'", "with_count": True}))[
        "count"
    ] == 0
    refused = await gateway.refused("GET", "/v1/devices?where=tgas", 422, "invalid_expression")
    assert (refused["line"], refused["column"]) == (1, 1)


async def test_a_list_says_how_much_waits(gateway: InProcessGateway) -> None:
    await enrol(gateway, *(f"k{n:02}" for n in range(60)))
    for target in ({"all": True}, {"device": "k03"}, {"devices": ["k03", "k04"]}):
        await gateway.call("POST", "/v1/pushes", 202, json={"target": target, "data": 1})
    page = responses.DevicesResponse.model_validate(
        await gateway.call("GET", "/v1/devices?with_waiting=true&limit=5&cursor=k01")
    )
    assert {one.device_id: one.waiting for one in page.items} == {"k02": 1, "k03": 3, "k04": 2, "k05": 1, "k06": 1}
    assert "waiting" not in (await gateway.call("GET", "/v1/devices/k03"))


async def test_tags_of_listed_devices(gateway: InProcessGateway) -> None:
    await enrol(gateway, {"device_id": "a", "tags": ["old", "kept"]}, "b", {"device_id": "c", "tags": ["new"]})
    await enrol(gateway, {"device_id": "full", "tags": [f"t{n}" for n in range(64)]})
    body = {"devices": ["a", "b", "nobody", "c", "a", "full"], "add": ["new"], "remove": ["old"]}
    answer = await gateway.call("POST", TAGS, json=body)
    assert (answer["selected"], answer["next_cursor"]) == (None, None)
    assert results(answer) == {
        "a": "changed",
        "b": "changed",
        "nobody": "device_not_found",
        "c": "unchanged",
        "full": "invalid_request",
    }
    assert (await gateway.call("GET", "/v1/devices/a"))["tags"] == ["kept", "new"]
    assert len((await gateway.call("GET", "/v1/devices/full"))["tags"]) == 64
    targeted = await gateway.call("POST", "/v1/pushes", 202, json={"target": {"tag": "new"}, "data": 1})
    assert targeted["targeted"] == 3
    full = await gateway.call("POST", TAGS, json={"devices": ["full"], "add": ["new"], "remove": ["t1"]})
    assert results(full) == {"full": "changed"}
    both = await gateway.call("POST", TAGS, json={"devices": ["b"], "add": ["x"], "remove": ["x"]})
    assert results(both) == {"b": "changed"}


async def test_a_filter_is_changed_part_by_part(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_changes, "CHANGED_DEVICES", 4)
    monkeypatch.setattr(bulk_changes, "SLICE_DEVICES", 3)
    await enrol(gateway, *(f"k{n}" for n in range(9)), "other")
    chosen = {"filter": {"where": "id.startsWith('k')"}}
    wrong = await gateway.refused("POST", TAGS, 409, "selection_changed", json={**chosen, "expected": 8, "add": ["t"]})
    assert "9 devices now, not 8" in wrong["detail"]
    assert await listed(gateway, tag="t") == []
    answer = await gateway.call("POST", TAGS, json={**chosen, "expected": 9, "add": ["t"]})
    assert (answer["selected"], answer["next_cursor"], list(results(answer))) == (9, "k3", ["k0", "k1", "k2", "k3"])
    while cursor := answer["next_cursor"]:
        answer = await gateway.call("POST", TAGS, json={**chosen, "cursor": cursor, "add": ["t"]})
        assert answer["selected"] is None
    assert await listed(gateway, tag="t") == [f"k{n}" for n in range(9)]


async def test_what_comes_between_two_parts_is_not_removed_with_them(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_changes, "CHANGED_DEVICES", 3)
    await enrol(gateway, *(f"k{n}" for n in range(5)), "other")
    chosen = {"filter": {"where": "id.startsWith('k')"}}
    answer = await gateway.call("POST", REMOVAL, json={**chosen, "expected": 5})
    assert answer["next_cursor"] == "k2"
    await enrol(gateway, "k7")
    rest = {**chosen, "cursor": "k2", "expected": 2}
    refused = await gateway.refused("POST", REMOVAL, 409, "selection_changed", json=rest)
    assert "3 devices now, not 2" in refused["detail"]
    assert await listed(gateway) == ["k3", "k4", "k7", "other"]
    await gateway.call("DELETE", "/v1/devices/k7", 204)
    answer = await gateway.call("POST", REMOVAL, json=rest)
    assert (answer["selected"], answer["next_cursor"]) == (2, None)
    assert await listed(gateway) == ["other"]
    await enrol(gateway, "a", "b")
    named = {"filter": {"q": "B"}, "cursor": "a", "expected": 1}  # by a query instead of a set
    assert results(await gateway.call("POST", REMOVAL, json=named)) == {"b": "removed"}


async def test_many_devices_are_removed(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_changes, "REMOVALS_TOGETHER", 2)
    await enrol(gateway, *({"device_id": f"k{n}", "tags": ["gone"] if n < 5 else []} for n in range(6)))
    push = await gateway.call("POST", "/v1/pushes", 202, json={"target": {"all": True}, "data": 1})
    body = {"filter": {"tag": "gone", "online": False, "waiting": True, "has_error": False}, "expected": 5}
    assert results(await gateway.call("POST", REMOVAL, json=body)) == {f"k{n}": "removed" for n in range(5)}
    assert await listed(gateway) == ["k5"]
    assert (await gateway.call("GET", f"/v1/pushes/{push['push_id']}"))["counts"]["revoked"] == 5
    again = await gateway.call("POST", REMOVAL, json={"devices": ["k4", "k5"]})
    assert results(again) == {"k4": "device_not_found", "k5": "removed"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"devices": ["a"], "filter": {}, "expected": 1},
        {"filter": {}},
        {"devices": ["a"], "expected": 1},
        {"devices": []},
        {"devices": [f"d{n}" for n in range(1_001)]},
        {"filter": {"tgas": "x"}, "expected": 1},
    ],
)
async def test_a_request_that_does_not_say_whom_it_means(gateway: InProcessGateway, body: dict[str, Any]) -> None:
    await gateway.refused("POST", REMOVAL, 422, "invalid_request", json=body)


async def test_no_tags_to_change(gateway: InProcessGateway) -> None:
    await gateway.refused("POST", TAGS, 422, "invalid_request", json={"devices": ["a"]})


async def test_what_cannot_be_done_is_said_of_each_device(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_changes, "SLICE_DEVICES", 1)
    await enrol(gateway, "a", "b", "c")
    change = bulk_changes.change_tags_of

    def failing(*arguments: Any, **named: Any) -> Any:
        if named["device_ids"] == ["b"]:
            raise OSError("the disk")
        return change(*arguments, **named)

    monkeypatch.setattr(bulk_changes, "change_tags_of", failing)
    answer = await gateway.call("POST", TAGS, json={"devices": ["a", "b", "c"], "add": ["t"]})
    assert results(answer) == {"a": "changed", "b": "unavailable", "c": "unavailable"}
    assert await listed(gateway, tag="t") == ["a"]


async def test_one_push_leaves_one_mailbox(gateway: InProcessGateway) -> None:
    await enrol(gateway, *(f"k{n:02}" for n in range(40)))
    push = await gateway.call("POST", "/v1/pushes", 202, json={"target": {"all": True}, "data": 1})
    path = f"/v1/devices/k03/mailbox/{push['push_id']}"
    assert await gateway.call("DELETE", path) == {"cancelled": 1, "in_flight": 0, "too_late": 0}
    assert await gateway.call("DELETE", path) == {"cancelled": 0, "in_flight": 0, "too_late": 1}
    assert (await gateway.call("GET", "/v1/devices/k03/mailbox"))["items"] == []
    assert len((await gateway.call("GET", "/v1/devices/k04/mailbox"))["items"]) == 1
    delivery = await gateway.call("GET", f"/v1/pushes/{push['push_id']}/deliveries?device=k03")
    assert [(one["state"], one["reason"]) for one in delivery["items"]] == [("cancelled", "removed_from_mailbox")]
    await gateway.refused("DELETE", "/v1/devices/k03/mailbox/nothing", 404, "push_not_found")
    await enrol(gateway, "late")
    await gateway.refused("DELETE", f"/v1/devices/late/mailbox/{push['push_id']}", 404, "push_not_found")


async def test_an_invitation_with_its_qr_code(gateway: InProcessGateway) -> None:
    answer = await gateway.call("POST", "/v1/invitations", 201, json={"name": "Hall", "qr": True})
    (made,) = responses.NewInvitationsResponse.model_validate(answer).invitations
    assert isinstance(made, responses.NewInvitationResponse)
    assert made.qr is not None
    assert made.qr.startswith("<svg ")
    assert len(made.qr) < 8_192
    assert "qr" not in (await gateway.call("POST", "/v1/invitations", 201, json={}))["invitations"][0]
    await gateway.refused("POST", "/v1/invitations", 422, "invalid_request", json={"count": 21, "qr": True})
