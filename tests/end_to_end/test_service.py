"""The server under a service manager: readiness, reload, watchdog, and sockets that outlive a restart."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.disk_faults import DiskFaults
from tests.end_to_end.harness import Api, Server, StartFailed, wait_for
from tests.end_to_end.wire_device import WireDevice
from tests.service_manager import NotifySocket

WATCHDOG_SECONDS = 1.5


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told_of_a_whole_life(tmp_path: Path, abstract: bool) -> None:
    with NotifySocket(tmp_path, abstract=abstract) as manager:
        with Server(tmp_path / "data", env={"NOTIFY_SOCKET": manager.address}) as server:
            ready = manager.wait(lambda said: "READY" in said)
            assert ready["STATUS"] == "serving 0 connections"
            server.signal(signal.SIGHUP)
            assert manager.wait(lambda said: "RELOADING" in said)["MONOTONIC_USEC"].isdigit()
            assert manager.wait(lambda said: "READY" in said) == {"READY": "1"}
            assert server.stop() == 0
            ending = manager.wait(lambda said: "STOPPING" in said)
            assert ending["STATUS"].startswith("ending: answering")
        assert not any("WATCHDOG" in said for said in manager.told[1:-1]), "nobody waits for it"


def test_a_loop_that_stands_still_sends_no_pings(tmp_path: Path) -> None:
    environment = {"WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1_000_000))}
    with NotifySocket(tmp_path) as manager:
        environment["NOTIFY_SOCKET"] = manager.address
        with Server(tmp_path / "data", env=environment) as server:
            for _ in range(3):
                said = manager.receive(WATCHDOG_SECONDS)
                assert said is not None, "a ping in time"
            assert said == {"WATCHDOG": "1", "STATUS": "serving 0 connections"}
            server.signal(signal.SIGSTOP)
            wait_for(lambda: manager.receive(0) is None, what="what was on its way")
            assert manager.receive(WATCHDOG_SECONDS) is None
            server.signal(signal.SIGCONT)
            manager.wait(lambda said: "WATCHDOG" in said)  # a probe of before may look as old as the stop first


@pytest.mark.sqlite("the disk of its file")
@pytest.mark.full_only  # a start without a warm process; `test_watchdog` has the writers of one process
def test_a_writer_that_hangs_in_the_disk_is_named_and_no_ping_is_sent(tmp_path: Path) -> None:
    """The loop runs meanwhile, and HTTP answers."""
    faults = DiskFaults(tmp_path, tmp_path / "data")
    with NotifySocket(tmp_path) as manager:
        environment = {"WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1_000_000)), "NOTIFY_SOCKET": manager.address}
        with Server(tmp_path / "data", env=environment | faults.env) as server, ThreadPoolExecutor(1) as pool:
            manager.wait(lambda said: "WATCHDOG" in said)
            faults.delay_syncs(5_000, "fleetpush.db")
            enrolling = pool.submit(server.api.enrol, "kiosk-1")
            found = manager.wait(lambda said: "operation" in said["STATUS"])
            assert re.match(r"the writer of the ledger has been at one operation for \d s", found["STATUS"])
            assert "WATCHDOG" not in found
            server.wait_log("no sign of life: the writer of the ledger")
            other = Api(server.url, None)
            assert other.request("GET", "/healthz").status_code == 200
            other.close()
            faults.mend()
            manager.wait(lambda said: "WATCHDOG" in said)
            assert enrolling.result(15).id == "kiosk-1"


class Listeners:
    """Two sockets that a service manager keeps."""

    def __init__(self) -> None:
        self.http, self.mqtt = self._open(), self._open()

    def _open(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", 0))
        made.listen(4_096)
        return made

    def close(self) -> None:
        self.http.close()
        self.mqtt.close()


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    made = Listeners()
    yield made
    made.close()


class Callers:
    """Connects to a port again and again, and sends a request if it is one of HTTP."""

    def __init__(self, port: int, request: bytes, is_answer: Callable[[bytes], bool]) -> None:
        self.refused: list[OSError] = []
        self.connected = 0
        self.answered = 0
        self._port = port
        self._request = request
        self._is_answer = is_answer
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._call)

    def __enter__(self) -> Callers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _call(self) -> None:
        """A new connection every 10 ms, at most some hundred open: they wait while no server is there."""
        waiting: list[socket.socket] = []
        while not self._ended.wait(0.01):
            try:
                made = socket.create_connection(("127.0.0.1", self._port), 15)
            except OSError as error:
                self.refused.append(error)
                continue
            self.connected += 1
            made.sendall(self._request)
            made.setblocking(False)
            waiting.append(made)
            waiting = [each for each in waiting if not self._is_over(each)]
        for each in waiting:
            each.close()

    def _is_over(self, made: socket.socket) -> bool:
        try:
            said = made.recv(4_096)
        except BlockingIOError:
            return False
        except OSError:
            said = b""
        self.answered += self._is_answer(said)
        made.close()
        return True


@pytest.mark.parametrize("secure", [False, pytest.param(True, marks=pytest.mark.full_only)])
def test_no_connect_is_refused_while_the_server_starts_again(
    tmp_path: Path, listeners: Listeners, secure: bool
) -> None:
    options: tuple[str, ...] = ()
    ca = None
    if secure:
        authority = Authority(tmp_path)
        pair = authority.issue("server", "localhost", "127.0.0.1")
        options, ca = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)), authority.certificate
    server = Server(tmp_path / "data", *options, ca=ca, sockets={"mqtt": listeners.mqtt, "http": listeners.http})
    with server:
        assert (server.http_port, server.mqtt_port) == (port(listeners.http), port(listeners.mqtt))
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connect = bytes.fromhex("10 11 0004 4d515454 04 02 003c 0005 68656c6c6f")
        with (
            Callers(server.http_port, request, lambda said: said.startswith(b"HTTP/1.1 200")) as http,
            Callers(server.mqtt_port, connect, lambda said: said.startswith(b"\x20\x02")) as mqtt,
        ):
            for end in (server.stop, server.kill9):
                end()
                wait_for_more((http, mqtt), "connected")
                server.start()
                if not secure:  # they speak no TLS
                    wait_for_more((http, mqtt), "answered")
        assert http.refused == mqtt.refused == []
        assert server.api.request("GET", "/readyz").status_code == 200


def wait_for_more(callers: tuple[Callers, ...], counter: str) -> None:
    before = [getattr(each, counter) for each in callers]
    wait_for(
        lambda: all(getattr(each, counter) > was for each, was in zip(callers, before, strict=True)),
        what=f"more that are {counter}",
    )


def port(of: socket.socket) -> int:
    return int(of.getsockname()[1])


def test_further_addresses_are_found_by_address_and_files_stay(tmp_path: Path, listeners: Listeners) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as unix:
        unix.bind(str(path))
        unix.listen()
        further = f"ws://127.0.0.1:{port(listeners.mqtt)}"
        sockets = {"fleetpush.socket": listeners.mqtt, "unknown": unix}
        with Server(tmp_path / "data", "--listen", further, "--listen", f"unix:{path}", sockets=sockets) as server:
            assert server.listening == [f"127.0.0.1:{port(listeners.mqtt)}", str(path)]
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as device:
                device.settimeout(15)
                device.connect(str(path))
                device.sendall(bytes.fromhex("10 0d 0004 4d515454 04 02 003c 0001 61"))
                assert device.recv(4) == bytes.fromhex("20 02 00 04"), "no credentials"
            assert server.stop() == 0
        assert path.exists(), "it is not ours"


def test_a_socket_that_fits_nothing_keeps_the_server_from_starting(tmp_path: Path, listeners: Listeners) -> None:
    with pytest.raises(StartFailed) as failed:
        Server(tmp_path / "data", sockets={"fleetpush.socket": listeners.http}).start()
    assert failed.value.exit_code == 2
    (line,) = failed.value.output.splitlines()
    assert f"a socket at 127.0.0.1:{port(listeners.http)} (named 'fleetpush.socket')" in line
    assert "ListenStream=" in line


def test_a_socket_for_everybody_needs_tls(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as everybody:
        with pytest.raises(StartFailed) as failed:
            Server(tmp_path / "data", sockets={"http": everybody}).start()
        assert "in the clear" in failed.value.output
        assert "tls init" in failed.value.output


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_journal_gets_a_line_with_its_priority_for_each_record(tmp_path: Path, form: str) -> None:
    errors = tmp_path / "data.stderr"
    errors.touch()
    environment = {"JOURNAL_STREAM": f"{errors.stat().st_dev}:{errors.stat().st_ino}"}
    with Server(tmp_path / "data", "--log-format", form, env=environment) as server:
        server.api.request("GET", "/v1/devices", headers={"Authorization": "Bearer wrong"})
        assert server.stop() == 0
        # The PostgreSQL of a run is not durable, which is told first.
        lines = [line for line in errors.read_text().splitlines() if "has fsync = off" not in line]
        before = len(errors.read_text().splitlines())
        with pytest.raises(StartFailed):
            Server(tmp_path / "data", "--log-format", form, "--bind", "192.0.2.1", env=environment).start()
        refusal = errors.read_text().splitlines()[before:]
    assert re.match(r"<3>(fleetpush: |\{.*\"fleetpush: )", refusal[0])
    assert len(refusal) == 1
    assert len(lines) >= 3
    assert all(line.startswith("<6>") for line in lines), lines
    assert not any(re.match(r"<6>\d{4}-", line) for line in lines), "the journal knows the time"
    if form == "json":
        said = [json.loads(line[3:]) for line in lines]
        assert all({"time", "level", "logger", "message"} <= set(each) for each in said)
        assert any(each.get("peer") == "127.0.0.1" for each in said)
        assert said[0]["message"].startswith("fleetpush: first start")


def test_a_log_in_json_is_objects_alone(tmp_path: Path) -> None:
    with Server(tmp_path / "data", env={"FLEETPUSH_LOG_FORMAT": "json"}) as server:
        device = server.api.enrol("kiosk-1")
        wire = WireDevice(server.mqtt_port, device.client_id, device.token, topic=device.topics["push"])
        wire.connect()
        server.wait_log("connected from")
        wire.drop()
        server.wait_log("disconnected after")
        assert server.stop() == 0
        said = [json.loads(line) for line in server.errors.splitlines()]
    about = [each for each in said if each.get("device") == "kiosk-1"]
    assert [(each["app"], each["level"]) for each in about] == [("default", "info")] * 2
