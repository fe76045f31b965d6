"""What is true of every screen: others' texts stay texts, it fits a phone, it is there, and it is for its roles."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.console.conftest import Desk
from tests.end_to_end.harness import Api, Server

CONSOLE = Path(__file__).resolve().parents[2] / "gateway" / "console"
EVIL = "<img src=x onerror=attacked=1>\"'><script>attacked=1</script>"
FOREIGN = "foreign"
"""Another app, with a thing of each kind."""


def named_screens() -> set[str]:
    """Names of the screens that the router knows."""
    listed = (CONSOLE / "router.js").read_text().partition("SCREENS = {")[2].partition("};")[0]
    return set(re.findall(r'(?:alone|withId): "([a-z-]+)"', listed))


def screens() -> set[str]:
    return named_screens() & {path.stem for path in (CONSOLE / "screens").glob("*.js")}


def make_things(api: Api, app: str = "default") -> dict[str, str]:
    """One of each thing with hostile texts in all that takes any: the address of each screen that shows one."""
    key = api.call("POST", "/v1/keys", 201, json={"name": EVIL, "scopes": ["admin"], "app": app})["key"]
    headers = {"Authorization": f"Bearer {key}"}

    def make(path: str, body: Any) -> dict[str, Any]:
        answer = api.request("POST", path, json=body, headers=headers)
        assert answer.status_code in (201, 202, 409), f"{path}: {answer.text}"
        return dict(answer.json())

    device = f"hostile-{app}"
    make("/v1/devices", {"device_id": device, "name": EVIL, "attributes": {EVIL: EVIL}, "tags": ["hostile"]})
    make("/v1/channels", {"id": "hostile", "name": EVIL, "description": EVIL})
    notification = {"title": EVIL, "body": EVIL, "actions": [{"id": "a", "title": EVIL}]}
    push = {"target": {"device": device}, "notification": notification, "data": {EVIL: EVIL}, "collapse_key": EVIL}
    plan = {"target": {"tag": "hostile"}, "notification": notification}
    schedule = make("/v1/schedules", {"name": EVIL, "push": {**plan, "repeat": {"cron": "45 11 * * *", "zone": "UTC"}}})
    campaign = make(
        "/v1/campaigns", {"name": EVIL, "push": plan, "rollout": ["10%", "rest"], "go_on": ["acted >= 95% in 10m"]}
    )
    webhook = make("/v1/webhooks", {"url": "https://8.8.8.8/'onerror='attacked=1'", "types": ["device.*"]})
    return {
        "device": f"devices/{device}",
        "push": f"pushes/{make('/v1/pushes', push)['push_id']}",
        "schedule": f"schedules/{schedule['schedule_id']}",
        "campaign": f"campaigns/{campaign['campaign_id']}",
        "webhook": f"webhooks/{webhook['id']}",
    }


@pytest.fixture(scope="module")
def things(server: Server) -> dict[str, str]:
    """In the app `default`, whose admin sees all that there is."""
    return make_things(server.api)


@pytest.fixture(scope="module")
def foreign_things(server: Server) -> dict[str, str]:
    server.api.call("POST", "/v1/apps", 201, json={"id": FOREIGN})
    return make_things(server.api, FOREIGN)


def test_what_others_have_said_stays_text_and_fits_a_phone(
    console: Callable[..., Desk], things: dict[str, str]
) -> None:
    """As the admin, who sees everything, with a policy that would refuse it: and nothing has to be refused."""
    desk = console("admin", app="default")
    desk.open()
    desk.fits_a_phone()
    for name in sorted(screens()):
        page = desk.go(things.get(name, name))
        where = page.evaluate("document.querySelector('.screen').dataset.screen")
        assert where == name
        assert not page.evaluate("!!document.querySelector('.screen > .problem')"), f"{name}: {page.text('main')}"
        assert page.evaluate("'attacked' in globalThis") is False, name
        strangers = "document.querySelectorAll('main :is(img[src=x], script, iframe, [onerror])').length"
        assert page.evaluate(strangers) == 0, name
        desk.fits_a_phone()
        assert desk.complaints() == [], name


@pytest.mark.full_only
def test_things_of_another_app_are_not_there(console: Callable[..., Desk], foreign_things: dict[str, str]) -> None:
    desk = console("admin", app="default")
    desk.open()
    for name, place in ((name, foreign_things[name]) for name in sorted(screens() & set(foreign_things))):
        page = desk.go(place)
        assert page.evaluate("document.querySelector('main .problem')?.dataset.code ?? ''").endswith("not_found"), name
        assert "attacked" not in page.text("main")


@pytest.mark.full_only
@pytest.mark.parametrize("language", ["en", "de"])
def test_everybody_can_use_every_screen(console: Callable[..., Desk], things: dict[str, str], language: str) -> None:
    desk = console("admin", app="default", language=language)
    desk.open()
    for name in sorted(screens()):
        desk.go(things.get(name, name))
        desk.accessible()


@pytest.mark.full_only
def test_a_viewer_finds_nothing_to_change(console: Callable[..., Desk], things: dict[str, str]) -> None:
    """What a role may not do has no control: a viewer's screens have forms to search with, and nothing else."""
    desk = console("viewer", app="default")
    desk.open()
    asked = "performance.getEntriesByType('resource').map((entry) => entry.name)"
    for name in sorted(screens() - {"compose", "keys", "audit"}):
        page = desk.go(things.get(name, name))
        changing = page.evaluate(
            "document.querySelectorAll('main :is(.danger, .primary:not(.find *, form[role=search] *))').length"
        )
        assert changing == 0, f"{name}: {page.text('main')}"
    assert json.dumps(page.evaluate(asked)).count("/v1/") > 0
