"""The fleet's own certificates, from `fleetpush tls init` to devices that are not let in any more, over real TLS.

One server for all tests, which leave it as it was. The clients are those that fleets have: mosquitto's, paho, the
command line, and bare sockets where every packet counts.
"""

from __future__ import annotations

import json
import queue
import shlex
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx2
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.certificates import Authority
from tests.end_to_end import mosquitto
from tests.end_to_end.conftest import Name
from tests.end_to_end.harness import Api, Device, Server, database_environment, fleetpush, wait_for
from tests.third_party import Listener, require
from tests.websocket_stream import WebSocketStream, request
from tests.wire import PINGREQ, PINGRESP, RawClient, Stream, connack_4, connect, puback, publish, suback, subscribe

ACCEPTED, REFUSED = connack_4(), connack_4(code=4)
"""3.1.1 calls everything that is wrong with a credential bad user name or password."""
DAYS_LEFT = 'fleetpush_tls_certificate_days_left{certificate="server"}'


class Fleet:
    """A server with certificates of its own CA."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.ca = self.data / "tls" / "ca.pem"
        self.certificate = self.data / "tls" / "server.pem"
        self.key = self.data / "tls" / "server.key"
        self.run("tls", "init", "--name", "localhost")
        self.server = Server(self.data, "--bind", "0.0.0.0", *options, ca=self.ca)

    @property
    def api(self) -> Api:
        return self.server.api

    def run(self, *arguments: str) -> str:
        """A command on the server's machine; what it prints."""
        where = database_environment(self.data)
        done = fleetpush(*arguments, "--data-dir", str(self.data), cwd=self.folder, env=where)
        # The run's PostgreSQL does not sync, of which the doctor says that it fails.
        assert done.returncode == (1 if where and arguments == ("doctor",) else 0), done.stderr
        return done.stdout

    def certify(self, device: Device) -> tuple[Path, Path]:
        """Certificate and key."""
        self.run("tls", "device", device.id)
        folder = self.data / "tls" / "devices"
        return folder / f"{device.id}.pem", folder / f"{device.id}.key"

    def trust(self, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a device has: it trusts the CA, and shows a certificate if it has one."""
        context = ssl.create_default_context(cafile=self.ca)
        if pair is not None:
            context.load_cert_chain(*pair)
        return context

    def dial(self, pair: tuple[Path, Path] | None = None, *, websocket: bool = False, source: str = "") -> RawClient:
        """`source`: an address of one's own, for who looks for a line in the log: about one address it has five a
        minute of a kind."""
        context = self.trust(pair)

        def wrap(connected: socket.socket) -> Stream:
            encrypted = context.wrap_socket(connected, server_hostname="localhost")
            return WebSocketStream(encrypted) if websocket else encrypted

        return RawClient(self.server.http_port if websocket else self.server.mqtt_port, wrap=wrap, source=source)

    def shown(self, pair: tuple[Path, Path] | None = None) -> bytes:
        """The certificate that the server shows now, on both ports."""
        found = set()
        for port in (self.server.mqtt_port, self.server.http_port):
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as connected,
                self.trust(pair).wrap_socket(connected, server_hostname="localhost") as encrypted,
            ):
                found.add(encrypted.getpeercert(binary_form=True))
        (certificate,) = found
        assert certificate is not None, "a server shows one"
        return certificate

    def elsewhere(self, *arguments: str, ca: bool = True) -> Any:
        """A command on another machine."""
        env = {"FLEETPUSH_URL": f"https://localhost:{self.server.http_port}", "FLEETPUSH_KEY": self.server.admin_key}
        env |= {"XDG_DATA_HOME": str(self.folder / "elsewhere")} | ({"FLEETPUSH_CA": str(self.ca)} if ca else {})
        return fleetpush(*arguments, env=env, cwd=self.folder)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("tls"), "--listen", "wss://127.0.0.1:0/mqtt?certificates=ask")
    with fleet.server:
        yield fleet


@pytest.fixture(scope="module")
def kiosk(fleet: Fleet) -> tuple[Device, tuple[Path, Path]]:
    """A device and its certificate."""
    device = fleet.api.enrol("kiosk")
    return device, fleet.certify(device)


class PahoDevice:
    """paho-mqtt in its thread, subscribed."""

    def __init__(
        self,
        fleet: Fleet,
        device: Device,
        pair: tuple[Path, Path] | None = None,
        transport: Literal["tcp", "websockets"] = "tcp",
    ) -> None:
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, device.client_id, transport=transport, reconnect_on_failure=False
        )
        self.client.tls_set_context(fleet.trust(pair))
        if pair is None:
            self.client.username_pw_set(device.client_id, device.token)
        self.client.on_connect = lambda client, *_: client.subscribe(device.topics["push"], qos=1)
        subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = lambda _c, _u, message: self.messages.put(json.loads(message.payload))
        port = fleet.server.mqtt_port
        if transport == "websockets":
            port = fleet.server.http_port if pair is None else int(fleet.server.listening[0].rpartition(":")[2])
        self.client.connect("localhost", port)
        self.client.loop_start()
        assert subscribed.wait(15), "not connected and subscribed"

    def __enter__(self) -> PahoDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()


# -- in with a token, and with a certificate ---------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["token", "certificate"])
def test_mosquitto_gets_pushes_and_sends_receipts(
    fleet: Fleet, name: Name, kiosk: tuple[Device, tuple[Path, Path]], by: str
) -> None:
    device, (certificate, key) = kiosk
    options = ["--cafile", str(fleet.ca)]
    if by == "token":
        device = fleet.api.enrol(name())
    else:
        options += ["--cert", str(certificate), "--key", str(key)]
    with mosquitto.Subscriber(fleet.server.mqtt_port, device, *options, token=by == "token") as subscriber:
        fleet.api.wait_online(device.id)
        push_id = fleet.api.push(device.id, data=1)
        assert subscriber.wait_received(1)[0].push["push_id"] == push_id
        receipt = {"push_id": push_id, "event": "opened"}
        mosquitto.publish(fleet.server.mqtt_port, device, device.topics["receipts"], receipt, *options)
        fleet.api.wait_counts(push_id, opened=1)


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
@pytest.mark.parametrize("by", ["token", "certificate"])
def test_paho_gets_pushes(
    fleet: Fleet,
    name: Name,
    kiosk: tuple[Device, tuple[Path, Path]],
    by: str,
    transport: Literal["tcp", "websockets"],
) -> None:
    device, pair = (fleet.api.enrol(name()), None) if by == "token" else kiosk
    with PahoDevice(fleet, device, pair, transport) as client:
        push_id = fleet.api.push(device.id, data=1)
        assert client.messages.get(timeout=15)["push_id"] == push_id
        fleet.api.wait_counts(push_id, delivered=1)
        connection = fleet.api.call("GET", f"/v1/devices/{device.id}/connection", 200)
        listener = {"tcp": "tls", "websockets": "wss"}[transport]
        assert (connection["listener"], connection["protocol"], connection["keep_alive"]) == (listener, "3.1.1", 60)


def test_a_side_connection_comes_with_the_certificate_of_its_device(
    fleet: Fleet, kiosk: tuple[Device, tuple[Path, Path]]
) -> None:
    device, pair = kiosk
    with fleet.dial(pair) as main, fleet.dial(pair) as side:
        main.enter(connect("kiosk"))
        main.send(subscribe(1, (device.topics["push"], 1)))
        main.expect(suback(1, 1))
        push_id = fleet.api.push("kiosk")
        assert push_id.encode() in main.read()
        side.enter(connect("kiosk:r"))
        receipt = json.dumps({"push_id": push_id, "event": "displayed"}).encode()
        side.send(publish(device.topics["receipts"], receipt, 1, 7))
        side.expect(puback(7))
        fleet.api.wait_counts(push_id, displayed=1)
        main.expect_silence()


def test_what_enrolment_answers_is_enough_to_connect(fleet: Fleet, name: Name) -> None:
    device = fleet.api.enrol(name())
    assert (device.mqtt["tls"], device.mqtt["port"]) == (True, fleet.server.mqtt_port)
    assert device.mqtt["websocket"] == f"wss://127.0.0.1:{fleet.server.http_port}/mqtt"
    credential = connect(device.client_id, username=device.mqtt["username"], password=device.mqtt["password"])
    for websocket in (False, True):
        with fleet.dial(websocket=websocket) as client:
            client.enter(credential)


# -- not in ------------------------------------------------------------------------------------------------------------


def test_a_certificate_is_of_one_device(fleet: Fleet, name: Name, kiosk: tuple[Device, tuple[Path, Path]]) -> None:
    _, pair = kiosk
    other = fleet.api.enrol(name())
    for password in (None, other.token, "wrong"):
        with fleet.dial(pair, source="127.0.0.4") as client:
            client.send(connect(other.id, username=other.id, password=password))
            client.expect(REFUSED)
    fleet.server.wait_log(f"CONNECT of '{other.id}' as '{other.id}' is refused: its certificate is of 'kiosk'")
    with fleet.dial(pair) as client:
        client.send(connect("kiosk", username="kiosk", password="wrong"))
        client.expect(REFUSED)


def test_a_new_token_voids_the_certificate(fleet: Fleet, name: Name) -> None:
    device = fleet.api.enrol(name())
    pair = fleet.certify(device)
    with fleet.dial(pair) as before:
        before.enter(connect(device.id))
        fleet.api.call("POST", f"/v1/devices/{device.id}/token", 200)
        before.expect_end()
    with fleet.dial(pair, source="127.0.0.5") as client:
        client.send(connect(device.id))
        client.expect(REFUSED)
    fleet.server.wait_log(f"CONNECT of '{device.id}' .* belongs to an earlier token")
    with fleet.dial(fleet.certify(device)) as client:
        client.enter(connect(device.id))


def test_the_certificate_of_a_removed_device_is_void_even_if_its_id_comes_back(fleet: Fleet, name: Name) -> None:
    device = fleet.api.enrol(name())
    pair = fleet.certify(device)
    fleet.api.call("DELETE", f"/v1/devices/{device.id}", 204)
    with fleet.dial(pair, source="127.0.0.2") as client:
        client.send(connect(device.id))
        client.expect(REFUSED)
    fleet.server.wait_log(f"CONNECT of '{device.id}' .* no such device is enrolled")
    fleet.api.enrol(device.id)
    with fleet.dial(pair, source="127.0.0.2") as client:
        client.send(connect(device.id))
        client.expect(REFUSED)
    fleet.server.wait_log(f"CONNECT of '{device.id}' .* belongs to an earlier token")


def test_without_token_and_certificate_nobody_comes_in(fleet: Fleet) -> None:
    with fleet.dial(source="127.0.0.3") as client:
        client.send(connect("kiosk"))
        client.expect(REFUSED)
    fleet.server.wait_log("CONNECT of 'kiosk' .* neither a token nor a certificate")


def test_the_port_of_pages_asks_for_no_certificate(fleet: Fleet, kiosk: tuple[Device, tuple[Path, Path]]) -> None:
    """Chromium gives a WebSocket up whose server asks."""
    device, pair = kiosk
    with fleet.dial(pair, websocket=True) as client:
        client.send(connect(device.id))
        client.expect(REFUSED)


def test_who_gives_up_in_the_middle_of_a_handshake_is_in_the_log(fleet: Fleet) -> None:
    """And who hangs up before it has begun is not: health checks do."""
    with socket.create_connection(("127.0.0.1", fleet.server.mqtt_port), timeout=10) as silent:
        quiet = silent.getsockname()[1]
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = fleet.trust().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with socket.create_connection(("127.0.0.1", fleet.server.mqtt_port), timeout=10) as connected:
        connected.sendall(outgoing.read())
        assert connected.recv(1), "the server's part of the handshake"
        port = connected.getsockname()[1]
    fleet.server.wait_log(rf"127\.0\.0\.1:{port}: it gave up in the middle of the TLS handshake")
    assert f"127.0.0.1:{quiet}" not in fleet.server.errors


def test_where_certificates_are_required_devices_need_one_and_senders_do_not(name: Name, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "--client-certificates", "required")
    with fleet.server as server:
        device = fleet.api.enrol(name())
        with pytest.raises((ssl.SSLError, ConnectionError)), fleet.dial() as client:
            client.enter(connect(device.id, username=device.id, password=device.token))
        server.wait_log(r"127\.0\.0\.1:\d+: it has no client certificate")
        upgrade = dict(line.split(": ") for line in request().decode().split("\r\n")[1:] if line)
        assert fleet.api.request("GET", "/mqtt", headers=upgrade).status_code == 403
        server.wait_log("needs a client certificate .websocket_certificate_missing")
        pair = fleet.certify(device)
        for websocket in (False, True):
            with fleet.dial(pair, websocket=websocket) as client:
                client.enter(connect(device.id))
        before = fleet.shown(pair)
        fleet.run("tls", "init")
        server.signal(signal.SIGHUP)
        server.wait_log("certificates read again")
        assert fleet.shown(pair) != before, "both ports show the new one"


def test_a_stranger_s_certificate_ends_in_the_handshake(fleet: Fleet, tmp_path: Path) -> None:
    stranger = Authority(tmp_path).issue("kiosk")
    with pytest.raises((ssl.SSLError, ConnectionError)), fleet.dial((stranger.certificate, stranger.key)) as client:
        client.enter(connect("kiosk"))
    fleet.server.wait_log("its client certificate is refused: ")


def test_whoever_does_not_trust_us_is_named_in_the_log(fleet: Fleet, tmp_path: Path) -> None:
    stranger = Api(fleet.server.url, fleet.server.admin_key, Authority(tmp_path).certificate)
    with pytest.raises(httpx2.ConnectError, match="certificate verify failed"):
        stranger.request("GET", "/healthz")
    stranger.close()
    fleet.server.wait_log(r"127\.0\.0\.1:\d+: it does not trust our certificate's authority")


# -- the command line --------------------------------------------------------------------------------------------------


def test_devices_add_prints_a_line_that_works_as_pasted(fleet: Fleet, name: Name) -> None:
    """Although the server listens on every address."""
    device_id = name()
    printed = fleet.run("devices", "add", device_id)
    line = next(line.strip() for line in printed.splitlines() if line.strip().startswith("mosquitto_sub "))
    assert f"-h localhost -p {fleet.server.mqtt_port} --cafile {fleet.ca} " in line
    heard: queue.Queue[str] = queue.Queue()
    with Listener([require("mosquitto_sub"), *shlex.split(line)[1:]], heard.put):
        fleet.api.wait_online(device_id)
        push_id = fleet.api.push(device_id)
        assert push_id in heard.get(timeout=15)


def test_from_elsewhere_a_command_is_told_whom_to_trust(fleet: Fleet, name: Name) -> None:
    device_id = name()
    added = fleet.elsewhere("devices", "add", device_id)
    assert added.returncode == 0, added.stderr
    assert f"-h localhost -p {fleet.server.mqtt_port} --cafile {fleet.ca} " in added.stdout
    untold = fleet.elsewhere("devices", "list", ca=False)
    assert untold.returncode == 1
    assert "set FLEETPUSH_CA" in untold.stderr
    assert len(untold.stderr.splitlines()) == 1


@pytest.mark.parametrize("here", [True, False], ids=["here", "elsewhere"])
def test_listen_is_a_device_over_tls(fleet: Fleet, name: Name, here: bool) -> None:
    """Also where all that it knows of its server is the address that was dialled."""
    device_id = name()
    said: list[str] = []

    def listen() -> None:
        words = ("listen", device_id, "--count", "1", "--json")
        said.append(fleet.run(*words) if here else fleet.elsewhere(*words).stdout)

    listener = threading.Thread(target=listen)
    listener.start()
    online = '"online":true'
    wait_for(lambda: online in fleet.api.request("GET", f"/v1/devices/{device_id}").text, what="listen to come online")
    push_id = fleet.api.push(device_id, notification={"title": "Hello"})
    listener.join(15)
    assert push_id in said[0]
    fleet.api.wait_counts(push_id, displayed=1)


# -- other certificates while it runs ----------------------------------------------------------------------------------


def test_a_new_certificate_counts_for_new_connections(fleet: Fleet, name: Name) -> None:
    device = fleet.api.enrol(name())
    before = fleet.shown()
    with fleet.dial() as client:
        client.enter(connect(device.id, username=device.id, password=device.token))
        fleet.run("tls", "init")
        assert fleet.shown() == before, "not told yet"
        assert device.id in fleet.run("devices", "list"), "the command line trusts the fleet's CA"
        assert f"kill -HUP {fleet.server.pid}" in fleet.run("doctor")
        fleet.server.signal(signal.SIGHUP)
        fleet.server.wait_log("certificates read again")
        renewed = fleet.shown()
        assert renewed != before
        client.send(PINGREQ)
        client.expect(PINGRESP)
        assert device.id in fleet.run("devices", "list"), "the command line trusts the new one"

        kept = fleet.certificate.read_text()
        fleet.certificate.write_text("broken")
        fleet.server.signal(signal.SIGHUP)
        line = fleet.server.wait_log("the certificates stay as they are")
        assert str(fleet.certificate) in line
        assert " ERROR " in line
        assert fleet.shown() == renewed
        fleet.certificate.write_text(kept)
        client.expect_silence()


def test_the_metrics_tell_of_the_certificate_that_is_shown(fleet: Fleet, tmp_path: Path) -> None:
    """And not of one that was put there without its key."""

    def days_left() -> float:
        text = fleet.api.request("GET", "/metrics").text
        (line,) = (line for line in text.splitlines() if line.startswith(DAYS_LEFT))
        return float(line.split()[-1])

    kept = fleet.certificate.read_text()
    fleet.certificate.write_text(Authority(tmp_path).issue("server", "localhost", days=30).certificate.read_text())
    try:
        fleet.server.signal(signal.SIGHUP)
        fleet.server.wait_log(f"the certificates stay as they are: .*{fleet.key}: this is not the key")
        assert days_left() > 800
    finally:
        fleet.certificate.write_text(kept)


# -- what cannot be served ---------------------------------------------------------------------------------------------


def test_a_caller_that_is_idle_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Over TLS the server would wait for it to say goodbye."""
    own = Fleet(tmp_path)
    with own.server:
        own.api.enrol("kiosk-1")
        began = time.monotonic()
        assert own.server.stop() == 0
        assert time.monotonic() - began < 5
        assert "ERROR" not in own.server.errors


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (["--bind", "0.0.0.0"], "tls init"),
        (["--listen", "http://127.0.0.1:1"], "mqtt://"),
        (["--trusted-proxies", "10.0.0.1/8"], "host bits"),
        (["--ws-origins", "kiosk.example"], "https://kiosk.example"),
        (["--tls-cert", "{ca}", "--tls-key", "{key}"], "name those that belong together"),
    ],
)
def test_what_cannot_be_served_is_one_line_with_the_remedy(
    fleet: Fleet, tmp_path: Path, options: list[str], remedy: str
) -> None:
    given = [option.format(ca=fleet.ca, key=fleet.key) for option in options]
    done = fleetpush("serve", "--mqtt-port", "0", "--http-port", "0", *given, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert remedy in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_ready_line_says_that_it_is_tls(fleet: Fleet) -> None:
    server = fleet.server
    line = next(line for line in server.stdout.splitlines() if line.startswith("fleetpush ready "))
    assert f" https=0.0.0.0:{server.http_port} mqtts=0.0.0.0:{server.mqtt_port}" in line
