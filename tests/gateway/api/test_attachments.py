"""What pushes refer to: uploaded by senders, fetched by devices, gone when nobody needs it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import resource
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.api import attachments as routes
from gateway.api import responses
from gateway.delivery.attachments import UPLOADS_OF_APP
from tests.gateway.in_process import InProcessGateway

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20
ID = hashlib.sha256(PNG).hexdigest()
DAY = 86_400_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "attachments"


async def upload(
    gateway: InProcessGateway, content: bytes = PNG, kind: str = "image/png", expect: int = 201, query: str = ""
) -> Any:
    headers = {"Content-Type": kind}
    return await gateway.call("POST", f"/v1/attachments{query}", expect, content=content, headers=headers)


async def token_of(gateway: InProcessGateway, device_id: str, http: httpx2.AsyncClient | None = None) -> str:
    answer = await gateway.call("POST", "/v1/devices", 201, json={"device_id": device_id}, http=http)
    return str(answer["token"])


def basic(name: str, token: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


async def retire(gateway: InProcessGateway, folder: Path, left: int) -> None:
    """What is due is removed, until so many files are left."""
    task = asyncio.create_task(gateway.components.remove_old())
    async with asyncio.timeout(10):
        while len(files(folder)) > left:  # noqa: ASYNC110  it is on disk
            await asyncio.sleep(0.005)
    task.cancel()


@pytest.mark.of_one_server  # whose folder is looked at
async def test_what_was_uploaded_is_named_by_what_it_contains_and_comes_back(
    gateway: InProcessGateway, folder: Path
) -> None:
    made = await upload(gateway)
    responses.AttachmentResponse.model_validate(made)
    assert made["id"] == ID
    assert made["url"] == f"http://push.example:8080/v1/attachments/{ID}"
    assert (made["content_type"], made["size"]) == ("image/png", len(PNG))
    answer = await gateway.http.get(f"/v1/attachments/{ID}")
    assert (answer.status_code, answer.content) == (200, PNG)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"] == f'"{ID}"'
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert files(folder) == [ID]
    assert (folder / ID).read_bytes() == PNG


async def test_a_part_of_it_and_what_has_not_changed(gateway: InProcessGateway) -> None:
    await upload(gateway)
    part = await gateway.http.get(f"/v1/attachments/{ID}", headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, PNG[2:6])
    same = await gateway.http.get(f"/v1/attachments/{ID}", headers={"If-None-Match": f'"{ID}"'})
    assert (same.status_code, same.content) == (304, b"")


@pytest.mark.of_one_server  # whose folder is looked at
async def test_the_same_again_is_kept_as_long_as_either(gateway: InProcessGateway, folder: Path) -> None:
    first = await upload(gateway, query="?ttl=60")
    longer = await upload(gateway, query="?ttl=3600", expect=200)
    assert longer["expires_at"] > first["expires_at"]
    assert longer["created_at"] == first["created_at"]
    shorter = await upload(gateway, query="?ttl=1", expect=200)
    assert shorter["expires_at"] == longer["expires_at"]
    assert files(folder) == [ID]


async def test_a_push_refers_to_it_and_says_where_it_is(gateway: InProcessGateway) -> None:
    made = await upload(gateway, query="?ttl=60")
    await gateway.enrol("d1")
    reference = f"attachment:{ID}"
    push_id = await gateway.push(
        {"device": "d1"},
        ttl=7200,
        notification={
            "title": "Menu",
            "image": reference,
            "attachment": {"url": reference, "name": "menu.png"},
            "actions": [{"id": "a", "title": "A", "icon": reference}, {"id": "b", "title": "B", "icon": "https://x/i"}],
        },
    )
    shown = (await gateway.call("GET", f"/v1/pushes/{push_id}"))["notification"]
    assert shown["image"] == made["url"]
    assert shown["attachment"] == {
        "url": made["url"],
        "name": "menu.png",
        "content_type": "image/png",
        "size": len(PNG),
    }
    assert [action["icon"] for action in shown["actions"]] == [made["url"], "https://x/i"]
    pushed = await gateway.call("GET", f"/v1/pushes/{push_id}")
    assert pushed["fetch_from"] == "http://push.example:8080"
    assert "fetch_within" not in pushed
    await gateway.catch_up()
    gateway.clock.milliseconds += 7200_000 + DAY - 1
    await gateway.call("GET", "/v1/devices/d1")
    assert (await gateway.http.get(f"/v1/attachments/{ID}")).status_code == 200, "it outlives the push by a day"
    gateway.clock.milliseconds += 1
    await gateway.refused("GET", f"/v1/attachments/{ID}", 404, "attachment_not_found")


async def test_other_addresses_stay_as_they_are(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    other = f"http://push.example:9999/v1/attachments/{ID}"
    notification = {"title": "T", "image": other, "attachment": {"url": "https://x/f.pdf", "size": 7}}
    push_id = await gateway.push({"device": "d1"}, notification=notification)
    push = await gateway.call("GET", f"/v1/pushes/{push_id}")
    assert push["notification"] == notification
    assert "fetch_from" not in push, "no device shows its token there"


async def test_a_sender_does_not_say_who_is_shown_the_token(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    body = {"target": {"device": "d1"}, "notification": {"title": "T"}, "fetch_from": "http://x"}
    await gateway.refused("POST", "/v1/pushes", 422, "invalid_request", json=body)


async def test_the_address_that_an_upload_was_answered_refers_to_it_as_well(gateway: InProcessGateway) -> None:
    made = await upload(gateway, query="?ttl=60")
    await gateway.enrol("d1")
    push_id = await gateway.push({"device": "d1"}, notification={"title": "T", "attachment": {"url": made["url"]}})
    push = await gateway.call("GET", f"/v1/pushes/{push_id}")
    assert push["fetch_from"] == "http://push.example:8080"
    assert push["notification"]["attachment"] == {
        "url": made["url"],
        "content_type": "image/png",
        "size": len(PNG),
    }
    await gateway.catch_up()
    gateway.clock.milliseconds += DAY
    assert (await gateway.http.get(f"/v1/attachments/{ID}")).status_code == 200, "it lives as long as the push"


async def test_a_large_fleet_is_told_to_spread_its_fetches(gateway: InProcessGateway) -> None:
    await upload(gateway)
    await gateway.enrol(*[f"d{number}" for number in range(350)])
    notification = {"title": "Menu", "image": f"attachment:{ID}"}
    push_id = await gateway.push({"all": True}, notification=notification)
    assert (await gateway.call("GET", f"/v1/pushes/{push_id}"))["fetch_within"] == 3
    push_id = await gateway.push({"all": True}, notification=notification, ttl=2)
    assert (await gateway.call("GET", f"/v1/pushes/{push_id}"))["fetch_within"] == 2
    push_id = await gateway.push({"all": True}, notification={"title": "Nothing to fetch"})
    assert "fetch_within" not in await gateway.call("GET", f"/v1/pushes/{push_id}")


async def test_what_is_not_there_is_no_attachment_of_a_push(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    for image, status, code in (
        (f"attachment:{ID}", 404, "attachment_not_found"),
        ("attachment:", 422, "invalid_request"),
        (f"attachment:{ID[:8]}", 422, "invalid_request"),
        ("attachment:../admin.key", 422, "invalid_request"),
    ):
        body = {"target": {"device": "d1"}, "notification": {"title": "T", "image": image}}
        await gateway.refused("POST", "/v1/pushes", status, code, json=body)
    assert (await gateway.call("GET", "/v1/pushes"))["items"] == []


async def test_a_forecast_refuses_what_the_push_would_be_refused(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    body = {"target": {"device": "d1"}, "notification": {"title": "T", "image": f"attachment:{ID}"}}
    await gateway.refused("POST", "/v1/pushes/forecast", 404, "attachment_not_found", json=body)
    await upload(gateway)
    seen = set()
    for size in range(3_600, 4_000, 10):
        large = body | {"data": "x" * size}
        forecast = (await gateway.http.post("/v1/pushes/forecast", json=large)).status_code
        sent = (await gateway.http.post("/v1/pushes", json=large)).status_code
        seen.add((forecast, sent))
    assert seen == {(200, 202), (413, 413)}


async def test_a_forecast_makes_no_attachment_live_longer(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    made = await upload(gateway, query="?ttl=60")
    body = {"target": {"device": "d1"}, "notification": {"title": "T", "image": f"attachment:{ID}"}}
    await gateway.call("POST", "/v1/pushes/forecast", json=body)
    assert (await upload(gateway, query="?ttl=1", expect=200))["expires_at"] == made["expires_at"]
    gateway.clock.milliseconds += 60_000
    await gateway.refused("POST", "/v1/pushes/forecast", 404, "attachment_not_found", json=body)


async def test_a_push_sent_again_is_answered_also_when_what_it_refers_to_is_gone(gateway: InProcessGateway) -> None:
    await upload(gateway)
    await gateway.enrol("d1")
    body = {"target": {"device": "d1"}, "notification": {"title": "T", "image": f"attachment:{ID}"}}
    headers = {"Idempotency-Key": "one"}
    first = await gateway.call("POST", "/v1/pushes", 202, json=body, headers=headers)
    line = json.dumps(body | {"idempotency_key": "two"})
    ndjson = {"Content-Type": "application/x-ndjson"}
    batch = (await gateway.http.post("/v1/pushes/batch", content=line, headers=ndjson)).text
    await gateway.call("DELETE", f"/v1/attachments/{ID}", 204)
    assert await gateway.call("POST", "/v1/pushes", 202, json=body, headers=headers) == first
    assert (await gateway.http.post("/v1/pushes/batch", content=line, headers=ndjson)).text == batch
    other = body | {"ttl": 60}
    await gateway.refused("POST", "/v1/pushes", 422, "idempotency_key_reused", json=other, headers=headers)
    headers = {"Idempotency-Key": "never seen"}
    await gateway.refused("POST", "/v1/pushes", 404, "attachment_not_found", json=body, headers=headers)
    assert len((await gateway.call("GET", "/v1/pushes"))["items"]) == 2
    await upload(gateway)
    assert (await gateway.call("POST", "/v1/pushes", 202, json=body, headers=headers))["targeted"] == 1


async def test_a_device_fetches_with_its_own_token(gateway: InProcessGateway) -> None:
    await upload(gateway)
    token = await token_of(gateway, "d1")
    other = await token_of(gateway, "d2")
    stranger = gateway.client(None)
    path = f"/v1/attachments/{ID}"
    assert (await stranger.get(path, headers=basic("d1", token))).content == PNG
    assert (await stranger.get(path, headers=basic("default/d1", token))).content == PNG
    for headers in (
        {},
        basic("d1", other),
        basic("d1", ""),
        basic("", token),
        basic("other/d1", token),
        basic("d9", token),
        {"Authorization": "Basic !!!"},
        {"Authorization": f"Bearer {token}"},
    ):
        await gateway.refused("GET", path, 401, "unauthorized", http=stranger, headers=headers)
    bearer = {"Authorization": f"Bearer {token}"}
    assert "HTTP Basic" in (await gateway.refused("GET", path, 401, http=stranger, headers=bearer))["detail"]
    await gateway.refused("POST", "/v1/attachments", 401, http=stranger, headers=basic("d1", token), content=b"x")
    await gateway.call("POST", "/v1/devices/d1/token")
    await gateway.refused("GET", path, 401, http=stranger, headers=basic("d1", token))


async def test_a_device_says_who_it_is_in_the_same_way_where_the_path_names_it(gateway: InProcessGateway) -> None:
    token, other = await token_of(gateway, "d1"), await token_of(gateway, "d2")
    stranger = gateway.client(None)
    path = "/v1/devices/d1/preferences"
    for headers in (basic("d1", token), basic("default/d1", token), {"Authorization": f"Bearer {token}"}):
        assert (await stranger.get(path, headers=headers)).status_code == 200
    for headers in (basic("d1", other), basic("d2", other), basic("d2", token), basic("other/d1", token)):
        await gateway.refused("GET", path, 401, http=stranger, headers=headers)
    refusal = await gateway.refused(
        "GET", "/v1/pushes/x", 401, http=stranger, headers={"Authorization": f"Bearer {token}"}
    )
    assert "device's token" in refusal["detail"]


@pytest.mark.of_one_server  # whose folder is looked at
async def test_of_another_app_it_does_not_exist(gateway: InProcessGateway, folder: Path) -> None:
    await upload(gateway)
    await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
    others = await gateway.key_for("admin", app="other")
    token = await token_of(gateway, "d1", others)
    path = f"/v1/attachments/{ID}"
    await gateway.refused("GET", path, 404, "attachment_not_found", http=others)
    await gateway.refused("DELETE", path, 404, "attachment_not_found", http=others)
    await gateway.refused("GET", path, 404, http=gateway.client(None), headers=basic("other/d1", token))
    headers = {"Content-Type": "image/gif"}
    mine = await gateway.call("POST", "/v1/attachments", 201, content=PNG, http=others, headers=headers)
    assert mine["content_type"] == "image/gif"
    assert files(folder) == [ID], "the bytes are there once"
    await gateway.call("DELETE", path, 204)
    await gateway.refused("GET", path, 404)
    assert (await others.get(path)).content == PNG
    await gateway.call("DELETE", path, 204, http=others)
    assert files(folder) == []


async def test_who_may(gateway: InProcessGateway) -> None:
    await upload(gateway)
    path = f"/v1/attachments/{ID}"
    for scope, status in (("send", 200), ("read", 200), ("devices", 403)):
        assert (await (await gateway.key_for(scope)).get(path)).status_code == status
    reader = await gateway.key_for("read")
    await gateway.refused("POST", "/v1/attachments", 403, http=reader, content=b"x")
    await gateway.refused("DELETE", path, 403, http=reader)


@pytest.mark.of_one_server  # whose folder is looked at
async def test_what_has_expired_leaves_the_disk(gateway: InProcessGateway, folder: Path) -> None:
    await upload(gateway, query="?ttl=60")
    await upload(gateway, b"another", query="?ttl=120")
    gateway.clock.milliseconds += 60_000
    await gateway.refused("GET", f"/v1/attachments/{ID}", 404)
    await retire(gateway, folder, 1)
    assert files(folder) == [hashlib.sha256(b"another").hexdigest()]
    await upload(gateway)
    assert (await gateway.http.get(f"/v1/attachments/{ID}")).content == PNG


@pytest.mark.of_one_server  # whose folder is looked at
async def test_after_a_restart_what_has_a_row_is_there_and_nothing_else(
    gateway: InProcessGateway, folder: Path
) -> None:
    await upload(gateway)
    (folder / "00.partial").write_bytes(b"half")
    (folder / ("0" * 64)).write_bytes(b"its row was never stored")
    await gateway.components.recover()
    assert files(folder) == [ID]
    assert (await gateway.http.get(f"/v1/attachments/{ID}")).content == PNG
    assert gateway.components.delivery.attachments.stored == len(PNG)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        ("multipart/form-data; boundary=x", 415, "unsupported_media_type"),
        ("png", 415, "unsupported_media_type"),
        ("image/png\x01", 415, "unsupported_media_type"),
        ("image/" + "x" * 100, 415, "unsupported_media_type"),
    ],
)
async def test_what_it_is_must_be_said(
    gateway: InProcessGateway, folder: Path, kind: str, status: int, code: str
) -> None:
    await gateway.refused("POST", "/v1/attachments", status, code, content=PNG, headers={"Content-Type": kind})
    assert files(folder) == []


async def test_without_a_type_it_is_bytes(gateway: InProcessGateway) -> None:
    made = await gateway.call("POST", "/v1/attachments", 201, content=b"anything")
    assert made["content_type"] == "application/octet-stream"
    text = await upload(gateway, b"text", "text/plain; charset=utf-8")
    assert text["content_type"] == "text/plain; charset=utf-8"


async def test_nothing_and_too_much_are_refused_and_leave_nothing(gateway: InProcessGateway, folder: Path) -> None:
    await gateway.refused("POST", "/v1/attachments", 422, "invalid_request", content=b"")
    limit = gateway.components.delivery.attachments.limits.size
    headers = {"Content-Type": "image/png", "Content-Length": str(limit + 1)}
    await gateway.refused("POST", "/v1/attachments", 413, "payload_too_large", content=b"x", headers=headers)

    async def endless() -> Any:
        while True:
            yield bytes(1 << 20)

    await gateway.refused("POST", "/v1/attachments", 413, "payload_too_large", content=endless())
    await gateway.refused("POST", "/v1/attachments?ttl=0", 422, content=PNG)
    assert files(folder) == []
    assert gateway.components.delivery.attachments.stored == 0


async def test_all_of_them_together_have_a_limit(tmp_path: Path) -> None:
    gateway = await InProcessGateway.build(
        tmp_path, asyncio.get_running_loop(), attachment_storage=10_000, max_attachment=6_000
    )
    try:
        await upload(gateway)
        problem = await gateway.refused("POST", "/v1/attachments", 507, "storage_full", content=b"x" * 5_000)
        assert "attachment_storage" in problem["detail"]
        await gateway.call("DELETE", f"/v1/attachments/{ID}", 204)
        await upload(gateway, b"x" * 5_000)
    finally:
        await gateway.close()


async def test_what_fits_on_the_disk_in_part_only_is_refused_and_leaves_nothing(
    gateway: InProcessGateway, folder: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # the first write stops there, the next one fails
    try:
        await gateway.refused("POST", "/v1/attachments", 507, "storage_full", content=bytes((1 << 20) + 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(folder) == []
    assert gateway.components.delivery.attachments.stored == 0
    await gateway.call("POST", "/v1/attachments", 201, content=bytes((1 << 20) + 1))


async def test_uploads_that_hardly_come_reserve_what_has_come(tmp_path: Path) -> None:
    gateway = await InProcessGateway.build(
        tmp_path, asyncio.get_running_loop(), attachment_storage=10_000, max_attachment=6_000
    )
    over, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        begun.release()
        await over.wait()
        yield b"y"

    headers = {"Content-Length": "5000"}
    uploads = [
        asyncio.ensure_future(gateway.http.post("/v1/attachments", content=slow(), headers=headers))
        for _ in range(UPLOADS_OF_APP)
    ]
    try:
        for _ in uploads:
            await asyncio.wait_for(begun.acquire(), 10)
        later = await gateway.refused("POST", "/v1/attachments", 503, "busy", content=b"z")
        assert "uploads of an app" in later["detail"]
        await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
        await upload_with(await gateway.key_for("send", app="other"), b"o" * 5_000)
        over.set()
        await asyncio.gather(*uploads)
        await gateway.call("POST", "/v1/attachments", 201, content=b"x" * 2_000)
    finally:
        over.set()
        await asyncio.gather(*uploads)
        await gateway.close()


async def upload_with(client: httpx2.AsyncClient, content: bytes) -> None:
    answer = await client.post("/v1/attachments", content=content)
    assert answer.status_code == 201, answer.text


async def test_one_app_leaves_room_for_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gateway = await InProcessGateway.build(
        tmp_path, asyncio.get_running_loop(), attachment_storage=10_000, max_attachment=6_000
    )
    try:
        await gateway.call("POST", "/v1/attachments", 201, content=b"a" * 5_000)
        await gateway.call("POST", "/v1/attachments", 201, content=b"b" * 2_400)
        for _ in range(2):
            problem = await gateway.refused("POST", "/v1/attachments", 507, "storage_full", content=b"c" * 200)
        assert "this app's" in problem["detail"]
        assert gateway.components.delivery.attachments.refused == 2
        assert len([line for line in caplog.messages if "attachments are refused" in line]) == 1
        await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
        await upload_with(await gateway.key_for("send", app="other"), b"o" * 2_500)
    finally:
        await gateway.close()


@pytest.mark.of_one_server  # the limit is of each
async def test_one_reader_leaves_downloads_to_others(gateway: InProcessGateway) -> None:
    await upload(gateway)
    attachments = gateway.components.delivery.attachments
    with ExitStack() as held:
        for _ in range(routes.DOWNLOADS_OF_ONE):
            held.enter_context(attachments.download((1, "device 7")))
        assert (await gateway.http.get(f"/v1/attachments/{ID}")).status_code == 200
        for number in range(routes.DOWNLOADS_OF_APP - routes.DOWNLOADS_OF_ONE):
            held.enter_context(attachments.download((1, f"device {number + 100}")))
        assert (await gateway.http.get(f"/v1/attachments/{ID}")).status_code == 503
        assert attachments.downloads_of((2, "k")) == (0, 0)
    assert (await gateway.http.get(f"/v1/attachments/{ID}")).status_code == 200
    assert attachments.downloads == 0


async def test_a_download_that_nobody_reads_ends(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    await upload(gateway)
    monkeypatch.setattr(routes, "DOWNLOAD_SECONDS", 0.5)  # time enough to begin, on a busy machine
    monkeypatch.setattr(routes, "DOWNLOAD_BYTES_PER_SECOND", 1e9)
    attachments = gateway.components.delivery.attachments
    answering = await gateway.begin_unread(f"/v1/attachments/{ID}")
    assert attachments.downloads == 1
    await asyncio.wait_for(answering, 10)
    assert attachments.downloads == 0
    assert attachments.downloads_ended == 1


async def test_too_many_downloads_are_sent_away_for_a_while(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload(gateway)
    monkeypatch.setattr(routes, "MAX_DOWNLOADS", 0)
    answer = await gateway.http.get(f"/v1/attachments/{ID}")
    assert answer.status_code == 503
    assert answer.json()["code"] == "busy"
    assert 1 <= int(answer.headers["retry-after"]) <= 31


async def test_a_page_of_another_origin_may_ask_with_a_credential(gateway: InProcessGateway) -> None:
    await upload(gateway)
    asked = await gateway.client(None).options(f"/v1/attachments/{ID}", headers={"Origin": "https://kiosk.example"})
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-headers"] == "Authorization"
    answer = await gateway.http.get(f"/v1/attachments/{ID}")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


async def test_an_id_is_never_a_path(gateway: InProcessGateway) -> None:
    for path in ("..%2fadmin.key", "../admin.key", "x", ID.upper()):
        assert (await gateway.http.get(f"/v1/attachments/{path}")).status_code in (404, 422)


async def test_who_comes_without_credentials_is_asked_for_those_of_a_device(gateway: InProcessGateway) -> None:
    """wget, Java, .NET and urllib send user name and password when they are asked for them; elsewhere it is a key."""
    path = f"/v1/attachments/{'0' * 64}"
    for http in (gateway.client(None), gateway.client("wrong")):
        for answer in (await http.get(path), await http.head(path)):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Basic realm="Fleetpush device", charset="UTF-8"'
    assert (await gateway.client(None).delete(path)).headers["www-authenticate"] == "Bearer"
    assert (await gateway.client(None).get("/v1/pushes")).headers["www-authenticate"] == "Bearer"
