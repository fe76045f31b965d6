"""MQTT.js in node against the gateway's port: the round trip over ws and wss, with a token and with a certificate."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.kiosk import installed_mqtt_js, web_folder
from tests.certificates import Authority, Pair
from tests.end_to_end.harness import Api, Device, Server, wait_for
from tests.third_party import Listener, require

SCRIPT = Path(__file__).with_name("mqtt_js_device.mjs")
ANSWER_TIMEOUT = 20.0


@pytest.fixture(scope="module")
def module() -> Path:
    """MQTT.js as node loads it, from the package that the page's bundle is in."""
    require("npm")
    return installed_mqtt_js(web_folder()).parent.parent / "build" / "index.js"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("plain") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Server]:
    pair = authority.issue("server", "127.0.0.1")
    options = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--tls-ca", str(authority.certificate)]
    options += ["--listen", "wss://127.0.0.1:0/mqtt?certificates=ask"]
    with Server(tmp_path_factory.mktemp("secure") / "data", *options, ca=authority.certificate) as server:
        yield server


@contextmanager
def connected(module: Path, device: Device, url: str, **options: Any) -> Iterator[queue.Queue[str]]:
    """What the device in node says, line by line."""
    said: queue.Queue[str] = queue.Queue()
    name = device.client_id
    facts = {"module": str(module), "url": url, "clientId": name, "username": name, "topics": device.topics, **options}
    with Listener([require("node"), str(SCRIPT), json.dumps(facts)], said.put):
        yield said


def round_trip(api: Api, device: Device, said: queue.Queue[str]) -> None:
    assert said.get(timeout=ANSWER_TIMEOUT) == "ready"
    push_id = api.push(device.id)
    assert said.get(timeout=ANSWER_TIMEOUT) == push_id
    wait_for(lambda: api.delivery(push_id)["state"] == "displayed", what="the receipt")


def test_over_ws(plain: Server, module: Path) -> None:
    device = plain.api.enrol()
    url = device.mqtt["websocket"]
    assert url == f"ws://127.0.0.1:{plain.http_port}/mqtt"
    with connected(module, device, url, password=device.token) as said:
        round_trip(plain.api, device, said)


def test_over_wss(secure: Server, module: Path, authority: Authority) -> None:
    device = secure.api.enrol()
    url = device.mqtt["websocket"]
    assert url == f"wss://127.0.0.1:{secure.http_port}/mqtt"
    with connected(module, device, url, password=device.token, ca=str(authority.certificate)) as said:
        round_trip(secure.api, device, said)


def test_over_wss_with_a_certificate_in_place_of_the_token(secure: Server, module: Path, authority: Authority) -> None:
    device = secure.api.enrol()
    pair: Pair = authority.issue(device.client_id)
    files = {"ca": str(authority.certificate), "cert": str(pair.certificate), "key": str(pair.key)}
    with connected(module, device, f"wss://{secure.listening[0]}/mqtt", **files) as said:
        round_trip(secure.api, device, said)


def test_a_server_that_it_does_not_trust_is_not_told_the_token(secure: Server, module: Path) -> None:
    device = secure.api.enrol()
    with connected(module, device, device.mqtt["websocket"], password=device.token) as said:
        assert "certificate" in said.get(timeout=ANSWER_TIMEOUT)
    assert secure.api.device(device.id)["online"] is False
