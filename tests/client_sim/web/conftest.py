"""A server, the page that `fleetpush kiosk` serves, and one Chromium for all tests of the pages."""

from __future__ import annotations

import itertools
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.browser import Browser, Context, Page, Setting
from tests.client_sim.web.relay import Relay
from tests.end_to_end.harness import Api, Device, Server, running
from tests.third_party import require

WATCH = """
// Every notification is real; the page's calls are counted on the way.
globalThis.asked = [];
globalThis.notified = [];
const Real = Notification;
globalThis.Notification = class extends Real {
  constructor(...given) { super(...given); notified.push(this); }
  static requestPermission() { asked.push(navigator.userActivation.isActive); return super.requestPermission(); }
};
// Orders that the page knows before the first push comes.
Object.defineProperty(globalThis, "fleetpush", {
  configurable: true,
  set(value) {
    Object.defineProperty(globalThis, "fleetpush", { value });
    const once_more = () => { localStorage.effects = Number(localStorage.effects ?? 0) + 1; };
    value.device.actions.never = () => { once_more(); return new Promise(() => {}); };
    value.device.actions.when_told = () => {
      once_more();
      return new Promise((resolve) => { globalThis.tell = () => resolve({ done: true }); });
    };
  },
});
"""
"""Runs in every document before the page's own scripts."""
OUTAGE = re.compile(r"WebSocket|ERR_CONNECTION_(REFUSED|RESET|CLOSED)")
"""What the browser complains of when a test cuts the cable."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Served:
    """A server and a page for its devices."""

    server: Server
    origin: str
    address: str
    """What the command printed: the page with the credential of its own device."""


@contextmanager
def serve_page(data: Path, *arguments: str) -> Iterator[Served]:
    """A server, and `fleetpush kiosk first` with these arguments."""
    require("npm")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    origin = f"http://127.0.0.1:{port}"
    command = ("kiosk", "first", "--port", str(port), "--data-dir", str(data), *arguments)
    with Server(data, "--ws-origins", origin) as server, running(*command) as process:
        address = process.stdout.readline().strip()
        assert address.startswith(f"{origin}/#"), address
        yield Served(server, origin, address)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_page(tmp_path_factory.mktemp("web") / "data") as served:
        yield served


@dataclass
class Kiosk:
    """A device in a tab, and the cable between it and the server."""

    api: Api
    device: Device
    relay: Relay
    context: Context
    origin: str
    pages: list[Page] = field(default_factory=list)
    forgiven: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.device.id

    def open(self) -> Page:
        """A tab with the device's credential."""
        fragment = {
            "device": self.device.id,
            "token": self.device.token,
            "url": f"ws://127.0.0.1:{self.relay.port}/mqtt",
        }
        page = self.context.open(f"{self.origin}/#{urlencode(fragment)}", WATCH)
        self.pages.append(page)
        return page

    def connected(self) -> Page:
        page = self.open()
        page.wait_for('document.querySelector("#state")?.dataset.state === "connected"')
        return page

    def permit(self, setting: Setting) -> None:
        self.context.permit(self.origin, "notifications", setting)

    def push(self, *actions: str, **fields: Any) -> str:
        notification = {"title": "Fresh bread", "body": "Out of the oven."} | fields.pop("notification", {})
        if actions:
            notification["actions"] = [{"id": action, "title": action.title()} for action in actions]
        return self.api.push(self.id, notification=notification, **fields)

    def command(self, command: str) -> str:
        return self.api.push(self.id, kind="command", data={"command": command})

    def forgive(self, words: str) -> None:
        """The browser may complain of this: the test wants it."""
        self.forgiven.append(words)

    def complaints(self) -> list[str]:
        all_of_them = [said for page in self.pages for said in page.complaints if not OUTAGE.search(said)]
        return [said for said in all_of_them if not any(words in said for words in self.forgiven)]


StartKiosk = Callable[[], Kiosk]


@pytest.fixture
def kiosk(browser: Browser, served: Served) -> Iterator[Kiosk]:
    """A new device in a browser profile of its own; afterwards, nothing may have gone wrong in its pages."""
    with ExitStack() as stack:
        kiosk = Kiosk(
            api=served.server.api,
            device=served.server.api.enrol(f"kiosk-{next(_numbers)}"),
            relay=stack.enter_context(Relay(served.server.http_port)),
            context=stack.enter_context(browser.context()),
            origin=served.origin,
        )
        yield kiosk
        assert kiosk.complaints() == []
