"""Why the page does not get going: what is missing, and what to check about a server that it does not reach."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

from gateway.cli.kiosk import pages, serving, web_folder
from tests.browser import Page
from tests.certificates import Authority
from tests.client_sim.web.conftest import Kiosk
from tests.end_to_end.harness import Server

CHECK = 'document.querySelector("#check")?.innerText'
IMPATIENT = "Math.random = () => 0.05;"
"""It waits a twentieth of what it may before it tries again."""


def opened(kiosk: Kiosk, origin: str, url: str) -> Page:
    fragment = {"device": kiosk.id, "token": kiosk.device.token, "url": url}
    return kiosk.context.open(f"{origin}/#{urlencode(fragment)}", IMPATIENT)


def test_mqtt_js_is_named_when_it_is_missing_with_the_command_that_brings_it(kiosk: Kiosk, tmp_path: Path) -> None:
    with serving(pages(web_folder(), tmp_path / "missing.js"), 0) as origin:
        page = opened(kiosk, origin, f"ws://127.0.0.1:{kiosk.relay.port}/mqtt")
        page.wait_for('document.querySelector("#state")?.dataset.state === "failed"')
        words = page.text("#state")
        assert words.startswith("Not started: MQTT.js is missing (node_modules/mqtt/dist/mqtt.esm.js).")
        assert "npm install --ignore-scripts" in words
        assert "server" not in words
        assert page.evaluate('document.querySelector("#setup").hidden'), "nothing is wrong with the credential"


def test_what_stops_the_page_itself_is_not_laid_to_the_server(kiosk: Kiosk) -> None:
    page = opened(kiosk, kiosk.origin, "push.example")
    page.wait_for('document.querySelector("#setup")?.hidden === false')
    assert page.text("#state").startswith("Not started: ")


def test_a_server_that_is_never_reached_is_one_to_check(kiosk: Kiosk) -> None:
    kiosk.relay.cut()
    url = f"ws://127.0.0.1:{kiosk.relay.port}/mqtt"
    page = opened(kiosk, kiosk.origin, url)
    words = page.wait_for(CHECK)
    assert url in words
    assert kiosk.origin in words
    assert "certificate" not in words, "there is none"
    kiosk.relay.mend()
    page.wait_for(f'document.querySelector("#state").dataset.state === "connected" && {CHECK} === ""')
    kiosk.relay.cut()
    page.wait_for('document.querySelector("#state").dataset.state === "disconnected"')
    assert page.evaluate(CHECK) == "", "one connection that ends is no reason yet"


def test_a_certificate_of_an_unknown_ca_is_one_to_check(kiosk: Kiosk, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server", "127.0.0.1")
    options = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--ws-origins", kiosk.origin)
    with Server(tmp_path / "data", *options, ca=authority.certificate) as server:
        page = opened(kiosk, kiosk.origin, f"wss://127.0.0.1:{server.http_port}/mqtt")
        words = page.wait_for(CHECK)
        assert "trusts its certificate (import the CA)" in words
        assert "--ws-origins" in words


def test_an_origin_that_the_server_does_not_let_in_is_one_to_check(kiosk: Kiosk, tmp_path: Path) -> None:
    with Server(tmp_path / "data", "--ws-origins", "http://elsewhere.example") as server:
        page = opened(kiosk, kiosk.origin, f"ws://127.0.0.1:{server.http_port}/mqtt")
        assert f"lets {kiosk.origin} in (--ws-origins)" in page.wait_for(CHECK)
