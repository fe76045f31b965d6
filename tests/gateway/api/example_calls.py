"""Every call of the API with its examples, one after the other: what makes something before what changes it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

from gateway.api import examples
from gateway.enrolment.addresses import FleetCa
from tests.gateway.in_process import OURS, InProcessGateway, openapi_document

Document = dict[str, Any]


class ExampleCall(NamedTuple):
    """A call that was made, and its answer."""

    method: str
    path: str
    """As the document has it."""
    operation: Document
    query: dict[str, Any]
    answer: Any


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            yield method, path, operation


async def call_everything(gateway: InProcessGateway) -> AsyncIterator[ExampleCall]:
    """Make every call of the document, with its examples, but for the stream that does not end."""
    document = openapi_document()
    ids = {name: value for name, value in examples.PARAMETERS.items() if name.endswith(("_id", "_name", "version"))}
    made = {"push_id": ("push_id", "/v1/pushes"), "webhook_id": ("id", "/v1/webhooks"), "key_id": ("id", "/v1/keys")}
    made["attachment_id"] = ("id", "/v1/attachments")
    made["schedule_id"] = ("schedule_id", "/v1/schedules")

    for node in gateway.nodes:
        node.components.enrolment.fleet_ca = FleetCa(
            examples.TEXTS["get", "/v1/enrol/ca", "application/x-pem-file"], "f" * 43
        )
    (invited,) = (await gateway.call("POST", "/v1/invitations", 201, json={}))["invitations"]
    ids["invitation_id"] = invited["id"]
    ending = {"device_id": "ends", "token_days": 30}
    await gateway.call("POST", "/v1/devices", 201, json=ending)
    await gateway.call("PUT", f"/v1/topics/{ids['topic_name']}/devices", json={"devices": ["ends"]})  # it stays there
    gateway.clock.milliseconds += 60_000

    def order(call: tuple[str, str, Document]) -> tuple[Any, ...]:
        """What makes something, what changes it, what shows it, what removes it."""
        method, path, operation = call
        if method == "delete":
            return 2, False, -path.count("/"), path
        return int(method == "get"), "requestBody" not in operation, path.count("{") + path.count("pushes"), path

    for method, path, operation in sorted(operations(document), key=order):
        if path == "/v1/events":  # which does not end
            continue
        bodies = operation.get("requestBody", {}).get("content", {"": {"example": ""}})
        query = {
            parameter["name"]: parameter["example"]
            for parameter in operation.get("parameters", ())
            if parameter["in"] == "query" and parameter["required"]
        }
        for kind, content in bodies.items():
            if "example" not in content:
                continue
            example = content["example"]
            if path == "/v1/enrol":
                example = {**example, "code": invited["code"]}
            if path == "/v1/session" and method == "post":
                example = {"key": gateway.key}
            page = OURS if path == "/v1/session" else {}
            if "{campaign_id}" in path:
                ids["campaign_id"] = await campaign_for(gateway, path)
            answer = await gateway.http.request(
                method,
                path.format(**{**ids, **({"device_id": "ends"} if path.endswith("/renewal") else {})}),
                params=query,
                content=example if isinstance(example, str) else json.dumps(example),
                headers={"Content-Type": kind, **page} if kind else page,
            )
            yield ExampleCall(method, path, operation, query, answer)
            if path == "/v1/enrol/again":
                await gateway.catch_up()  # another one may have been asked
                ids["request_id"] = gateway.components.enrolment.token_requests.page(1, 1, None)["items"][0]["id"]
            for name, (field, maker) in made.items():
                if method == "post" and path == maker:
                    ids[name] = answer.json()[field]


async def campaign_for(gateway: InProcessGateway, path: str) -> str:
    """Make a campaign that is in the state for an operation; its id."""
    made = await gateway.call("POST", "/v1/campaigns", 201, json=examples.BODIES["post", "/v1/campaigns"])
    campaign_id = str(made["campaign_id"])
    if path.endswith("/resume"):
        await gateway.call("POST", f"/v1/campaigns/{campaign_id}/pause", json={})
    if path.endswith("/approve"):
        await gateway.database.write(
            lambda connection: connection.execute(
                "UPDATE campaign SET state = 'awaiting_approval', key_id = 'k_other' WHERE id = ?", (campaign_id,)
            )
        )
    for _ in range(5):
        await gateway.components.campaigns.step()
    return campaign_id
