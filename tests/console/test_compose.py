"""Writing a push: counted and drawn while it is written, tried on a device, and sent once whatever becomes of it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Page
from tests.console.conftest import EVIL, Desk, connected
from tests.end_to_end.harness import Api, Server

SEND = "button.send"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def write(desk: Desk, device: str, title: str) -> Page:
    """A push to one device, as far as it can be sent."""
    page = desk.open("compose?new=1")
    desk.fill("input[name=device]", device)
    desk.fill("input[name=title]", title)
    ready(page)
    return page


def ready(page: Page) -> None:
    page.wait_for(f"document.querySelector('{SEND}')?.disabled === false")


def send(desk: Desk) -> str:
    """Press, and say yes; the id of the push whose page opens."""
    desk.page.click(SEND)
    desk.click_text("Send", "dialog")
    return landed(desk.page, "pushes")


def landed(page: Page, place: str) -> str:
    page.wait_for(f"location.pathname.startsWith('/console/{place}/')")
    return str(page.evaluate("location.pathname.split('/').at(-1)"))


def sent(api: Api, title: str) -> list[dict[str, Any]]:
    """The pushes with this title."""
    return [push for push in api.items("/v1/pushes") if push.get("notification", {}).get("title") == title]


def lose_answers(page: Page, count: int) -> None:
    """The server takes these pushes, and its answers get lost."""
    page.evaluate(
        f"""(() => {{
            const real = fetch;
            let left = {count};
            globalThis.fetch = async (address, options) => {{
                const answer = await real(address, options);
                if (options?.method === "POST" && /^\\/v1\\/pushes(\\?|$)/.test(address) && left-- > 0)
                    throw new TypeError("lost");
                return answer;
            }};
        }})()"""
    )


@pytest.mark.full_only
def test_a_mistake_is_shown_where_it_is_and_the_count_follows(console: Callable[..., Desk], api: Api) -> None:
    api.enrol_many(["count-1", "count-2"], tags=["counted"])
    desk = console("sender")
    page = desk.open("compose?new=1")
    desk.choose("select[name=by]", "where")
    desk.fill("textarea[name=where]", "'counted' in tgas")
    desk.shows("did you mean 'tags'", ".expression .error")
    shown = page.evaluate("document.querySelector('.expression .place').textContent").split("\n")
    assert shown[1].index("^") == shown[0].index("tgas")
    assert page.evaluate(f"document.querySelector('{SEND}').disabled")
    desk.fill("textarea[name=where]", "'counted' in tags")
    desk.shows("2 devices, 0 of them connected", ".reach-place")
    assert page.evaluate("document.querySelector('.expression .error').textContent") == ""
    desk.choose("select[name=by]", "tag")
    page.click("input[name=tag]")
    page.type("count")
    page.wait_for("[...document.querySelectorAll('datalist option')].some((one) => one.value === 'counted')")
    page.type("ed")
    desk.shows("2 devices", ".reach-place")
    desk.fill("input[name=title]", "Hello")
    desk.fill("input[name=image]", "menu.png")
    page.wait_for("document.querySelector('[name=image]').getAttribute('aria-invalid') === 'true'")
    desk.shows("must be a whole address", "form")
    desk.accessible()


@pytest.mark.full_only
def test_what_a_device_would_get_is_drawn_and_what_it_lacks_is_named(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("drawn-1", name=EVIL)
    api.enrol("drawn-2")
    desk = console("sender")
    page = desk.open("compose?device=drawn-1")
    desk.fill("input[name=title]", "For {{ device.name }}")
    desk.shows("say that the texts are templates", ".preview")
    page.click("details.more summary")
    page.click("input[name=render]")
    desk.shows(f"For {EVIL}", ".preview .banner")
    desk.fill("textarea[name=body]", EVIL)
    desk.fill("input[name=url]", "javascript:document.title='owned'")
    page.click(".action-add")
    desk.fill("input[name=action-0-title]", EVIL)
    desk.fill("input[name=action-0-url]", "javascript:document.title='owned'")
    desk.fill("input[name=attachment_url]", "https://files.example/x")
    desk.fill("input[name=attachment_name]", EVIL)
    desk.fill("input[name=image]", "https://pictures.example/x.png")
    desk.shows("An image of pictures.example", ".preview .banner")
    desk.shows("Devices open http and https only.", ".preview .banner")
    assert page.evaluate("document.querySelectorAll('.preview :is(a, img, script, iframe)').length") == 0
    assert page.evaluate("document.title") != "owned"
    desk.fill("input[name=device_preview]", "drawn-2")
    desk.shows("drawn-2 lacks what the text needs", ".preview")
    assert page.evaluate("document.querySelector('.preview [data-variable]').dataset.variable") == "device.name"
    desk.choose("select[name=kind]", "in_app")
    desk.fill("input[name=device_preview]", "drawn-1")
    desk.shows("and nowhere else", ".preview")
    assert page.evaluate("document.querySelector('.preview .system-notification')") is None
    desk.accessible()


@pytest.mark.full_only
def test_a_draft_survives_a_reload_and_is_nobody_elses(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("draft-1")
    desk = console("sender")
    page = write(desk, "draft-1", "Kept")
    desk.choose("select[name=life_unit]", "hour")
    desk.shows("within 1 hour", ".lifetime")
    address = page.evaluate("location.href")
    page.reload()
    ready(page)
    assert page.evaluate("document.querySelector('[name=title]').value") == "Kept"
    assert page.evaluate("document.querySelector('[name=life_unit]').value") == "hour"
    page.evaluate("location.assign('/console/pushes')")
    desk.ready(page, "pushes")
    desk.click_text("Compose", "#nav")
    page.wait_for("document.querySelector('[name=title]')?.value === 'Kept'")
    assert page.evaluate("location.href") == address
    other = console("sender").open(address.partition("/console/")[2])
    assert other.evaluate("document.querySelector('[name=title]').value") == ""


@pytest.mark.full_only
def test_it_is_tried_on_a_device_and_then_sent(console: Callable[..., Desk], api: Api, server: Server) -> None:
    enrolled = api.enrol("tried-1")
    api.enrol_many(["tried-2", "tried-3"], tags=["tried"])
    with connected(server, enrolled) as device:
        desk = console("sender")
        page = desk.open("compose?tag=tried")
        desk.fill("input[name=title]", "Tried")
        ready(page)
        desk.shows("It was not tried on a device", ".summary")
        desk.fill("input[name=device_test]", "tried-1")
        desk.click_text("Send to the test device")
        assert device.wait_received(1)[0].push["notification"] == {"title": "Tried"}
        desk.shows("delivered", ".test-result")
        desk.shows("It was tried on tried-1", ".summary")
        ready(page)
        page.click(SEND)
        desk.shows("Tag tried: 2 devices. Lifetime: 1 day.", "dialog")
        desk.shows("tried-3", "dialog")
        desk.click_text("Send", "dialog")
        push_id = landed(page, "pushes")
        assert api.counts(push_id)["targeted"] == 2
        assert [push["target"] for push in sent(api, "Tried")] == [{"tag": "tried"}, {"device": "tried-1"}]
        page.evaluate("history.back()")
        desk.shows("This push was sent.")


def test_a_second_press_and_a_lost_answer_send_once(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("once-1")
    desk = console("sender")
    page = write(desk, "once-1", "Once, offline")
    lose_answers(page, 1)
    page.call("Network.enable")
    page.click(SEND)
    page.wait_for("!!document.querySelector('dialog[open] button[type=submit]')")
    page.evaluate("(() => { const b = document.querySelector('dialog button[type=submit]'); b.click(); b.click(); })()")
    desk.shows("No answer yet")
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    desk.shows("No connection to the server", "#connection")
    assert page.evaluate("document.querySelector('form.compose').inert")
    page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    push_id = landed(page, "pushes")
    assert [push["push_id"] for push in sent(api, "Once, offline")] == [push_id]


@pytest.mark.full_only
def test_a_reload_in_the_middle_finds_out_what_became_of_it(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("reload-1")
    desk = console("sender")
    page = write(desk, "reload-1", "Once, reloaded")
    lose_answers(page, 100)
    page.click(SEND)
    desk.click_text("Send", "dialog")
    desk.shows("No answer yet")
    page.reload()
    push_id = landed(page, "pushes")
    assert [push["push_id"] for push in sent(api, "Once, reloaded")] == [push_id]


@pytest.mark.full_only
def test_a_screen_that_is_left_while_it_sends_is_told_all_the_same(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("left-1")
    desk = console("sender")
    page = write(desk, "left-1", "Once, left")
    lose_answers(page, 2)
    page.click(SEND)
    desk.click_text("Send", "dialog")
    desk.shows("No answer yet")
    desk.click_text("Fleet", "#nav")
    desk.shows("Accepted for 1 device.", "#toasts")
    desk.click_text("Compose", "#nav")
    page.wait_for("document.querySelector('[name=title]')?.value === ''")
    assert len(sent(api, "Once, left")) == 1


@pytest.mark.full_only
def test_two_tabs_with_one_draft_send_once_or_say_so(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("draft-tabs-1")
    desk = console("sender")
    page = write(desk, "draft-tabs-1", "Twin")
    kept = page.evaluate("JSON.stringify({...sessionStorage})")
    address = page.evaluate("location.pathname + location.search").removeprefix("/console/")
    push_id = send(desk)
    page.evaluate(f"Object.assign(sessionStorage, {kept})")  # as a tab that was duplicated before has it
    desk.go(address)
    ready(page)
    assert send(desk) == push_id
    page.evaluate(f"Object.assign(sessionStorage, {kept})")
    desk.go(address)
    desk.fill("textarea[name=body]", "with other words")
    ready(page)
    page.click(SEND)
    desk.click_text("Send", "dialog")
    desk.shows("This draft was sent before, with other words.")
    assert len(sent(api, "Twin")) == 1


@pytest.mark.full_only
def test_dates_are_shown_before_it_is_planned(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("dates-1", timezone="Europe/Vienna")
    desk = console("sender")
    page = write(desk, "dates-1", "Planned")
    desk.choose("select[name=when]", "repeat")
    desk.choose("select[name=repeat]", "weekdays")
    page.wait_for("document.querySelectorAll('.dates li').length === 5")
    desk.choose("select[name=repeat]", "cron")
    desk.fill("input[name=cron]", "0 9 * *")
    desk.shows("a cron expression has five fields", "form")
    desk.fill("input[name=cron]", "30 6 * * 1")
    page.wait_for("document.querySelectorAll('.dates li').length === 5")
    assert page.evaluate("document.querySelector('button.approve').disabled")
    ready(page)
    page.click(SEND)
    desk.click_text("Plan it", "dialog")
    schedule_id = landed(page, "schedules")
    made = api.call("GET", f"/v1/schedules/{schedule_id}", 200)
    assert made["push"]["repeat"] == {"cron": "30 6 * * 1", "zone": "device"}


@pytest.mark.full_only
def test_a_second_person_approves(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("approve-1")
    desk = console("sender")
    page = write(desk, "approve-1", "For two")
    desk.click_text("Hand to a second person")
    desk.click_text("Hand to a second person", "dialog")
    campaign_id = landed(page, "campaigns")
    path = f"/v1/campaigns/{campaign_id}"
    assert api.call("GET", path, 200)["state"] == "awaiting_approval"
    assert sent(api, "For two") == []
    api.call("POST", f"{path}/approve", 200)


@pytest.mark.full_only
def test_a_file_is_uploaded_and_its_name_is_text(console: Callable[..., Desk], api: Api, tmp_path: Path) -> None:
    api.enrol("file-1")
    desk = console("sender")
    page = write(desk, "file-1", "With files")
    picture = tmp_path / "<b>menu.png"
    picture.write_bytes(PIXEL)
    document = tmp_path / "<img src=x onerror=alert(1)>.txt"
    document.write_text("soup")
    upload(page, 0, picture)
    page.wait_for("document.querySelector('[name=image]').value.startsWith('attachment:')")
    page.wait_for("document.querySelector('.preview .banner-image img')?.naturalWidth === 1")
    upload(page, 1, document)
    desk.shows("<img src=x onerror=alert(1)>.txt", ".preview .banner-file")
    ready(page)
    push_id = send(desk)
    page.wait_for("document.querySelector('.content .banner-image img')?.naturalWidth === 1")
    notification = api.call("GET", f"/v1/pushes/{push_id}", 200)["notification"]
    assert notification["attachment"]["name"] == document.name


def upload(page: Page, number: int, file: Path) -> None:
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    nodes = page.call("DOM.querySelectorAll", nodeId=root, selector="input[type=file]")["nodeIds"]
    page.call("DOM.setFileInputFiles", nodeId=nodes[number], files=[str(file)])


def test_a_viewer_has_no_way_to_send(console: Callable[..., Desk], server: Server) -> None:
    desk = console("viewer")
    desk.open("compose?device=kiosk-1")
    desk.shows("Your role does not permit this")
    desk.go("pushes")
    assert desk.page.evaluate("[...document.querySelectorAll('a, button')].every((one) => !/compose/.test(one.href))")
    viewer = Api(server.url, desk.key)
    push = {"target": {"all": True}, "data": 1}
    bodies = {
        "/v1/pushes": push,
        "/v1/pushes/forecast": push,
        "/v1/pushes/preview": {"push": push, "device": "kiosk-1"},
        "/v1/schedules": {"push": {**push, "send_at_local": "09:00"}},
        "/v1/campaigns": {"name": "x", "push": push, "ask_approval": True},
    }
    for path, body in bodies.items():
        assert viewer.call("POST", path, 403, json=body)["code"] == "forbidden"
    viewer.close()
