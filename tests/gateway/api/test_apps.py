from __future__ import annotations

import pytest

from gateway.api import responses
from tests.gateway.in_process import InProcessGateway


async def test_apps_are_made_once_and_listed(gateway: InProcessGateway) -> None:
    made = await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    assert responses.ApplicationResponse.model_validate(made).id == "hotel"
    assert made["created_at"] == "2027-01-15T08:00:00.000Z"
    await gateway.refused("POST", "/v1/apps", 409, "app_exists", json={"id": "hotel"})
    listed = await gateway.call("GET", "/v1/apps")
    assert [app.id for app in responses.ApplicationsResponse.model_validate(listed).items] == ["default", "hotel"]
    first = await gateway.call("GET", "/v1/apps?limit=1")
    assert (await gateway.call("GET", f"/v1/apps?limit=1&cursor={first['next_cursor']}"))["items"] == [made]


@pytest.mark.parametrize("app_id", ["", "A", "a b", "a/b", "a:b", "x" * 33, "ä", 7, None])
async def test_an_app_id_cannot_alter_a_topic(gateway: InProcessGateway, app_id: object) -> None:
    await gateway.refused("POST", "/v1/apps", 422, "invalid_request", json={"id": app_id})


async def test_only_admins_of_the_default_app_make_apps(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await gateway.key_for("admin", app="hotel")
    await gateway.refused("POST", "/v1/apps", 403, "forbidden", theirs, json={"id": "bar"})
    assert [app["id"] for app in (await gateway.call("GET", "/v1/apps", http=theirs))["items"]] == ["hotel"]
    sender = await gateway.key_for("send", "read", "devices")
    await gateway.refused("GET", "/v1/apps", 403, "forbidden", sender)
