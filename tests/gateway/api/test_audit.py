"""The audit log: no change without its entry, whatever route makes it, and no entry without a change."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from gateway.api import responses
from gateway.api.audited_actions import ACTIONS, UNAUDITED
from gateway.api.operation_problems import READS
from gateway.audit.audit_log import REFUSALS_PER_HOUR
from gateway.store.audit_entries import verify
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

    def _watched_submit(self, operation: Callable[[sqlite3.Connection], Any], *others: Any, **further: Any) -> None:
        writes = self._writes.get()

        def run(connection: sqlite3.Connection) -> Any:
            changes, count = connection.total_changes, _count(connection)
            result = operation(connection)
            if writes is not None:
                writes.append((connection.total_changes > changes, _count(connection) > count))
            return result

        self._submit(run, *others, **further)


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
        if key not in ACTIONS or ACTIONS[key].is_push:
            assert not any(written for _, written in writes), key
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


def _count(connection: sqlite3.Connection) -> int:
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
