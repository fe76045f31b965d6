"""Headless Chromium, driven over the DevTools protocol: what a person does at a page, and what it then shows.

A click is an input event at a place on the screen, as trusted as a person's. Each `Context` has storage and
permissions of its own, as a browser profile has. Why not Selenium: the protocol is JSON over one WebSocket, and
`websockets` is here anyway; this file takes the place of ten packages and a second binary.

One thread: events of the page are read while it waits for an answer, and everything else polls.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any, Literal, Self

from websockets.sync.client import connect

from tests.end_to_end.harness import wait_for
from tests.third_party import require

OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers, where the sandbox cannot be set up
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    # Two thirds of what a window costs: pages of the browser itself that are made ready for it, suggestions below its
    # address bar, and asks that nobody sees.
    "--disable-features=PreloadTopChromeWebUI,WebUIReloadButton,InitialWebUI,Translate,MediaRouter,OptimizationHints,"
    "SpareRendererForSitePerProcess,WebUIOmniboxPopup,WebUIOmniboxAimPopup,WebUIOmniboxFullPopup",
    "--mute-audio",
    "--remote-debugging-port=0",
)
ANSWER_TIMEOUT = 20.0
VIEW = (1280, 800)

Setting = Literal["granted", "denied", "prompt"]


class Browser:
    def __init__(self, profile: Path, home: Path | None = None) -> None:
        """`home`: of a person who trusts certificates of their own, in `.pki/nssdb`."""
        self._process = subprocess.Popen(
            [require("chromium"), *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            env=os.environ if home is None else os.environ | {"HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said: list[str] = []
        self._url = ""
        listening = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(listening,), daemon=True)
        self._reader.start()
        assert listening.wait(ANSWER_TIMEOUT), f"Chromium does not start: {self._said}"
        assert self._url, f"Chromium ended: {self._said}"
        # No pings: their thread would draw from `random` under whatever test runs then, and hypothesis takes that for a
        # draw of its strategies. Every answer has a timeout without them.
        self._socket = connect(self._url, max_size=None, proxy=None, ping_interval=None)
        self._numbers = itertools.count(1)
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("Browser.close")
        self._socket.close()
        self._process.wait(ANSWER_TIMEOUT)
        self._reader.join(ANSWER_TIMEOUT)
        assert self._process.stderr is not None, "opened as a pipe"
        self._process.stderr.close()

    def context(self) -> Context:
        return Context(self, self.call("Target.createBrowserContext")["browserContextId"])

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message if session is None else message | {"sessionId": session}))
        while True:
            answer = json.loads(self._socket.recv(timeout=ANSWER_TIMEOUT))
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            if (page := self._pages.get(answer.get("sessionId", ""))) is not None:
                page.heard(answer["method"], answer["params"])

    def attach(self, target: str) -> Page:
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._pages[session] = page = Page(self, target, session)
        return page

    def _read(self, listening: threading.Event) -> None:
        assert self._process.stderr is not None, "opened as a pipe"
        for line in self._process.stderr:
            self._said.append(line)
            if match := re.search(r"listening on (ws://\S+)", line):
                self._url = match[1]
                listening.set()
        listening.set()


class Context:
    """A profile of its own: storage, permissions, the tabs that share them."""

    def __init__(self, browser: Browser, context_id: str) -> None:
        self._browser = browser
        self._id = context_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._id)

    def open(self, url: str, script: str = "") -> Page:
        """A tab. `script` runs in each of its documents before all else."""
        width, height = VIEW
        created = self._browser.call(
            "Target.createTarget",
            url="about:blank",
            browserContextId=self._id,
            newWindow=True,
            width=width,
            height=height,
        )
        page = self._browser.attach(created["targetId"])
        page.call("Page.enable")
        page.call("Runtime.enable")
        page.call("Log.enable")
        page.call("Page.addScriptToEvaluateOnNewDocument", source=script)
        page.call("Page.navigate", url=url)
        return page

    def save_downloads(self, folder: Path) -> None:
        """What the person saves goes there."""
        self._browser.call(
            "Browser.setDownloadBehavior", browserContextId=self._id, behavior="allow", downloadPath=str(folder)
        )

    def set_cookie(self, origin: str, name: str, value: str) -> None:
        """As an answer would have set it, for pages of this origin and for no script."""
        cookie = {"name": name, "value": value, "url": origin, "httpOnly": True, "sameSite": "Strict"}
        self._browser.call("Storage.setCookies", browserContextId=self._id, cookies=[cookie])

    def clear_cookies(self) -> None:
        self._browser.call("Storage.clearCookies", browserContextId=self._id)

    def permit(self, origin: str, permission: str, setting: Setting) -> None:
        """What the person answers, or has answered, when the page asks."""
        self._browser.call(
            "Browser.setPermission",
            browserContextId=self._id,
            origin=origin,
            permission={"name": permission},
            setting=setting,
        )


class Page:
    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session
        self.complaints: list[str] = []
        """Uncaught errors, and what the browser itself logs as one: a violated policy, a file that is missing."""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def heard(self, event: str, parameters: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")

    def evaluate(self, expression: str) -> Any:
        """Its value; that of a promise when it is kept."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, expression: str, timeout: float = 15.0) -> Any:
        """Also over a page that is just being loaded anew: what it is asked in that moment it does not answer."""

        def look() -> Any:
            try:
                return self.evaluate(expression)
            except AssertionError as error:
                if "navigated" in str(error) or "context" in str(error):
                    return None
                raise

        return wait_for(look, timeout=timeout, what=expression)

    def text(self, selector: str) -> str:
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """The mouse scrolls to the element, goes to its middle, which must be what is to be seen there, and presses."""
        where = self.wait_for(
            f"""(() => {{
                const element = document.querySelector({json.dumps(selector)});
                if (!element) return null;
                element.scrollIntoView({{ block: "nearest", behavior: "instant" }});
                const {{ x, y, width, height }} = element.getBoundingClientRect();
                const middle = [x + width / 2, y + height / 2];
                return element.contains(document.elementFromPoint(...middle)) ? middle : null;
            }})()"""
        )
        for event in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=event, x=where[0], y=where[1], button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        for event in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=event,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if event == "keyDown" else "",
            )

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def reload(self) -> None:
        self.call("Page.reload")

    def resize(self, width: int, height: int) -> None:
        """To a screen of so many pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)
