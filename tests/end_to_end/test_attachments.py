"""A picture on its way: uploaded by a sender, fetched by the device, through kills, backups and busy servers."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import ssl
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from client_sim.async_device import AsyncDevice
from client_sim.attachments import LONGEST_WAIT_SECONDS, Fetcher, seconds_asked
from client_sim.device import Device
from client_sim.errors import FetchFailed
from client_sim.push import Push
from tests.end_to_end.conftest import Name, StartServer
from tests.end_to_end.harness import Api, Server, fleetpush

PICTURE = bytes(range(256)) * 2_000
ID = hashlib.sha256(PICTURE).hexdigest()


def pushed(server: Server, device_id: str, **options: Any) -> tuple[Device, queue.SimpleQueue[Push]]:
    found: queue.SimpleQueue[Push] = queue.SimpleQueue()
    enrolled = server.api.enrol(device_id)
    return Device(enrolled.id, enrolled.token, port=server.mqtt_port, on_push=found.put, **options), found


def upload(api: Api, content: bytes = PICTURE) -> dict[str, Any]:
    headers = {"Content-Type": "image/png"}
    answer = api.request("POST", "/v1/attachments", content=content, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


def test_a_file_from_the_command_line_to_a_device(server: Server, api: Api, name: Name, tmp_path: Path) -> None:
    picture = tmp_path / "menu.png"
    picture.write_bytes(PICTURE)
    device, found = pushed(server, name())
    environment = {"FLEETPUSH_URL": server.url, "FLEETPUSH_KEY": server.admin_key}
    with device:
        command = ("push", device.device_id, "Menu", "--image", str(picture), "--attach", str(picture))
        result = fleetpush(*command, env=environment)
        assert result.returncode == 0, result.stderr
        push = found.get(timeout=15)
        assert push.notification["image"] == f"{server.url}/v1/attachments/{ID}"
        assert push.notification["attachment"]["name"] == "menu.png"
        assert push.notification["attachment"]["content_type"] == "image/png"
        assert device.fetch(push, push.notification["image"]) == PICTURE
    missing = fleetpush("push", device.device_id, "Menu", "--image", "nowhere.png", env=environment)
    assert missing.returncode == 2
    assert "no file that can be read" in missing.stderr


async def test_on_asyncio(server: Server, api: Api, name: Name) -> None:
    enrolled = await asyncio.to_thread(api.enrol, name())
    made = await asyncio.to_thread(upload, api)
    found: asyncio.Queue[Push] = asyncio.Queue()
    async with AsyncDevice(enrolled.id, enrolled.token, port=server.mqtt_port, on_push=found.put) as device:
        notification = {"title": "Menu", "image": f"attachment:{made['id']}"}
        await asyncio.to_thread(lambda: api.push(enrolled.id, notification=notification))
        push = await asyncio.wait_for(found.get(), 15)
        assert await device.fetch(push, push.notification["image"]) == PICTURE


@pytest.mark.sqlite("backup and restore")
def test_what_was_answered_survives_a_kill_and_a_backup(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    made = upload(server.api)
    server.kill9()
    server.start()
    assert server.api.request("GET", f"/v1/attachments/{ID}").content == PICTURE
    archive = tmp_path / "fleet.tar"
    taken = fleetpush("backup", str(archive), "--data-dir", str(server.data_dir))
    assert taken.returncode == 0, taken.stderr
    server.api.call("DELETE", f"/v1/attachments/{ID}", 204)
    server.stop()
    restored = tmp_path / "restored"
    result = fleetpush("restore", str(archive), "--data-dir", str(restored))
    assert result.returncode == 0, result.stderr
    again = start_server(data_dir=restored)
    assert again.api.request("GET", f"/v1/attachments/{made['id']}").content == PICTURE


class Answering:
    """An HTTP server that answers in turn, the last for ever, and remembers what it was shown."""

    def __init__(self, *answers: tuple[int, dict[str, str], bytes]) -> None:
        self.credentials: list[str | None] = []
        answering = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answering.credentials.append(self.headers["Authorization"])
                status, headers, body = answers[min(len(answering.credentials), len(answers)) - 1]
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


OK: tuple[int, dict[str, str], bytes] = (200, {}, PICTURE)


def fetch(
    server: Answering,
    path: str = f"/v1/attachments/{ID}",
    told: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    """From a server that is the device's own, unless the push has been told another, or none (empty)."""
    told = server.origin if told is None else told
    push = Push("p", "alert", {"fetch_from": told} if told else {}, 0)
    try:
        fetcher = Fetcher("kiosk-1", "dev_secret", tls, lambda: 0.001)
        return fetcher.fetch(push, server.origin + path, threading.Event())
    finally:
        server.close()


def test_a_busy_server_is_asked_again() -> None:
    server = Answering((503, {"Retry-After": "0"}, b""), (429, {}, b""), OK)
    assert fetch(server) == PICTURE
    assert len(server.credentials) == 3


def test_the_token_goes_to_our_own_server_only() -> None:
    own = Answering(OK)
    assert fetch(own) == PICTURE
    assert own.credentials[0] is not None
    assert own.credentials[0].startswith("Basic ")
    kept = f"/v1/attachments/{ID}"
    for path, told in (("/poster.png", None), (kept + "?x", None), (kept, "http://127.0.0.1:9"), (kept, "")):
        other = Answering(OK)
        assert fetch(other, path, told) == PICTURE
        assert other.credentials == [None], "the same host is not enough"


def test_a_device_with_tls_sends_its_token_nowhere_in_the_clear() -> None:
    own = Answering(OK)
    with pytest.raises(FetchFailed, match="public_url"):
        fetch(own, tls=ssl.create_default_context())
    assert own.credentials == []
    other = Answering(OK)
    assert fetch(other, "/poster.png", tls=ssl.create_default_context()) == PICTURE
    assert other.credentials == [None]


def test_a_redirect_does_not_take_the_token_along() -> None:
    elsewhere = Answering(OK)
    own = Answering((302, {"Location": elsewhere.origin + "/x"}, b""))
    with pytest.raises(FetchFailed, match="answered 302"):
        fetch(own)
    assert elsewhere.credentials == []
    elsewhere.close()


def test_what_was_changed_on_its_way_is_not_taken() -> None:
    with pytest.raises(FetchFailed, match="not what its name says"):
        fetch(Answering((200, {}, PICTURE[:-1])))


def test_what_is_not_there_is_not_asked_for_again() -> None:
    server = Answering((404, {}, b""))
    with pytest.raises(FetchFailed, match="answered 404"):
        fetch(server)
    assert len(server.credentials) == 1


def test_what_is_no_address_is_not_fetched() -> None:
    fetcher = Fetcher("kiosk-1", "dev_secret", None)
    for url in ("file:///etc/passwd", "attachment:x", "", "http://[::1"):
        with pytest.raises(FetchFailed):
            fetcher.fetch(Push("p", "alert", {}, 0), url, threading.Event())


def test_a_device_waits_for_its_moment_and_not_after_its_end() -> None:
    """Drawn from `fetch_within`; a device that closes fetches nothing more."""
    waited: list[float] = []

    class Clocked(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            return True

    push = Push("p", "alert", {"fetch_within": 60}, 0)
    with pytest.raises(FetchFailed, match="closing"):
        Fetcher("kiosk-1", "t", None, lambda: 0.5).fetch(push, "http://127.0.0.1:9/", Clocked())
    assert 29 < waited[0] <= 30


def test_a_server_may_say_when_to_come_again_with_a_date() -> None:
    """RFC 9110, 10.2.3."""
    now = datetime(2026, 12, 1, 8, 30, tzinfo=UTC)
    for header, seconds in (
        ("120", 120),
        ("Tue, 01 Dec 2026 08:31:00 GMT", 60),
        ("Tue, 01 Dec 2026 08:31:00 -0000", 60),
        ("Tue, 01 Dec 2026 07:31:00 GMT", 0),
        ("9" * 400, LONGEST_WAIT_SECONDS),
        ("Tue, 01 Dec 2099 08:31:00 GMT", LONGEST_WAIT_SECONDS),
        ("soon", 0),
        (None, 0),
    ):
        assert seconds_asked(header, now) == seconds
