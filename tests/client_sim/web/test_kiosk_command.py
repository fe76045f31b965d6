"""`fleetpush kiosk` as a person meets it: what it prints, what it serves, and why it cannot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from gateway.cli.kiosk import installed_mqtt_js, web_folder
from gateway.cli.terminal import Failure
from tests.certificates import Authority
from tests.end_to_end.harness import Server, fleetpush, running
from tests.third_party import require


@contextmanager
def kiosk(server: Server, *arguments: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """The address that it printed, and what ends it and is what it told the person; ended as by Ctrl-C."""
    require("npm")
    command = ("kiosk", "--port", "0", "--data-dir", str(server.data_dir), *arguments)
    with TemporaryFile() as errors, running(*command, errors=errors) as process:

        def end() -> str:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
            errors.seek(0)
            return errors.read().decode()

        yield process.stdout.readline().strip(), end
        end()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("kiosk") / "data") as server:
        yield server


def test_an_operator_s_words_take_the_place_of_ours(server: Server, tmp_path: Path) -> None:
    words = tmp_path / "own.json"
    words.write_text('{"fr": {"connected": "Connecté"}}')
    with (
        kiosk(server, "shop-fr", "--texts", str(words)) as (address, _),
        httpx2.Client(base_url=f"http://{urlsplit(address).netloc}", trust_env=False) as client,
    ):
        assert client.get("/texts.json").json() == {"fr": {"connected": "Connecté"}}
        assert "TEXTS" in client.get("/texts.js").text


def test_the_page_and_nothing_else_is_served(server: Server) -> None:
    with kiosk(server, "shop") as (address, _):
        parts = urlsplit(address)
        given = parse_qs(parts.fragment)
        assert given["device"] == ["shop"]
        assert given["url"] == [f"ws://127.0.0.1:{server.http_port}/mqtt"]
        with httpx2.Client(base_url=f"http://{parts.netloc}", trust_env=False) as client:
            page = client.get("/")
            assert page.status_code == 200
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert page.headers["content-security-policy"] == "frame-ancestors 'none'"
            assert (
                client.get("/node_modules/mqtt/dist/mqtt.esm.js").headers["content-type"].startswith("text/javascript")
            )
            assert client.get("/node_modules/jose/dist/webapi/jws/compact/verify.js").status_code == 200
            assert client.get("/trusted-keys.json").json() == {"keys": []}
            missing = (
                "/package.json",
                "/node_modules/jose/package.json",
                "/node_modules/mqtt/package.json",
                "/..%2f__init__.py",
                "/%2e%2e/device.py",
            )
            assert [client.get(path).status_code for path in missing] == [404] * len(missing)


def test_a_device_keeps_its_token_from_start_to_start(server: Server) -> None:
    tokens = []
    for _ in range(2):
        with kiosk(server, "again") as (address, _):
            tokens.append(parse_qs(urlsplit(address).fragment)["token"])
    assert tokens[0] == tokens[1]
    with kiosk(server, "again", "--rotate") as (address, _):
        assert parse_qs(urlsplit(address).fragment)["token"] != tokens[0]


def test_a_server_that_lets_the_page_not_in_is_told_of(server: Server) -> None:
    with kiosk(server, "foreign") as (address, end):
        origin = f"http://{urlsplit(address).netloc}"
        assert f"--ws-origins {origin}" in end()


def test_over_tls_it_asks_the_server_as_the_browser_will(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server", "127.0.0.1")
    options = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--ws-origins", "*")
    with (
        Server(tmp_path / "data", *options, ca=authority.certificate) as server,
        kiosk(server) as (address, end),
    ):
        assert parse_qs(urlsplit(address).fragment)["url"] == [f"wss://127.0.0.1:{server.http_port}/mqtt"]
        words = end()
    assert "does not answer" not in words
    assert "must trust the server's certificate" in words


def test_a_port_that_is_taken_is_named_with_the_remedy(server: Server) -> None:
    require("npm")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = fleetpush("kiosk", "late", "--port", port, "--data-dir", str(server.data_dir))
    assert ended.returncode == 1
    assert f"port {port} cannot be used" in ended.stderr
    assert "--port" in ended.stderr


def test_without_npm_it_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = without_modules(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(Failure, match="apt-get install nodejs npm"):
        installed_mqtt_js(web)


def test_what_npm_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that nobody has, from a registry that is not there."""
    require("npm")
    web = without_modules(tmp_path)
    package = json.loads((web / "package.json").read_text())
    package["dependencies"]["mqtt"] = "0.0.0-none"
    (web / "package.json").write_text(json.dumps(package))
    with socket.create_server(("127.0.0.1", 0)) as gone:
        registry = f"http://127.0.0.1:{gone.getsockname()[1]}/"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", registry)
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(Failure, match="npm could not fetch") as failed:
        installed_mqtt_js(web)
    assert "ECONNREFUSED" in str(failed.value)
    assert not (tmp_path / "cache" / "fleetpush" / "mqtt-js-0.0.0-none" / "node_modules" / "mqtt").exists()


def without_modules(tmp_path: Path) -> Path:
    """The page as an installed package has it: no checkout around it, no MQTT.js in it."""
    web = tmp_path / "site-packages" / "client_sim" / "web"
    shutil.copytree(web_folder(), web, ignore=shutil.ignore_patterns("node_modules"))
    assert not os.path.exists(web / "node_modules")
    return web
