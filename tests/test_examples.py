"""The programs in `examples/` do what they say, against a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import httpx2
import pytest
from standardwebhooks import Webhook

from tests.end_to_end.harness import Server, clean_environment, fleetpush, wait_for
from tests.third_party import require

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


class Program:
    """An example that runs until it is told to end; `output` is what it has printed."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=clean_environment(**environment),
                stdin=subprocess.PIPE,
                stdout=output,
                start_new_session=True,  # its own group: a shell has children
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None, "a pipe was asked for"
        self._process.stdin.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(10)

    @property
    def output(self) -> str:
        return self._output.read_text()

    def type(self, line: str) -> None:
        assert self._process.stdin is not None, "a pipe was asked for"
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def end(self) -> int:
        """End its input, and wait for its end; the exit code."""
        assert self._process.stdin is not None, "a pipe was asked for"
        self._process.stdin.close()
        return self._process.wait(10)

    def wait_output(self, text: str) -> None:
        wait_for(lambda: text in self.output, what=f"the program to print {text!r}")


def python(name: str) -> tuple[str, str]:
    return sys.executable, str(EXAMPLES / name)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {"FLEETPUSH_WEBHOOK_NETWORKS": "127.0.0.0/8"}
    with Server(tmp_path_factory.mktemp("examples") / "data", env=environment) as server:
        yield server


def test_the_kiosk_shows_has_a_button_and_obeys(server: Server, tmp_path: Path) -> None:
    enrolled = server.api.call("POST", "/v1/devices", 201, json={"device_id": "kiosk-1"})
    (tmp_path / "kiosk-1.json").write_text(json.dumps(enrolled))
    notification = {"title": "Fresh bread", "body": "From 4 p.m.", "actions": [{"id": "play", "title": "Play"}]}
    push_id = server.api.push("kiosk-1", notification=notification)
    with Program(tmp_path, *python("kiosk.py"), "kiosk-1.json") as kiosk:
        kiosk.wait_output("Fresh bread")
        server.api.wait_counts(push_id, displayed=1)
        kiosk.type("play")
        server.api.wait_counts(push_id, acted=1)
        command = server.api.push("kiosk-1", kind="command", data={"command": "volume", "percent": 140})
        server.api.wait_counts(command, acted=1)
        silent = server.api.push("kiosk-1", kind="silent", data={"prices": [1, 2]})
        server.api.wait_counts(silent, delivered=1)
        assert kiosk.end() == 0
    assert server.api.delivery(push_id)["result"] == {"state": "playing"}
    assert server.api.delivery(command)["result"] == {"percent": 100}
    assert server.api.device("kiosk-1")["attributes"] == {"program": "kiosk.py"}
    assert kiosk.output.splitlines() == ["Fresh bread: From 4 p.m.", "{'state': 'playing'}"]


def test_the_shell_device_takes_pushes_and_sends_receipts(server: Server, tmp_path: Path) -> None:
    for program in ("mosquitto_sub", "mosquitto_pub", "stdbuf"):
        require(program)
    device = server.api.enrol("sign-1")
    push_ids = [server.api.push("sign-1", notification={"title": title}) for title in ("One", "Two")]
    script = ("sh", str(EXAMPLES / "shell_device.sh"), device.id, device.token, "127.0.0.1", str(server.mqtt_port))
    with Program(tmp_path, *script) as shell:
        for push_id in push_ids:
            server.api.wait_counts(push_id, displayed=1)
    assert [json.loads(line)["push_id"] for line in shell.output.splitlines()] == push_ids


def test_the_shell_device_and_the_sender_speak_tls_with_a_ca_of_ones_own(tmp_path: Path) -> None:
    require("mosquitto_sub")
    data_dir = tmp_path / "data"
    made = fleetpush("tls", "init", "--data-dir", str(data_dir), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    ca = data_dir / "tls" / "ca.pem"
    with Server(data_dir, ca=ca) as server:
        device = server.api.enrol("sign-1")
        environment = clean_environment(FLEETPUSH_URL=server.url, FLEETPUSH_KEY=server.admin_key)
        command = [*python("sender.py"), device.id, "order-1", "Ready"]
        refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        assert refused.returncode == 1
        assert "SSL_CERT_FILE" in refused.stderr
        script = ("sh", str(EXAMPLES / "shell_device.sh"), device.id, device.token, "localhost", str(server.mqtt_port))
        with Program(tmp_path, *script, CAFILE=str(ca)) as shell:
            trusting = environment | {"SSL_CERT_FILE": str(ca)}
            subprocess.run(command, env=trusting, capture_output=True, check=True, timeout=30)
            shell.wait_output("Ready")


def test_the_sender_sends_once_and_waits_for_the_outcome(server: Server, tmp_path: Path) -> None:
    device = server.api.enrol("kiosk-2")
    environment = clean_environment(FLEETPUSH_URL=server.url, FLEETPUSH_KEY=server.admin_key)
    command = [*python("sender.py"), device.id, "order-4711", "Your order is ready"]

    def run() -> str:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30).stdout

    enrolled = {"device_id": device.id, "token": device.token, "mqtt": device.mqtt}
    (tmp_path / "kiosk-2.json").write_text(json.dumps(enrolled))
    with Program(tmp_path, *python("kiosk.py"), "kiosk-2.json") as kiosk:
        server.api.wait_online(device.id)
        first = run()
        accepted = re.fullmatch(r"accepted as ([\w-]+)\nkiosk-2: (delivered|displayed)\n", first)
        assert accepted, first
        server.api.wait_counts(accepted[1], displayed=1)
        second = run()
    assert second == f"accepted as {accepted[1]}\nkiosk-2: displayed\n", "the same order is the same push"
    assert kiosk.output == "Your order is ready\n"
    refused = subprocess.run([*command[:2], "nobody", "order-1", "Hi"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert json.loads(refused.stderr)["code"] == "device_not_found"


def test_the_webhook_receiver_books_what_the_server_tells_and_nobody_else(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    webhook = server.api.call("POST", "/v1/webhooks", 201, json={"url": url, "types": ["delivery.cancelled"]})
    secret = webhook["secret"]
    server.api.enrol("kiosk-3")
    with Program(tmp_path, *python("webhook_receiver.py"), str(port), WEBHOOK_SECRET=secret) as receiver:
        receiver.wait_output("listening on ")
        push_id = server.api.push("kiosk-3")
        server.api.call("DELETE", f"/v1/pushes/{push_id}", 200)
        receiver.wait_output(push_id)

        def post(body: str, at: datetime, signature: str) -> int:
            stamp = str(int(at.timestamp()))
            headers = {"webhook-id": "one", "webhook-timestamp": stamp, "webhook-signature": signature}
            return httpx2.post(url, content=body, headers=headers, trust_env=False).status_code

        signer, now = Webhook(secret), datetime.now(UTC)
        event = {"id": "9.0", "type": "delivery.cancelled", "timestamp": "2026-12-01T08:30:04.917Z", "data": {}}
        again = json.dumps({"type": "events", "data": {"events": [event, event]}})
        assert post(again, now, "v1,bm9ib2R5") == 401
        long_ago = now - timedelta(hours=1)
        assert post(again, long_ago, signer.sign("one", long_ago, again)) == 401
        assert post(again, now, f"v1,bm9ib2R5 {signer.sign('one', now, again)}") == 204
    lines = receiver.output.splitlines()[1:]
    assert [line.split(" ", 1)[0] for line in lines] == ["delivery.cancelled"] * 2
    assert json.loads(lines[0].split(" ", 1)[1])["push_id"] == push_id
