from __future__ import annotations

from typing import Any

import pytest

from gateway.api import responses
from tests.gateway.in_process import InProcessGateway

LUNCH = {
    "notification": {"title": "Lunch", "body": "{{ values.dish }} for {{ device.name }}"},
    "texts": {"de": {"title": "Mittagessen"}},
    "values": {"dish": "soup"},
    "channel": "offers",
}


async def test_a_template_from_its_making_to_its_end(gateway: InProcessGateway) -> None:
    made = await gateway.call("PUT", "/v1/templates/lunch", json=LUNCH)
    template = responses.TemplateResponse.model_validate(made)
    assert (template.version, template.content) == (1, LUNCH)
    gateway.clock.milliseconds += 1_000
    assert await gateway.call("PUT", "/v1/templates/lunch", json=LUNCH) == made, "nothing has changed"
    changed = await gateway.call("PUT", "/v1/templates/lunch", json={**LUNCH, "ttl": 60})
    assert (changed["version"], changed["content"]["ttl"]) == (2, 60)
    shown = responses.TemplateWithVersionsResponse.model_validate(await gateway.call("GET", "/v1/templates/lunch"))
    assert [kept.version for kept in shown.versions] == [2, 1]
    assert await gateway.call("GET", "/v1/templates/lunch/versions/1") == made
    await gateway.call("PUT", "/v1/templates/breakfast", json={"data": {"a": None}})
    page = responses.TemplatesResponse.model_validate(await gateway.call("GET", "/v1/templates?limit=1"))
    assert [(listed.name, listed.version) for listed in page.items] == [("breakfast", 1)]
    rest = await gateway.call("GET", f"/v1/templates?cursor={page.next_cursor}")
    assert [listed["name"] for listed in rest["items"]] == ["lunch"]
    await gateway.call("DELETE", "/v1/templates/lunch", 204)
    for method in ("GET", "DELETE"):
        await gateway.refused(method, "/v1/templates/lunch", 404, "template_not_found")
    await gateway.refused("GET", "/v1/templates/lunch/versions/1", 404, "template_not_found")
    made_anew = await gateway.call("PUT", "/v1/templates/lunch", json=LUNCH)
    assert made_anew["version"] > 2, "nobody who named a version gets another content"
    await gateway.refused("GET", "/v1/templates/lunch/versions/1", 404, "template_not_found")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"notification": {}}, "invalid_request"),
        ({"notification": {"title": "x"}, "kind": "alert", "deadline": 5}, "invalid_request"),
        ({"kind": "alert"}, "invalid_request"),
        ({"target": {"all": True}}, "invalid_request"),
        ({"notification": {"title": "x"}, "texts": {"de": {"actions": {"no": "Nein"}}}}, "invalid_request"),
        ({"notification": {"title": "x"}, "texts": {"d e": {"title": "y"}}}, "invalid_request"),
        ({"notification": {"title": "x"}, "texts": {"de": {}}}, "invalid_request"),
        ({"notification": {"title": "{{ oops"}}, "template_error"),
        ({"notification": {"title": "{{ device.nmae }}"}}, "template_error"),
        ({"data": {"x": ["{{ user }}"]}}, "template_error"),
    ],
)
async def test_what_is_no_template_is_refused(gateway: InProcessGateway, content: dict[str, Any], code: str) -> None:
    await gateway.refused("PUT", "/v1/templates/lunch", 422, code, json=content)
    assert (await gateway.call("GET", "/v1/templates"))["items"] == []


async def test_an_app_has_its_own_templates_and_not_too_many(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.content.templates.MAX_TEMPLATES", 1)
    monkeypatch.setattr("gateway.content.templates.MAX_VERSIONS", 3)
    for ttl in range(1, 6):
        await gateway.call("PUT", "/v1/templates/lunch", json={**LUNCH, "ttl": ttl})
    kept = (await gateway.call("GET", "/v1/templates/lunch"))["versions"]
    assert [version["version"] for version in kept] == [5, 4, 3]
    problem = await gateway.refused("PUT", "/v1/templates/other", 422, "invalid_request", json=LUNCH)
    assert "at most 1 templates" in problem["detail"]
    monkeypatch.setattr("gateway.content.templates.MAX_BYTES_OF_APP", 100)
    problem = await gateway.refused("PUT", "/v1/templates/lunch", 422, "invalid_request", json={**LUNCH, "ttl": 9})
    assert "at most 100 bytes" in problem["detail"]
    monkeypatch.setattr("gateway.content.templates.MAX_TEMPLATE_BYTES", 50)
    problem = await gateway.refused("PUT", "/v1/templates/lunch", 422, "invalid_request", json={**LUNCH, "ttl": 9})
    assert "at most 50 bytes" in problem["detail"]
    await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
    key = await gateway.call("POST", "/v1/keys", 201, json={"app": "other", "name": "x", "scopes": ["admin", "read"]})
    theirs = gateway.client(key["key"])
    assert (await gateway.call("GET", "/v1/templates", http=theirs))["items"] == []
    await gateway.refused("GET", "/v1/templates/lunch", 404, "template_not_found", theirs)


async def test_a_preview_is_what_the_device_would_get(gateway: InProcessGateway) -> None:
    await gateway.call("PUT", "/v1/templates/lunch", json=LUNCH)
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "d1", "name": "Door", "locale": "de-AT"})
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "d2"})
    path = "/v1/templates/lunch/preview"
    asked = {"device": "d1", "values": {"dish": "fish"}, "data": {"n": 1}}
    found = responses.PreviewResponse.model_validate(await gateway.call("POST", path, json=asked))
    assert found.push is not None
    assert found.push["notification"] == {"title": "Mittagessen", "body": "fish for Door"}
    assert found.template is not None
    assert (found.push["data"], found.push["channel"], found.template.version) == ({"n": 1}, "offers", 1)
    sent = await gateway.call("POST", "/v1/pushes", 202, json={"target": {"device": "d1"}, "template": "lunch"})
    pushed = responses.PushResponse.model_validate(await gateway.call("GET", f"/v1/pushes/{sent['push_id']}"))
    assert pushed.template is not None
    assert (pushed.template.name, pushed.template.version, pushed.texts) == ("lunch", 1, None)
    lacking = responses.PreviewResponse.model_validate(await gateway.call("POST", path, json={"device": "d2"}))
    assert lacking.push is None
    assert [(one.variable, one.where) for one in lacking.missing] == [("device.name", "notification.body")]
    await gateway.refused("POST", path, 404, "device_not_found", json={"device": "nobody"})
    await gateway.refused("POST", path, 404, "template_not_found", json={"device": "d1", "version": 7})


async def test_a_push_that_is_written_is_shown_as_a_device_would_get_it(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "d1", "name": "Door", "locale": "de"})
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "d2"})
    push = {
        "target": {"tag": "nobody"},
        "render": "liquid",
        "notification": {"title": "Hello", "body": "{{ device.name }} {{ device.id }}"},
        "texts": {"de": {"title": "Hallo"}},
        "data": {"for": "{{ device.id }}"},
    }
    path = "/v1/pushes/preview"
    answer = await gateway.call("POST", path, json={"push": push, "device": "d1"})
    found = responses.PreviewResponse.model_validate(answer)
    assert (found.template, found.missing) == (None, [])
    assert found.push is not None
    assert found.push["notification"] == {"title": "Hallo", "body": "Door d1"}
    assert (found.push["data"], found.push["kind"], found.push["ttl"]) == ({"for": "d1"}, "alert", 86_400)
    lacking = await gateway.call("POST", path, json={"push": push, "device": "d2"})
    assert (lacking["push"], lacking["size"]) == (None, None)
    assert lacking["missing"] == [{"variable": "device.name", "where": "notification.body"}]
    plain = {"target": {"all": True}, "notification": {"title": "{{ device.name }}"}}
    shown = await gateway.call("POST", path, json={"push": plain, "device": "d2"})
    assert shown["push"]["notification"] == plain["notification"]
    assert not (await gateway.call("GET", "/v1/pushes"))["items"]
    await gateway.refused("POST", path, 404, "device_not_found", json={"push": plain, "device": "nobody"})
    sealed = {"target": {"all": True}, "kind": "silent", "signed": "a.b.c"}
    await gateway.refused("POST", path, 422, "invalid_request", json={"push": sealed, "device": "d1"})
    broken = {**push, "notification": {"title": "{{ device.nmae }}"}}
    await gateway.refused("POST", path, 422, "template_error", json={"push": broken, "device": "d1"})


async def test_the_texts_of_a_push(gateway: InProcessGateway) -> None:
    for number in (1, 2, 3):
        device = {"device_id": f"d{number}", "attributes": {"floor": number % 2}}
        await gateway.call("POST", "/v1/devices", 201, json=device)
    push = {
        "target": {"all": True},
        "notification": {"title": "Floor {{ device.attributes.floor }}"},
        "render": "liquid",
    }
    forecast = responses.ForecastResponse.model_validate(await gateway.call("POST", "/v1/pushes/forecast", json=push))
    assert (forecast.texts, forecast.missing) == (2, [])
    sent = await gateway.call("POST", "/v1/pushes", 202, json=push)
    path = f"/v1/pushes/{sent['push_id']}/texts"
    page = responses.TextsResponse.model_validate(await gateway.call("GET", f"{path}?limit=1"))
    assert page.next_cursor == "1"
    rest = responses.TextsResponse.model_validate(await gateway.call("GET", f"{path}?cursor=1"))
    found = {text.notification["title"]: text.devices for text in page.items + rest.items if text.notification}
    assert found == {"Floor 1": 2, "Floor 0": 1}
    only = responses.TextsResponse.model_validate(await gateway.call("GET", f"{path}?device=d2"))
    assert [text.notification for text in only.items] == [{"title": "Floor 0"}]
    shown = responses.PushResponse.model_validate(await gateway.call("GET", f"/v1/pushes/{sent['push_id']}"))
    assert (shown.texts, shown.notification) == (2, None)
    plain = {"target": {"device": "d1"}, "data": 1}
    sent = await gateway.call("POST", "/v1/pushes", 202, json=plain)
    path = f"/v1/pushes/{sent['push_id']}/texts"
    assert [text["data"] for text in (await gateway.call("GET", path))["items"]] == [1]
    assert (await gateway.call("GET", f"{path}?device=d2"))["items"] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"render": "liquid", "signed": "a.b.c", "kind": "silent"},
        {"template": "lunch", "encrypted": "a.b.c.d.e", "kind": "silent"},
        {"render": "jinja", "notification": {"title": "x"}},
        {"texts": {}, "notification": {"title": "x"}},
        {"texts": {"de": {"title": "x"}}, "kind": "command", "deadline": 0},
        {"texts": {"de": {"actions": {"a": "x"}}}, "notification": {"title": "x"}},
        {"template": {"version": 1}},
        {"template": "not a name"},
        {"render": "liquid", "kind": "alert"},
    ],
)
async def test_fields_that_do_not_fit_are_refused(gateway: InProcessGateway, fields: dict[str, Any]) -> None:
    await gateway.refused("POST", "/v1/pushes", 422, "invalid_request", json={"target": {"all": True}, **fields})
    body = {"target": {"duty": "night"}, "notification": {"title": "x"}, "render": "liquid"}
    await gateway.refused("POST", "/v1/pushes", 422, "invalid_request", json=body)


async def test_texts_may_have_attachments(gateway: InProcessGateway) -> None:
    uploaded = await gateway.call(
        "POST", "/v1/attachments", 201, content=b"a picture", headers={"Content-Type": "image/png"}
    )
    for number, picture in ((1, uploaded["id"]), (2, None)):
        device = {"device_id": f"d{number}", "attributes": {"picture": picture}}
        await gateway.call("POST", "/v1/devices", 201, json=device)
    source = (
        "{% if device.attributes.picture %}attachment:{{ device.attributes.picture }}{% else %}https://x/y{% endif %}"
    )
    template = {"notification": {"title": "Hi"}, "texts": {"default": {"image": source}}}
    await gateway.call("PUT", "/v1/templates/picture", json=template)
    push = {"target": {"all": True}, "template": "picture"}
    sent = await gateway.call("POST", "/v1/pushes", 202, json=push)
    texts = (await gateway.call("GET", f"/v1/pushes/{sent['push_id']}/texts"))["items"]
    assert {text["notification"]["image"] for text in texts} == {uploaded["url"], "https://x/y"}
    assert ["fetch_from" in text for text in texts] == [
        text["notification"]["image"] == uploaded["url"] for text in texts
    ]
    await gateway.call("PATCH", "/v1/devices/d1", json={"attributes": {"picture": "0" * 64}})
    problem = await gateway.refused("POST", "/v1/pushes", 404, "attachment_not_found", json=push)
    assert "rendered for device 'd1'" in problem["detail"]
