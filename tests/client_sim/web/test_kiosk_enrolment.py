"""A browser enrols itself by a code, from its address or typed, and says why it could not."""

from __future__ import annotations

from urllib.parse import urlencode

import httpx2

from gateway.enrolment.codes import new_code
from tests.browser import Page
from tests.client_sim.web.conftest import WATCH, Kiosk

CONNECTED = 'document.querySelector("#state")?.dataset.state === "connected"'


def invited(kiosk: Kiosk, device_id: str) -> str:
    """The code."""
    answer = kiosk.api.call("POST", "/v1/invitations", 201, json={"device_id": device_id, "tags": ["lobby"]})
    return str(answer["invitations"][0]["code"])


def opened(kiosk: Kiosk, code: str | None) -> Page:
    """The page, with a code in its address."""
    server = f"http://127.0.0.1:{kiosk.relay.port}"
    fragment = "" if code is None else f"#{urlencode({'enrol': f'{server}/enrol#{code}'})}"
    page = kiosk.context.open(f"{kiosk.origin}/{fragment}", WATCH)
    kiosk.pages.append(page)
    return page


def test_a_code_in_the_address_makes_the_browser_a_device(kiosk: Kiosk) -> None:
    code = invited(kiosk, f"{kiosk.id}-by-label")
    page = opened(kiosk, code)
    page.wait_for(CONNECTED)
    assert page.text("#name") == f"{kiosk.id}-by-label"
    assert page.evaluate("location.href") == f"{kiosk.origin}/", "the code has left the address bar"
    assert code not in page.evaluate("JSON.stringify(localStorage)")
    page.reload()
    page.wait_for(CONNECTED)
    other = invited(kiosk, f"{kiosk.id}-taken-over")
    again = opened(kiosk, other)
    again.wait_for(f'document.querySelector("#name")?.textContent === "{kiosk.id}-by-label"')
    (left,) = kiosk.api.call("GET", "/v1/invitations", 200, params={"state": "open"})["items"]
    assert left["device_id"] == f"{kiosk.id}-taken-over", "a device does not become another by a code"


def test_a_code_is_typed_and_a_wrong_one_may_be_mended(kiosk: Kiosk) -> None:
    kiosk.forgive("404")
    code = invited(kiosk, f"{kiosk.id}-typed")
    page = opened(kiosk, None)
    page.wait_for('document.querySelector("#by-code")?.hidden === false')
    page.click('#by-code [name="server"]')
    page.type(f"http://127.0.0.1:{kiosk.relay.port}")
    page.click('#by-code [name="code"]')
    page.type(new_code())
    page.press("Enter", 13, "\r")
    page.wait_for('document.querySelector("#code-refused").textContent.startsWith("nobody has this code")')
    page.evaluate("""document.querySelector('#by-code [name="code"]').value = ''""")
    page.click('#by-code [name="code"]')
    page.type(code.lower().replace("-", " "))
    page.press("Enter", 13, "\r")
    page.wait_for(CONNECTED)
    assert page.text("#name") == f"{kiosk.id}-typed"


def test_a_page_that_was_closed_too_early_shows_the_same_nonce(kiosk: Kiosk) -> None:
    code = invited(kiosk, f"{kiosk.id}-lost")
    page = opened(kiosk, None)
    page.wait_for('document.querySelector("#by-code")?.hidden === false')
    server = f"http://127.0.0.1:{kiosk.relay.port}"
    # The answer is on its way when the page is gone: it has begun, and knows of nothing else.
    page.evaluate(f"""import("./enrolment.js").then(async ({{ enrol }}) => {{
        const plain = globalThis.fetch;
        globalThis.fetch = (...asked) => {{ globalThis.body = asked[1].body; return new Promise(() => {{}}); }};
        enrol("{server}/enrol#{code}");
    }})""")
    body = page.wait_for("globalThis.body")
    answer = httpx2.post(f"{server}/v1/enrol", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201
    opened(kiosk, code).wait_for(CONNECTED)


def test_a_token_that_ends_is_renewed(kiosk: Kiosk) -> None:
    body = {"device_id": f"{kiosk.id}-ends", "token_days": 30}
    code = kiosk.api.call("POST", "/v1/invitations", 201, json=body)["invitations"][0]["code"]
    page = opened(kiosk, code)
    page.wait_for(CONNECTED)
    kept = 'JSON.parse(localStorage["fleetpush.credential"])'
    assert page.evaluate(f"({kept}.renewAt - Date.now()) / 864e5 > 17.9")
    kiosk.forgive("429")  # it is less than a minute old: what counts is that the page asks, and may read the answer
    asked = page.evaluate(f"""import("./enrolment.js").then(({{ renew }}) => {{
        Math.random = () => 0.001;
        return renew({kept}).then(() => "renewed", (error) => error.code);
    }})""")
    assert asked == "rate_limited"


def test_a_server_that_does_not_answer_is_named(kiosk: Kiosk) -> None:
    kiosk.forgive("Failed to load resource")
    kiosk.relay.cut()
    page = kiosk.context.open(
        f"{kiosk.origin}/#{urlencode({'enrol': f'http://127.0.0.1:{kiosk.relay.port}/enrol#{new_code()}'})}",
        WATCH + "Math.random = () => 0.001;",
    )
    kiosk.pages.append(page)
    page.wait_for('document.querySelector("#code-refused")?.textContent.includes("does not answer")')
    assert not page.evaluate('document.querySelector("#by-code").hidden')
