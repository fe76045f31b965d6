"""How a command finds its server, repeats a push safely, and words a refusal."""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from gateway.certificates import initialize, make_device
from gateway.cli.doctor import SetUp, check_server
from gateway.cli.server_client import ServerClient
from gateway.cli.terminal import Failure


class Script:
    """A server that answers what the test says; `None` cuts the connection instead."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any] | None] = []
        self.requests: list[tuple[str, str | None, str | None]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                script.requests.append((self.path, self.headers["Authorization"], self.headers["Idempotency-Key"]))
                answer = script.answers.pop(0)
                if answer is None:
                    self.close_connection = True
                    return
                body = json.dumps(answer[1]).encode()
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()  # how late it notices its end


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.http.shutdown()
    script.http.server_close()


def test_on_the_servers_machine_both_are_found(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEETPUSH_KEY", raising=False)
    with pytest.raises(Failure, match="fleetpush serve"):
        ServerClient.find(None, tmp_path)
    with pytest.raises(Failure, match="FLEETPUSH_KEY"):
        ServerClient.find(script.url, tmp_path)
    (tmp_path / "server.json").write_text(json.dumps({"url": script.url}))
    (tmp_path / "admin.key").write_text("key_admin\n")
    script.answers = [(200, {"items": [], "next_cursor": None})]
    with ServerClient.find(None, tmp_path) as client:
        assert list(client.items("/v1/devices")) == []
    assert script.requests == [("/v1/devices?limit=1000", "Bearer key_admin", None)]


def test_on_the_servers_machine_a_device_connects_here(tmp_path: Path) -> None:
    """Whatever name the others dial, which this machine need not know."""
    (tmp_path / "server.json").write_text(json.dumps({"url": "http://127.0.0.1:8080", "mqtt_port": 4711}))
    (tmp_path / "admin.key").write_text("key_admin\n")
    with ServerClient.find(None, tmp_path) as client:
        assert client.mqtt_address("push.example", 1883) == ("127.0.0.1", 4711)
    with ServerClient("http://192.0.2.7:8080", "key_x") as client:
        assert client.mqtt_address("push.example", 1883) == ("push.example", 1883)
        assert client.mqtt_address("0.0.0.0", 1883) == ("192.0.2.7", 1883)


def test_the_key_of_this_machine_is_not_sent_to_another(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLEETPUSH_KEY", raising=False)
    (tmp_path / "admin.key").write_text("key_admin\n")
    for url in ("http://push.example", "http://192.0.2.1:8080", "http://127.0.0.1.example"):
        with pytest.raises(Failure, match="set FLEETPUSH_KEY"):
            ServerClient.find(url, tmp_path)
    for url in ("nonsense", "http://", "http://["):
        with pytest.raises(Failure, match="write it as http://HOST:PORT"):
            ServerClient.find(url, tmp_path)
    script.answers = [(200, {})]
    with ServerClient.find(script.url, tmp_path) as client:
        client.call("GET", "/v1/devices")
    assert script.requests == [("/v1/devices", "Bearer key_admin", None)]
    monkeypatch.setenv("FLEETPUSH_KEY", "key_theirs")
    ServerClient.find("http://push.example", tmp_path)


def test_a_cut_connection_sends_the_same_push_again(script: Script) -> None:
    script.answers = [None, (202, {"push_id": "p1"})]
    with ServerClient(script.url, "key_x") as client:
        assert client.post_once({"target": {"all": True}}, None) == {"push_id": "p1"}
    keys = {key for _, _, key in script.requests}
    assert len(script.requests) == 2
    assert len(keys) == 1
    assert None not in keys


def test_a_refusal_is_the_problem_in_one_line_and_never_the_key(script: Script) -> None:
    problem = {"title": "Unauthorized", "status": 401, "code": "unauthorized", "detail": "this key is not known"}
    script.answers = [(401, problem), (502, "gateway")]
    with ServerClient(script.url, "key_secret") as client:
        with pytest.raises(Failure, match=r"this key is not known \(unauthorized\)") as refusal:
            client.call("GET", "/v1/devices")
        assert "key_secret" not in str(refusal.value)
        with pytest.raises(Failure, match="502"):
            client.call("GET", "/v1/devices")


def test_a_forbidden_request_names_the_variable_that_gave_the_key(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.answers = [(403, {"code": "forbidden", "detail": "this key lacks the scope 'admin'"})] * 3
    monkeypatch.delenv("FLEETPUSH_KEY", raising=False)
    (tmp_path / "admin.key").write_text("key_x\n")
    with ServerClient.find(script.url, tmp_path) as of_file:
        with pytest.raises(Failure) as refusal:
            of_file.call("GET", "/v1/apps")
        assert "FLEETPUSH_KEY" not in str(refusal.value)
        monkeypatch.setenv("FLEETPUSH_KEY", "key_x")
        with pytest.raises(Failure) as refusal:
            of_file.call("GET", "/v1/apps")
        assert "FLEETPUSH_KEY" not in str(refusal.value), "it came from the file all the same"
    with ServerClient.find(script.url, tmp_path) as of_variable:
        monkeypatch.delenv("FLEETPUSH_KEY")
        with pytest.raises(Failure, match=r"\(forbidden\)\. The key is the one in FLEETPUSH_KEY"):
            of_variable.call("GET", "/v1/apps")


def test_a_key_that_is_not_known_is_named_by_its_source(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.answers = [(401, {"code": "unauthorized", "detail": "this key is not known"})] * 2
    monkeypatch.delenv("FLEETPUSH_KEY", raising=False)
    (tmp_path / "admin.key").write_text("key_x\n")
    of_file = pytest.raises(Failure, match=rf"Is {tmp_path}/admin\.key of this server\?")
    with ServerClient.find(script.url, tmp_path) as client, of_file:
        client.call("GET", "/v1/apps")
    monkeypatch.setenv("FLEETPUSH_KEY", "key_x")
    of_variable = pytest.raises(Failure, match=r"Is FLEETPUSH_KEY of this server\?")
    with ServerClient.find(script.url, tmp_path) as client, of_variable:
        client.call("GET", "/v1/apps")


def test_a_refusal_says_what_to_type_rather_than_what_to_call(script: Script) -> None:
    texts = {
        "no device 'x' in this app; enrol it with POST /v1/devices": "enrol it with `fleetpush devices add ID`",
        "this key lacks the scope 'send'; make one with POST /v1/keys": "with `fleetpush keys add NAME --scope SCOPE`",
        "rotate its token with POST /v1/devices/ID/token, or": "with `fleetpush devices rotate ID`, or",
        "as in POST /v1/devices/bulk": "as in POST /v1/devices/bulk",
    }
    with ServerClient(script.url, "key_x") as client:
        for detail, typed in texts.items():
            script.answers = [(404, {"code": "c", "detail": detail})]
            with pytest.raises(Failure) as refusal:
                client.call("GET", "/v1/devices")
            assert f"{typed} (c)" in str(refusal.value)


def test_the_place_of_a_mistake_is_shown_below(script: Script) -> None:
    detail = "line 1, column 8: there is no 'tgas'\n  'a' in tgas\n         ^^^^"
    script.answers = [(422, {"code": "invalid_expression", "detail": detail})]
    with ServerClient(script.url, "key_x") as client, pytest.raises(Failure) as refusal:
        client.call("POST", "/v1/pushes")
    lines = str(refusal.value).splitlines()
    assert lines[0].endswith("there is no 'tgas' (invalid_expression)")
    assert lines[1:] == ["  'a' in tgas", "         ^^^^"]


def test_pages_are_followed_up_to_the_limit(script: Script) -> None:
    script.answers = [
        (200, {"items": [{"n": 1}, {"n": 2}], "next_cursor": "c"}),
        (200, {"items": [{"n": 3}], "next_cursor": None}),
    ]
    with ServerClient(script.url, "key_x") as client:
        assert [item["n"] for item in client.items("/v1/devices", 5)] == [1, 2, 3]
    assert [path for path, _, _ in script.requests] == ["/v1/devices?limit=5", "/v1/devices?limit=3&cursor=c"]


def speak_tls(script: Script, data_dir: Path) -> None:
    """From now on, with the certificate that is there now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(data_dir / "tls" / "server.pem", data_dir / "tls" / "server.key")
    script.http.socket = context.wrap_socket(script.http.socket, server_side=True)
    facts = {"url": script.url.replace("http:", "https:"), "pid": 4711}
    (data_dir / "server.json").write_text(json.dumps(facts | {"certificate": str(data_dir / "tls" / "server.pem")}))
    (data_dir / "admin.key").write_text("key_admin\n")


def test_what_the_fleets_ca_signed_is_trusted_until_a_renewal_is_read(script: Script, tmp_path: Path) -> None:
    make_certificate = partial(initialize, tmp_path, ["push.example"], 825, datetime.now(UTC), host="vm")
    make_certificate()
    speak_tls(script, tmp_path)

    def doctor_says() -> list[tuple[str, str, str]]:
        findings = check_server(SetUp(tmp_path, "127.0.0.1", 0, 0))
        return [(found.level, found.subject, found.remedy) for found in findings if found.level != "ok"]

    script.answers = [(200, {"items": [], "next_cursor": None})] * 7
    assert doctor_says() == []
    make_certificate()
    with ServerClient.find(None, tmp_path) as client:
        client.call("GET", "/v1/devices")
    assert doctor_says() == [("warn", "certificate", "kill -HUP 4711")]
    make_certificate(new_ca=True)
    with ServerClient.find(None, tmp_path) as client, pytest.raises(Failure, match="tell it: kill -HUP 4711"):
        client.call("GET", "/v1/devices")
    assert doctor_says() == [("fail", "server", "tell it: kill -HUP 4711")]
    assert script.answers == [], "nobody sent it a key"


def test_what_a_device_of_the_fleet_shows_is_no_server(script: Script, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    initialize(tmp_path, ["push.example"], 825, now, host="vm")
    facts, key = make_device(tmp_path, "kiosk-1", "g", 825, now)
    certificate = tmp_path / "tls" / "server.pem"
    kept = certificate.read_bytes()
    shutil.copy(facts.path, certificate)
    shutil.copy(key, certificate.with_suffix(".key"))
    speak_tls(script, tmp_path)
    certificate.write_bytes(kept)
    with ServerClient.find(None, tmp_path) as client, pytest.raises(Failure, match="is not trusted"):
        client.call("GET", "/v1/devices")


@pytest.mark.parametrize("url", ["nonsense", "push.example:8080", "ftp://push.example"])
def test_an_address_that_is_none_is_wrong_use(url: str) -> None:
    with ServerClient(url, "key_x") as client, pytest.raises(Failure, match="write it as http://HOST:PORT") as failure:
        client.call("GET", "/v1/devices")
    assert failure.value.exit_code == 2


def test_nobody_answers(tmp_path: Path) -> None:
    with ServerClient("http://127.0.0.1:9", "key_x") as client, pytest.raises(Failure, match=r"127\.0\.0\.1:9"):
        client.call("GET", "/v1/devices")


def test_the_other_scheme_is_named(script: Script, tmp_path: Path) -> None:
    with ServerClient(script.url.replace("http:", "https:"), "key_x") as client, pytest.raises(Failure) as failure:
        client.call("GET", "/v1/devices")
    assert str(failure.value).endswith("It speaks no TLS: write its address as http://HOST:PORT.")
    initialize(tmp_path, ["127.0.0.1"], 825, datetime.now(UTC), host="vm")
    speak_tls(script, tmp_path)
    with ServerClient(script.url.replace("https:", "http:"), "key_x") as client, pytest.raises(Failure) as failure:
        client.call("GET", "/v1/devices")
    assert "If it speaks TLS, write its address as https://HOST:PORT" in str(failure.value)
    assert ".." not in str(failure.value)
