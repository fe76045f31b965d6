"""The audit log: no change without its entry, whatever route makes it, and no entry without a change."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest

from gateway.api import responses
from gateway.api.audited_actions import ACTIONS, UNAUDITED
from gateway.api.operation_problems import READS
from gateway.audit.audit_log import REFUSALS_PER_HOUR
from gateway.errors import problem
from gateway.store.audit_entries import verify
from gateway.store.transaction import Transaction
from tests.gateway.api.example_calls import call_everything, operations
from tests.gateway.in_process import InProcessGateway, openapi_document

Entry = dict[str, Any]
WITHOUT_EFFECT = {("post", "/v1/webhooks/{webhook_id}/dead-letters/replay")}
"""Operations whose examples find nothing to change."""


async def entries(gateway: InProcessGateway, **query: Any) -> list[Entry]:
    """The newest entries first, after everything that was submitted."""
    await gateway.database.write(lambda connection: None)
    page = await gateway.call("GET", "/v1/audit", params=query)
    responses.AuditEntriesResponse.model_validate(page)
    found: list[Entry] = page["items"]
    return found


def test_every_operation_that_is_no_get_has_an_action_or_a_reason() -> None:
    unsafe = {(method, path) for method, path, _ in operations(openapi_document()) if method != "get"}
    assert set(ACTIONS) | set(UNAUDITED) == unsafe
    assert not set(ACTIONS) & set(UNAUDITED)
    assert set(READS) <= set(UNAUDITED)
    assert all(action.parameter is None or f"{{{action.parameter}}}" in path for (_, path), action in ACTIONS.items())


class WriteWatch:
    """What each request submits to the writer: whether that changes a row, and whether it appends an entry."""

    def __init__(self, gateway: InProcessGateway) -> None:
        self.requests: list[tuple[dict[str, Any], list[tuple[bool, bool]]]] = []
        self._writes: ContextVar[list[tuple[bool, bool]] | None] = ContextVar("writes", default=None)
        self._submit = gateway.database.submit
        gateway.database.submit = self._watched_submit  # type: ignore[method-assign]
        self._api = gateway.api
        gateway.http._transport.app = self._watched_api  # type: ignore[attr-defined]

    async def _watched_api(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        writes: list[tuple[bool, bool]] = []
        self.requests.append((scope, writes))
        self._writes.set(writes)
        await self._api(scope, receive, send)

    def _watched_submit(self, operation: Callable[[Transaction], Any], *others: Any, **further: Any) -> None:
        writes = self._writes.get()

        def run(connection: Transaction) -> Any:
            changes, count = connection.total_changes, _count(connection)
            result = operation(connection)
            if writes is not None:
                writes.append((connection.total_changes > changes, _count(connection) > count))
            return result

        self._submit(run, *others, **further)


@pytest.mark.of_one_server  # whose writer is watched
async def test_no_route_changes_anything_without_its_entry(gateway: InProcessGateway) -> None:
    """The wall: every operation is called, and whatever it has the writer do is looked at."""
    watch = WriteWatch(gateway)
    answered = set()
    async for call in call_everything(gateway):
        assert call.answer.is_success, call.path
        answered.add((call.method, call.path))
    found: dict[str, list[Entry]] = {}
    for entry in await entries(gateway, limit=1000):
        found.setdefault(entry["action"], []).append(entry)
    for scope, writes in watch.requests:
        route = scope.get("route")
        key = scope["method"].lower(), scope["path"] if route is None else route.path
        if key == ("get", "/v1/devices/{device_id}/evidence"):
            assert writes == [(True, True)], "it has an entry of its own, and changes nothing"
        elif key not in ACTIONS or ACTIONS[key].is_push:
            assert not any(written for _, written in writes), key
        if key not in ACTIONS or ACTIONS[key].is_push:
            continue
        first = next((index for index, (changed, _) in enumerate(writes) if changed), None)
        if key in WITHOUT_EFFECT and first is None:
            continue
        assert first is not None, f"{key} changes nothing: it belongs to UNAUDITED"
        assert writes[first][1], f"{key} has changed something before its entry was written"
        assert sum(written for _, written in writes) == 1, f"{key} has written more than one entry"
    assert set(ACTIONS) <= answered
    for key, action in ACTIONS.items():
        if action.is_push:
            assert action.name not in found, "what is sent with a key is in the ledger"
            continue
        for entry in found[action.name] if key not in WITHOUT_EFFECT else ():
            assert entry["result"] == "done"
            assert entry["actor"].startswith("key:k_" if action.name != "device.enrol_by_code" else "code")
            assert entry["address"] == "127.0.0.1"
            assert entry["object"].partition(":")[0] in ((action.kind,) if action.parameter else (action.kind, "")), key
    await gateway.database.read(lambda connection: verify(connection, 1))


def _count(connection: Transaction) -> int:
    (count,) = connection.execute("SELECT count(*) FROM audit_entry").fetchone()
    return int(count)


async def test_an_entry_says_who_did_what_to_what_and_holds_no_value(gateway: InProcessGateway) -> None:
    made = await gateway.call("POST", "/v1/keys", 201, json={"name": "till", "scopes": ["send"]})
    body = {"url": "https://receiver.example/?token=hidden-1", "types": ["*"], "secret": "whsec_" + "c2VjcmV0" * 4}
    hook = await gateway.call("POST", "/v1/webhooks", 201, json=body)
    device = await gateway.call("POST", "/v1/devices", 201, json={"device_id": "kiosk-1", "name": "hidden-2"})
    await gateway.call("PATCH", "/v1/devices/kiosk-1", json={"attributes": {"pin": "hidden-3"}, "name": None})
    changed, enrolled, hooked, keyed, *_ = await entries(gateway)
    assert keyed["object"] == f"key:{made['id']}"
    assert keyed["details"] == {"fields": ["name", "scopes"], "name": "till", "scopes": ["send"], "app": "default"}
    assert (hooked["action"], hooked["object"]) == ("webhook.create", f"webhook:{hook['id']}")
    assert (enrolled["action"], enrolled["object"]) == ("device.enrol", "device:kiosk-1")
    assert (changed["action"], changed["details"]) == ("device.change", {"fields": ["attributes", "name"]})
    everything = str(await entries(gateway))
    for secret in ("hidden", made["key"], device["token"], hook["secret"], gateway.key):
        assert secret not in everything


async def test_what_changes_nothing_has_no_entry(gateway: InProcessGateway) -> None:
    made = await gateway.call("POST", "/v1/keys", 201, json={"name": "till", "scopes": ["send"]})
    await gateway.call("DELETE", f"/v1/keys/{made['id']}", 204)
    before = await entries(gateway)
    await gateway.call("DELETE", f"/v1/keys/{made['id']}", 204)  # it is void already
    await gateway.refused("DELETE", "/v1/devices/nobody", 404, "device_not_found")
    await gateway.refused("POST", "/v1/devices", 422, "invalid_request", json={"nonsense": 1})
    assert await entries(gateway) == before


@pytest.mark.of_one_server  # the limit is of each
async def test_a_refused_attempt_is_written_and_strangers_cannot_fill_the_log(gateway: InProcessGateway) -> None:
    sender = await gateway.key_for("send")
    await gateway.refused("DELETE", "/v1/devices/kiosk-1", 403, "forbidden", sender)
    await gateway.refused("GET", "/v1/keys", 403, "forbidden", sender)
    read, removed, *_ = await entries(gateway)
    assert (removed["action"], removed["object"], removed["result"]) == ("device.remove", "device:kiosk-1", "refused")
    assert removed["details"] == {"code": "forbidden"}
    assert (read["action"], read["object"], read["result"]) == ("request", "GET /v1/keys", "refused")
    nobody = gateway.client("key_wrong")
    for _ in range(3 * REFUSALS_PER_HOUR):
        await gateway.refused("POST", "/v1/devices", 401, "unauthorized", nobody)
    refused = await entries(gateway, actor="", limit=1000)
    assert len(refused) == REFUSALS_PER_HOUR
    assert refused[0]["object"] == "POST /v1/devices"
    gateway.clock.milliseconds += 3_600_000
    await gateway.components.audit.remove_old()
    (left_out,) = await entries(gateway, action="refusals.left_out")
    assert left_out["details"] == {"count": 2 * REFUSALS_PER_HOUR}


async def test_filters_pages_and_apps(gateway: InProcessGateway) -> None:
    for name in ("a", "b", "c"):
        await gateway.call("PUT", f"/v1/segments/{name}", json={"expression": "'x' in tags"})
        gateway.clock.milliseconds += 1_000
    await gateway.call("DELETE", "/v1/segments/b", 204)
    times = [entry["at"] for entry in await entries(gateway, action="segment.set")]
    assert [entry["object"] for entry in await entries(gateway, action="segment.*")] == [
        "segment:b", "segment:c", "segment:b", "segment:a",
    ]  # fmt: skip
    assert len(await entries(gateway, object="segment:b")) == 2
    assert len(await entries(gateway, **{"from": times[1], "to": times[0]})) == 1
    assert await entries(gateway, actor="key:k_nobody") == []
    page = await gateway.call("GET", "/v1/audit", params={"limit": 2, "action": "segment.*"})
    rest = await gateway.call(
        "GET", "/v1/audit", params={"limit": 2, "action": "segment.*", "cursor": page["next_cursor"]}
    )
    assert [entry["object"] for entry in rest["items"]] == ["segment:b", "segment:a"]
    assert rest["next_cursor"] is None
    await gateway.refused("GET", "/v1/audit", 422, "invalid_request", params={"cursor": "x"})
    await gateway.refused("GET", "/v1/audit", 422, "invalid_request", params={"from": "yesterday"})
    await gateway.refused("GET", "/v1/audit", 403, "forbidden", await gateway.key_for("read", "send", "devices"))
    await gateway.call("POST", "/v1/apps", 201, json={"id": "canteen"})
    made = await gateway.call("POST", "/v1/keys", 201, json={"name": "x", "scopes": ["admin"], "app": "canteen"})
    other = gateway.client(made["key"])
    assert (await gateway.call("GET", "/v1/audit", http=other))["items"] == []
    chain = await gateway.call("GET", "/v1/audit/chain", http=other)
    assert chain["head"] == chain["base"]


@pytest.mark.parametrize("size", [1, 60_000])
async def test_an_entry_is_bounded(gateway: InProcessGateway, size: int) -> None:
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "kiosk-1"})
    fields = {f"x{number}": number for number in range(min(size, 2_000))}
    await gateway.http.patch("/v1/devices/" + "k" * size, json=fields)
    await gateway.refused("DELETE", "/v1/keys/" + "k" * size, 403, "forbidden", await gateway.key_for("send"))
    for entry in await entries(gateway):
        assert len(str(entry)) < 2_048


def sign_in(gateway: InProcessGateway) -> None:
    """Have the admin key's requests come from a session of the console."""
    known = gateway.components._key_cache._known
    for digest, principal in known.items():
        known[digest] = replace(principal, session_id="s_1")


@pytest.mark.of_one_server  # whose memory is written
async def test_a_push_of_a_person_has_an_entry_and_that_of_a_key_its_key(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "kiosk-1"})
    push = {"target": {"device": "kiosk-1"}, "data": {"a": "hidden"}}
    await gateway.call("POST", "/v1/pushes", 202, json=push)
    by_key = await entries(gateway, action="push.*")
    assert by_key == []
    later = {**push, "send_at": "2028-01-01T00:00:00Z"}
    scheduled = await gateway.call("POST", "/v1/pushes", 202, json=later)
    (made,) = await entries(gateway, action="schedule.create")
    assert made["object"] == f"schedule:{scheduled['schedule_id']}"
    sign_in(gateway)
    key = {"Idempotency-Key": "k1"}
    sent = await gateway.call("POST", "/v1/pushes", 202, json=push, headers=key)
    await gateway.call("POST", "/v1/pushes", 202, json=push, headers=key)
    await gateway.call("POST", "/v1/pushes", 202, json=push, params={"forecast": "true"})
    await gateway.http.post("/v1/pushes/batch", content="\n".join([json.dumps(push)] * 300))
    await gateway.call("POST", "/v1/devices/kiosk-1/call", 202, json={"command": "reboot", "wait": 0})
    await gateway.refused("POST", "/v1/pushes", 404, "device_not_found", json={"target": {"device": "nobody"}})
    call, batch, forecast, one = await entries(gateway, limit=4)
    assert (one["action"], one["object"]) == ("push.send", f"push:{sent['push_id']}")
    assert one["details"] == {"session": "s_1", "push": sent["push_id"], "targeted": 1}
    assert forecast["action"] == "push.send"
    assert (batch["action"], batch["details"]["lines"]) == ("push.send_batch", 300)
    assert (call["action"], call["object"]) == ("device.call", "device:kiosk-1")
    assert "hidden" not in str([call, batch, forecast, one])
    stored = await gateway.database.read(
        lambda connection: connection.execute("SELECT count(*), count(key_id) FROM push").fetchone()
    )
    assert stored == (304, 304)
    await gateway.database.read(lambda connection: verify(connection, 1))


async def test_each_device_of_a_removal_of_many_has_its_entry(gateway: InProcessGateway) -> None:
    ids = [f"kiosk-{number}" for number in range(40)]
    await gateway.call("POST", "/v1/devices/bulk", 201, json={"devices": [{"device_id": each} for each in ids]})
    await gateway.call("POST", "/v1/devices/tags", json={"devices": ids, "add": ["lobby"]})
    await gateway.call("POST", "/v1/devices/removal", json={"devices": [*ids, "nobody"]})
    removed = await entries(gateway, action="device.remove_many")
    assert {entry["object"] for entry in removed} == {f"device:{each}" for each in ids}
    assert len(removed) == 40
    (tagged,) = await entries(gateway, action="device.change_tags")
    assert (tagged["details"]["count"], tagged["details"]["add"]) == (40, ["lobby"])
    (enrolled,) = await entries(gateway, action="device.enrol_many")
    assert enrolled["details"]["count"] == 40


@pytest.mark.of_one_server  # whose writer fails
async def test_a_change_that_ends_in_the_middle_says_so(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([None, problem("storage_full", "the disk is full")])
    write = gateway.database.write

    async def fill(operation: Any, app_no: int | None = None, **declared: Any) -> Any:
        answer = next(answers, None)
        if answer is not None:
            raise answer
        return await write(operation, app_no, **declared)

    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "kiosk-1"})
    await gateway.call("PUT", "/v1/topics/news/devices", json={"devices": ["kiosk-1"]})
    monkeypatch.setattr(gateway.database, "write", fill)
    answer = await gateway.http.delete("/v1/topics/news")
    monkeypatch.undo()
    failed, done, *_ = await entries(gateway)
    assert answer.status_code == 507
    assert (done["action"], done["result"]) == ("topic.remove", "done")
    assert (failed["action"], failed["result"], failed["details"]) == ("topic.remove", "failed", {"status": 507})
