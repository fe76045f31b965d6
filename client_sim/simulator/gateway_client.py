"""The server as an operator and a sender see it: its public HTTP interface, and nothing else."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

import httpx2

from client_sim.simulator.report_terms import ARRIVED

BULK_DEVICES = 1_000
"""Devices that are enrolled with one request."""
REMOVE_REQUESTS = 8
TIMEOUT_SECONDS = 30.0
MAX_CONNECTIONS = 40
PAGE_ITEMS = 1_000
RETRY_SECONDS = 30.0
"""Seconds for which a question is repeated while the server is busy or away."""
LAST_RETRY_SECONDS = 2.0
"""Seconds for which a request is repeated when a simulation has ended, perhaps because the server is away."""
PAUSE_SECONDS = 0.25
BUSY = (429, 503)


class GatewayError(Exception):
    """The server said no, or nothing; the message is for the person."""


@dataclass(frozen=True)
class Enrolled:
    """The credential of an enrolled device. `topics`: the prefix of all its topics."""

    device_id: str
    client_id: str
    token: str
    host: str
    port: int
    tls: bool
    topics: str


@dataclass(frozen=True)
class ServerDelivery:
    """The server's report of one delivery."""

    device_id: str | None
    state: str
    reason: str | None
    at: str | None = None
    """The time at which it came to that state."""
    result: Any = None
    qos: int | None = None
    times: dict[str, str] = field(default_factory=dict)
    """The time of each state that it went through."""


@dataclass(frozen=True)
class ServerPush:
    """The server's report of a push as a whole."""

    push_id: str
    kind: str
    targeted: int
    counts: dict[str, int]
    reached: dict[str, int]
    sent_at: str
    expires_at: str


@dataclass(frozen=True)
class Answer:
    """The answer to a push: HTTP status and JSON body."""

    status: int
    body: dict[str, Any]

    @property
    def code(self) -> str:
        """The error code of a problem, as `rate_limited`."""
        return str(self.body.get("code") or self.status)


class GatewayClient:
    """The server's HTTP API, as far as a simulation uses it."""

    def __init__(self, url: str, key: str, ca: str | None = None) -> None:
        """`ca`: PEM file of who vouches for the server; None: the system's authorities."""
        self._client = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            limits=httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS),
            verify=ssl.create_default_context(cafile=ca) if url.startswith("https:") else True,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def check_access(self) -> None:
        """Is it there, and does it know our key? Raises GatewayError at once."""
        await self._request("GET", "/v1/devices", 200, retry_seconds=0.0, params={"limit": 1})

    async def enrol(self, ids: Sequence[str], tag: str, zones: Sequence[str] | None = None) -> list[Enrolled]:
        """New devices, in the order of `ids`, each in its time zone. Raises GatewayError."""
        found = []
        for begin in range(0, len(ids), BULK_DEVICES):
            wanted: list[dict[str, Any]] = [
                {"device_id": ids[index], "tags": [tag]} | ({} if zones is None else {"timezone": zones[index]})
                for index in range(begin, min(begin + BULK_DEVICES, len(ids)))
            ]
            body = await self._request("POST", "/v1/devices/bulk", 201, json={"devices": wanted})
            for item in body["devices"]:
                if "error" in item:
                    raise GatewayError(f"{item['device_id']} could not be enrolled: {item['error']['detail']}")
                access = item["mqtt"]
                topics = access["topics"]["push"].removesuffix("push")
                found.append(
                    Enrolled(
                        device_id=item["device_id"],
                        client_id=access["client_id"],
                        token=item["token"],
                        host=access["host"],
                        port=access["port"],
                        tls=access["tls"],
                        topics=topics,
                    )
                )
        return found

    async def remove(self, ids: Sequence[str]) -> None:
        """Remove as many of the devices as possible; raises the first GatewayError. A device that is gone already is no
        error."""
        todo = iter(ids)

        async def remover() -> None:
            for device_id in todo:
                await self._request(
                    "DELETE", f"/v1/devices/{quote(device_id)}", 204, 404, retry_seconds=LAST_RETRY_SECONDS
                )

        ends = await asyncio.gather(*(remover() for _ in range(REMOVE_REQUESTS)), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    async def push(self, body: Mapping[str, Any], key: str) -> Answer:
        """One request. Raises httpx2.TransportError when there was no answer."""
        response = await self._client.post("/v1/pushes", json=body, headers={"Idempotency-Key": key})
        return Answer(response.status_code, _object(response))

    async def batch(self, pushes: Sequence[tuple[Mapping[str, Any], str]]) -> list[Answer]:
        """Several with one request, an answer for each in order; fewer, if the server went away before the last. A
        refusal of the whole is everybody's answer. Raises httpx2.TransportError when there was no answer."""
        lines = "\n".join(json.dumps({**body, "idempotency_key": key}) for body, key in pushes)
        response = await self._client.post(
            "/v1/pushes/batch", content=lines.encode(), headers={"Content-Type": "application/x-ndjson"}
        )
        if response.status_code != 200:
            return [Answer(response.status_code, _object(response))] * len(pushes)
        answers = [json.loads(line) for line in response.text.splitlines() if line]
        return [Answer(int(answer["status"]), answer) for answer in answers]

    async def deliveries(self, push_id: str) -> list[ServerDelivery]:
        """All that the server knows of a push; nothing if it does not know it. Raises GatewayError."""
        found: list[ServerDelivery] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self._request(
                "GET", f"/v1/pushes/{push_id}/deliveries", 200, 404, params={"limit": PAGE_ITEMS, **cursor}
            )
            items = page.get("items", ())
            found += [
                ServerDelivery(
                    item["device_id"],
                    item["state"],
                    item["reason"],
                    item.get(f"{item['state']}_at") or item.get("ended_at"),
                    item.get("result"),
                    item.get("qos"),
                    {state: item[f"{state}_at"] for state in ARRIVED if item.get(f"{state}_at") is not None},
                )
                for item in items
            ]
            if not page.get("next_cursor"):
                return found
            cursor = {"cursor": page["next_cursor"]}

    async def push_report(self, push_id: str) -> ServerPush | None:
        """The report of a push; None: the server does not know it. Raises GatewayError."""
        body = await self._request("GET", f"/v1/pushes/{push_id}", 200, 404)
        if "counts" not in body:
            return None
        counted = body["targeted"], body["counts"], body["reached"]
        return ServerPush(push_id, body["kind"], *counted, body["sent_at"], body["expires_at"])

    async def funnel(self, push_id: str) -> dict[str, Any]:
        """The analytics of a push; empty if the server does not know it. Raises GatewayError."""
        body = await self._request("GET", f"/v1/analytics/pushes/{push_id}", 200, 404)
        return body if "targeted" in body else {}

    async def presence(self) -> dict[str, bool]:
        """The devices of the app, and whether the server holds them for connected. Raises GatewayError."""
        return {item["device_id"]: item["online"] async for item in self._items("/v1/devices")}

    async def mailbox(self, device_id: str) -> list[str]:
        """The ids of the pushes that wait for a device, in order. Raises GatewayError."""
        return [item["push_id"] async for item in self._items(f"/v1/devices/{quote(device_id)}/mailbox")]

    async def _items(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """The items of a list, page by page."""
        cursor: dict[str, str] = {}
        while True:
            page = await self._request("GET", path, 200, params={"limit": PAGE_ITEMS, **cursor})
            for item in page["items"]:
                yield item
            if not page.get("next_cursor"):
                return
            cursor = {"cursor": page["next_cursor"]}

    async def policy(self) -> dict[str, Any]:
        """The app's rules and its channels' ids. Raises GatewayError."""
        channels = await self._request("GET", "/v1/channels", 200, params={"limit": PAGE_ITEMS})
        return {**await self._request("GET", "/v1/policy", 200), "channels": channels["items"]}

    async def make_campaign(self, request: Mapping[str, Any], key: str) -> str:
        """Make a campaign, one for each idempotency key, and return its id. Raises GatewayError."""
        headers = {"Idempotency-Key": key}
        body = await self._request("POST", "/v1/campaigns", 201, 202, json=request, headers=headers)
        return str(body["campaign_id"])

    async def campaign(self, campaign_id: str) -> dict[str, Any]:
        """The report of a campaign. Raises GatewayError."""
        return await self._request("GET", f"/v1/campaigns/{campaign_id}", 200)

    async def add_webhook(self, url: str, types: Sequence[str]) -> str:
        """Make a webhook and return its secret. Raises GatewayError."""
        body = await self._request("POST", "/v1/webhooks", 201, json={"url": url, "types": list(types)})
        return str(body["secret"])

    async def _request(
        self, method: str, path: str, *expected: int, retry_seconds: float = RETRY_SECONDS, **options: Any
    ) -> dict[str, Any]:
        """The answer, repeated for so long while the server is busy or away. Raises GatewayError."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + retry_seconds
        while True:
            try:
                response = await self._client.request(method, path, **options)
            except httpx2.TransportError as error:
                if loop.time() >= deadline:
                    raise GatewayError(f"{self._client.base_url} does not answer: {error_text(error)}") from None
            else:
                if response.status_code in expected:
                    return _object(response)
                if response.status_code not in BUSY or loop.time() >= deadline:
                    body = _object(response)
                    detail = body.get("detail") or body.get("title") or response.reason_phrase
                    raise GatewayError(f"{method} {path}: {response.status_code}, {detail}")
            await asyncio.sleep(PAUSE_SECONDS)


def suppressing(rules: Mapping[str, Any]) -> frozenset[str]:
    """The reasons for which an app with these rules may suppress what a simulation sends."""
    reasons = set()
    parts = [rules, *rules["channels"]]
    if rules.get("consent", {}).get("unknown") == "suppress":
        reasons.add("no_consent")
    if any(part.get("caps") for part in parts):
        reasons.add("capped")
    if any(part.get("quiet_hours") for part in parts):
        reasons.add("quiet_hours")
    return frozenset(reasons)


def error_text(error: Exception) -> str:
    """The error's text, or its type when it has none."""
    return str(error) or type(error).__name__


def _object(response: httpx2.Response) -> dict[str, Any]:
    """The JSON object of an answer; an empty one for anything else."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
