"""What a device does with a code: whom it shows it to, what it keeps, and what it tells when it gets nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from client_sim import enrolment
from client_sim.async_device import AsyncDevice
from client_sim.credential import Credential
from client_sim.device import Device
from client_sim.enrolment import CodeAddress, enrol
from client_sim.errors import EnrolmentFailed
from tests.certificates import Authority

CODE = "K7QF-2M9T-4XWA-0HZP"
FINGERPRINT = "f" * 43
CREDENTIAL = {
    "device_id": "kiosk-1",
    "token": "dev_1",
    "mqtt": {
        "host": "0.0.0.0",
        "port": 1883,
        "tls": False,
        "websocket": "ws://127.0.0.1:8080/mqtt",
        "topics": {"push": "shop/devices/kiosk-1/push"},
    },
}
Answer = tuple[int, Any, dict[str, str]]


class OtherEnd:
    """A server that answers what the test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: list[Answer] = []
        self.ca = ""
        other_end = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                other_end.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                answers = other_end.answers
                self._answer(*(answers.pop(0) if len(answers) > 1 else answers[0]))

            def do_GET(self) -> None:
                assert self.path == "/v1/enrol/ca"
                self._answer(200 if other_end.ca else 404, other_end.ca, {})

            def _answer(self, status: int, content: Any, headers: dict[str, str]) -> None:
                body = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.answers = [(201, CREDENTIAL, {})]
        self.scheme = "http"

    def speak_tls(self, pair: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.scheme = "https"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def other_end() -> Iterator[OtherEnd]:
    found = OtherEnd()
    found.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # who does not trust it hangs up
    thread = threading.Thread(target=found.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.http.shutdown()
    found.http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "FIRST_PAUSE_SECONDS", 0.001)


def refusal(status: int, code: str, **headers: str) -> Answer:
    return status, {"code": code, "detail": f"it is {code}"}, headers


def test_what_a_label_says() -> None:
    assert CodeAddress.parse(f"https://push.example:8080/enrol#{CODE}.{FINGERPRINT}\n") == (
        "https://push.example:8080", CODE, FINGERPRINT,
    )  # fmt: skip
    assert CodeAddress.parse(f"http://[::1]:8080/enrol#{CODE}").fingerprint is None
    assert CodeAddress.parse(f"https://a/enrol#{CODE}.{FINGERPRINT}", "https://b/").server == "https://b"
    assert CodeAddress.parse(CODE, "https://b/") == ("https://b", CODE, None)
    for text, server in ((CODE, None), ("https://a/enrol", None), ("ftp://a/enrol#x", None), (CODE, "push.example")):
        with pytest.raises(ValueError, match=r"address|needs"):
            CodeAddress.parse(text, server)


def test_a_credential_is_kept_for_its_owner_and_is_enough_for_ever(other_end: OtherEnd, tmp_path: Path) -> None:
    path = tmp_path / "new" / "kiosk.json"
    found = enrol(CODE, path, server=other_end.url, about={"name": "Till"})
    assert (found.device_id, found.app, found.host, found.tls) == ("kiosk-1", "shop", "127.0.0.1", False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["kiosk.json"], "nothing is left of the attempt"
    assert other_end.asked[0]["name"] == "Till"
    assert enrol(None, path) == enrol("another code", path) == found
    assert len(other_end.asked) == 1
    device = Device.enrol(None, path, journal=tmp_path / "kiosk.db")
    assert device.device_id == "kiosk-1"
    device.close()


async def test_the_asyncio_device_enrols_as_well(other_end: OtherEnd, tmp_path: Path) -> None:
    device = await AsyncDevice.enrol(CODE, tmp_path / "kiosk.json", server=other_end.url, about={"device_id": "x"})
    assert device.device_id == "kiosk-1"
    assert other_end.asked[0]["device_id"] == "x"
    await device.close()


def test_who_died_before_it_had_the_answer_shows_the_same_nonce(
    other_end: OtherEnd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Credential, path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Credential, "save", die)
        with pytest.raises(KeyboardInterrupt):
            enrol(CODE, tmp_path / "kiosk.json", server=other_end.url)
    assert CODE not in (tmp_path / "kiosk.json.enrolling").read_text()
    enrol(CODE, tmp_path / "kiosk.json", server=other_end.url)
    first, second = [asked["nonce"] for asked in other_end.asked]
    assert first == second
    assert len(first) == 43


def test_another_code_is_another_attempt(other_end: OtherEnd, tmp_path: Path) -> None:
    other_end.answers = [refusal(404, "code_unknown")]
    for code in (CODE, "0000-0000-0000-0000"):
        with pytest.raises(EnrolmentFailed):
            enrol(code, tmp_path / "kiosk.json", server=other_end.url)
    assert len({asked["nonce"] for asked in other_end.asked}) == 2


def test_a_busy_server_is_asked_again(other_end: OtherEnd, tmp_path: Path) -> None:
    busy = refusal(429, "too_many_attempts", **{"Retry-After": "0"})
    other_end.answers = [busy, (502, "Bad Gateway", {}), (201, CREDENTIAL, {})]
    assert enrol(CODE, tmp_path / "kiosk.json", server=other_end.url).token == "dev_1"
    assert len({asked["nonce"] for asked in other_end.asked}) == 1
    other_end.answers = [busy]
    with pytest.raises(EnrolmentFailed, match="6 times"):
        enrol(CODE, tmp_path / "other.json", server=other_end.url)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refusal(409, "code_used"), "refuses: it is code_used"),
        ((404, "<html>", {}), "it answers 404"),
        ((200, "<html>", {}), "not as Fleetpush does"),
        ((201, {"token": "x"}, {}), "not with a credential"),
    ],
)
def test_what_is_no_credential_is_said_and_not_kept(
    other_end: OtherEnd, tmp_path: Path, answer: Answer, says: str
) -> None:
    other_end.answers = [answer]
    with pytest.raises(EnrolmentFailed, match=says) as raised:
        enrol(CODE, tmp_path / "kiosk.json", server=other_end.url)
    assert raised.value.code == ("code_used" if "code_used" in says else "")
    assert not (tmp_path / "kiosk.json").exists()


def test_without_a_code_and_a_credential_there_is_no_device(tmp_path: Path) -> None:
    with pytest.raises(EnrolmentFailed, match="needs a code"):
        enrol(None, tmp_path / "kiosk.json")
    (tmp_path / "kiosk.json").write_text("{}")
    with pytest.raises(EnrolmentFailed, match="cannot be used"):
        enrol(CODE, tmp_path / "kiosk.json", server="http://127.0.0.1:1")


def fingerprint_of(certificate: Path) -> str:
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")


def test_a_private_ca_is_trusted_by_its_fingerprint_and_nothing_else_is(other_end: OtherEnd, tmp_path: Path) -> None:
    ours, theirs = Authority.in_folder(tmp_path / "ours"), Authority.in_folder(tmp_path / "theirs")
    other_end.speak_tls(ours.issue("server", "127.0.0.1"))
    other_end.ca = ours.certificate.read_text()
    label = f"{other_end.url}/enrol#{CODE}.{fingerprint_of(ours.certificate)}"
    found = enrol(label, tmp_path / "kiosk.json")
    assert found.ca == ours.certificate.read_text()
    assert len(other_end.asked) == 1

    def refused(text: str, says: str) -> None:
        with pytest.raises(EnrolmentFailed, match=says):
            enrol(text, tmp_path / "other.json")
        assert len(other_end.asked) == 1, "nobody was shown the code"

    refused(f"{other_end.url}/enrol#{CODE}.{fingerprint_of(theirs.certificate)}", "another CA than the label names")
    refused(f"{other_end.url}/enrol#{CODE}", "is not trusted")
    other_end.ca = theirs.certificate.read_text()  # who is in between shows a CA of its own
    refused(label, "another CA than the label names")
    other_end.ca = ""
    refused(label, "does not show its CA")
    other_end.ca = "x" * 100_000
    refused(label, "more than")


def test_who_shows_the_right_ca_and_has_no_certificate_of_it_gets_no_code(other_end: OtherEnd, tmp_path: Path) -> None:
    ours, theirs = Authority.in_folder(tmp_path / "ours"), Authority.in_folder(tmp_path / "theirs")
    other_end.speak_tls(theirs.issue("server", "127.0.0.1"))
    other_end.ca = ours.certificate.read_text()
    with pytest.raises(EnrolmentFailed, match="is not trusted"):
        enrol(f"{other_end.url}/enrol#{CODE}.{fingerprint_of(ours.certificate)}", tmp_path / "kiosk.json")
    assert other_end.asked == []
