"""A server, one Chromium, and the console signed in as each role.

`console("viewer")` gives a `Desk`: a browser profile of its own whose page is signed in. What a test opens is closed at
its end, and what the browser has complained of by then (an uncaught error, a violated policy) fails the test.

Server and browser are a worker's, for all its tests. Each test has an app of its own there, with its own devices,
channels, campaigns and keys: `api` prepares them in it, `console` signs in to it. So no two tests can want the same id.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest

from client_sim.device import Device
from tests.browser import Browser, Context, Page
from tests.console.axe import violations
from tests.end_to_end import harness
from tests.end_to_end.harness import Api, Server
from tests.end_to_end.wire_device import WireDevice

Role = Literal["viewer", "sender", "operator", "admin"]
SCOPES: dict[str, list[str]] = {
    "viewer": ["read"],
    "sender": ["read", "send"],
    "operator": ["read", "send", "devices"],
    "admin": ["admin"],
}
COOKIE = "fleetpush_session"
OUTAGE = re.compile(r"ERR_CONNECTION_|ERR_INTERNET_DISCONNECTED|ERR_EMPTY_RESPONSE|ERR_NETWORK_")
"""What the browser complains of when a test cuts the line."""
REFUSAL = re.compile(r"responded with a status of (4\d\d|5\d\d)")
"""The browser logs each refusal of the API, which the page shows."""
EVIL_IMAGE = "<img src=x onerror=\"document.title='owned'\">"
EVIL_SCRIPT = "<script>document.title='owned'</script>"
EVIL = EVIL_IMAGE + EVIL_SCRIPT
"""What somebody says who wants to own the page."""
WIDER = """
(() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().right > width + 1)
    .map((one) => `${one.tagName}.${one.className} ${Math.round(one.getBoundingClientRect().right)}`);
})()
"""
"""What makes a page wider than the screen."""
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests of a worker: each of them has an app of its own."""
    loopback = {"FLEETPUSH_WEBHOOK_NETWORKS": "127.0.0.0/8"}  # receivers of webhooks are there
    with Server(tmp_path_factory.mktemp("console") / "data", env=loopback) as server:
        yield server


@pytest.fixture
def app(server: Server) -> str:
    """The test's own app. What is true of the app `default` alone, a test does with `server.api`."""
    app = f"app-{next(_numbers)}"
    server.api.call("POST", "/v1/apps", 201, json={"id": app})
    return app


@pytest.fixture
def api(server: Server, app: str) -> Iterator[Api]:
    """The API with an admin's key of the test's app, for what it prepares."""
    api = Api(server.url, make_key(server.api, "admin", app))
    yield api
    api.close()


class Desk:
    """A person at the console: a page, and what one does there. `page` is the tab; more tabs by `open`."""

    def __init__(self, context: Context, origin: str, script: str, key: str) -> None:
        self.context = context
        self.origin = origin
        self.key = key
        self.tabs: list[Page] = []
        self.forgiven: list[str] = []
        self._script = script

    @property
    def page(self) -> Page:
        return self.tabs[0]

    def open(self, path: str = "", *, ready: bool = True) -> Page:
        """A tab at /console/PATH. `ready`: wait until its screen is there."""
        page = self.context.open(f"{self.origin}/console/{path}", self._script)
        self.tabs.append(page)
        if ready:
            self.ready(page)
        return page

    def go(self, path: str) -> Page:
        """To another address in the first tab, as if it had been typed."""
        if not self.tabs:
            return self.open(path)
        self.page.call("Page.navigate", url=f"{self.origin}/console/{path}")
        self.ready(self.page, path)
        return self.page

    def ready(self, page: Page, path: str | None = None) -> None:
        at = "true" if path is None else f"location.href.startsWith({json.dumps(f'{self.origin}/console/{path}')})"
        page.wait_for(f"{at} && !!document.querySelector('.screen:not([aria-busy]) h1')")

    def fill(self, selector: str, text: str, page: Page | None = None) -> None:
        """Click into a field, take out what is there, and type."""
        page = page or self.page
        page.click(selector)
        page.evaluate(f"document.querySelector({json.dumps(selector)}).select?.()")
        page.press("Delete", 46)
        page.type(text)

    def choose(self, selector: str, value: str, page: Page | None = None) -> None:
        """Another option of a select, as its person would by keyboard."""
        (page or self.page).evaluate(
            f"(() => {{ const s = document.querySelector({json.dumps(selector)}); s.value = {json.dumps(value)};"
            " s.dispatchEvent(new Event('input', {bubbles: true}));"
            " s.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def click_text(self, text: str, within: str = "body", page: Page | None = None) -> None:
        """Press the link or the button that says exactly this."""
        page = page or self.page
        page.wait_for(
            f"""(() => {{
                const all = document.querySelectorAll({json.dumps(within)} + " :is(a, button, summary, label)");
                const found = [...all].find((one) => one.innerText.trim() === {json.dumps(text)} && !one.disabled);
                document.querySelector("[data-test-target]")?.removeAttribute("data-test-target");
                found?.setAttribute("data-test-target", "");
                return !!found;
            }})()"""
        )
        page.click("[data-test-target]")

    def shows(self, text: str, within: str = "body", page: Page | None = None) -> None:
        """Wait until it is there to read."""
        page = page or self.page
        page.wait_for(
            f"!!document.querySelector({json.dumps(within)})?.innerText.includes({json.dumps(text)})", timeout=15
        )

    def accessible(self, page: Page | None = None) -> None:
        """Nobody is kept out, in both themes: axe finds nothing."""
        page = page or self.page
        worn = page.evaluate("document.documentElement.dataset.theme ?? ''")
        for theme in ("light", "dark"):
            page.evaluate(f"document.documentElement.dataset.theme = {json.dumps(theme)}")
            found = violations(page)
            assert found == [], f"{theme}: " + "\n".join(found)
        page.evaluate(f"document.documentElement.dataset.theme = {json.dumps(worn or 'auto')}")

    def fits_a_phone(self) -> None:
        """Nothing is beside the screen of a phone, which the first tab is shown on from now on."""
        self.page.resize(360, 740)
        assert self.page.evaluate(WIDER) == [], self.page.evaluate("location.pathname")

    def asks(self, method: str, path: str, body: object = None) -> int:
        """The status that the server answers its page with: what a role may not do has no button to press."""
        content = "undefined" if body is None else json.dumps(json.dumps(body))
        return int(
            self.page.evaluate(
                f"fetch({json.dumps(path)}, {{ method: {json.dumps(method)}, body: {content}, headers: "
                "{ 'Content-Type': 'application/json', 'Fleetpush-Console': '1' } }).then((answer) => answer.status)"
            )
        )

    def look_again(self) -> None:
        """Come back to the tab: what is live is asked for at once."""
        self.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    def forgive(self, words: str) -> None:
        """The browser may complain of this: the test wants it."""
        self.forgiven.append(words)

    def complaints(self) -> list[str]:
        said = [line for page in self.tabs for line in page.complaints]
        said = [line for line in said if not OUTAGE.search(line) and not REFUSAL.search(line)]
        return [line for line in said if not any(words in line for words in self.forgiven)]


@pytest.fixture
def device_of(server: Server, app: str) -> Callable[..., Device]:
    """`device_of(enrolled)`: the program of an enrolled device, which connects when it is started."""
    return lambda enrolled, **options: Device(enrolled.id, enrolled.token, port=server.mqtt_port, app=app, **options)


@pytest.fixture
def online(api: Api, device_of: Callable[..., Device]) -> Iterator[Callable[..., Device]]:
    """`online("kiosk-1", tags=[..])`: enrols a device, and connects it until the test ends. It shows what it gets."""
    with ExitStack() as opened:

        def connect(device_id: str, **fields: Any) -> Device:
            device: Device = device_of(api.enrol(device_id, **fields), on_push=lambda push: device.displayed(push))
            opened.callback(device.close)
            device.start()
            assert device.wait_connected(10), f"{device_id} is not connected"
            return device

        yield connect


@pytest.fixture
def console(browser: Browser, server: Server, app: str) -> Iterator[Callable[..., Desk]]:
    """`console(role)`: a browser that is signed in so; `console(None)`: one that is not. The rest is as in `seat`."""
    desks: list[Desk] = []
    with ExitStack() as opened:

        def sit_down(role: Role | None = "admin", **options: Any) -> Desk:
            context = opened.enter_context(browser.context())
            desk = seat(context, server, role, **{"app": app, **options})
            desks.append(desk)
            return desk

        yield sit_down
        complaints = [line for desk in desks for line in desk.complaints()]
        assert complaints == []


def seat(
    context: Context,
    server: Server,
    role: Role | None,
    *,
    app: str = "default",
    language: str = "en",
    script: str = "",
) -> Desk:
    """Somebody at a server's console: signed in with a role's key of an app, or with None not at all. `script` runs
    before the page's own."""
    key = "" if role is None else make_key(server.api, role, app)
    if role is not None:
        sign_in(context, server.url, key)
    return Desk(context, server.url, speak(language) + script, key)


@contextmanager
def connected(server: Server, enrolled: harness.Device) -> Iterator[WireDevice]:
    """A device that is enrolled, online, and acknowledges what it gets."""
    device = WireDevice(server.mqtt_port, enrolled.client_id, enrolled.token, topic=enrolled.topics["push"])
    device.start()
    try:
        yield device
    finally:
        device.drop()


def make_key(api: Api, role: Role, app: str | None = None) -> str:
    """A key with the scopes of a role, for another app than that of `api` if one is named."""
    body: dict[str, Any] = {"name": f"the {role}", "scopes": SCOPES[role], "app": app}
    return str(api.call("POST", "/v1/keys", 201, json=body)["key"])


def speak(language: str) -> str:
    """A browser whose person has set one language, which makes texts the same on every machine."""
    return f"Object.defineProperty(navigator, 'languages', {{ get: () => [{json.dumps(language)}] }});\n"


def imported(module: str) -> str:
    """An expression of a page: the promise of a module of its own, `parts/plan.js`."""
    return f"import(document.querySelector('script[type=module]').src.replace('main.js', {json.dumps(module)}))"


def sign_in(context: Context, origin: str, key: str) -> None:
    """Give a browser a session, as the sign-in page would: `test_session.py` does that with a mouse."""
    headers = {"Fleetpush-Console": "1", "Sec-Fetch-Site": "same-origin"}
    answer = httpx2.post(f"{origin}/v1/session", json={"key": key}, headers=headers, trust_env=False)
    assert answer.status_code == 201, answer.text
    context.set_cookie(origin, COOKIE, answer.cookies[COOKIE])


def screenshots(desk: Desk, name: str, folder: Path) -> None:
    """Three widths, light and dark, for somebody to look at."""
    for width in (360, 800, 1440):
        for theme in ("light", "dark"):
            desk.page.resize(width, 900)
            desk.page.evaluate(f"document.documentElement.dataset.theme = {json.dumps(theme)}")
            desk.page.screenshot(folder / f"{name}-{width}-{theme}.png")
