"""What benchmarks need besides the server under test: the C programs, built once, Mosquitto as a yardstick, processes
and disks measured from outside."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from tests.benchmarks.figures import median
from tests.benchmarks.transports import TCP_ENDPOINT, Endpoint, Transport, uses_tls
from tests.end_to_end.harness import Device, Server

HERE = Path(__file__).resolve().parent
BULK = 10_000
"""Devices per enrolment request (the contract's maximum)."""
LOSS_SECONDS = 10.0
"""Silence after which what a yardstick has not handed over is taken for lost."""


class CannotRun(Exception):
    """The message is for the person: what is missing, and what to do."""


PARTS = {
    "load_generator": ("load_transport.c", "load_transport.h"),
    "http_load": ("load_transport.c", "load_transport.h"),
}
"""What a program is built from besides NAME.c."""


def program(name: str) -> str:
    """Path of the C program `name`, built from the source beside this file if it has changed since."""
    sources = [HERE / f"{name}.c", *(HERE / part for part in PARTS.get(name, ()))]
    options = ["-O2", *(["-DWITH_TLS", "-lssl", "-lcrypto"] if len(sources) > 1 and has_openssl() else [])]
    contents = b"".join(source.read_bytes() for source in sources) + " ".join(options).encode()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fleetpush-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    binary = folder / f"{name}-{hashlib.sha256(contents).hexdigest()[:16]}"
    if not binary.exists():
        unfinished = binary.with_suffix(f".{os.getpid()}")
        compiled = [str(source) for source in sources if source.suffix == ".c"]
        built = subprocess.run(
            [compiler(), "-o", str(unfinished), *compiled, *options], capture_output=True, text=True, check=False
        )
        if built.returncode:
            raise CannotRun(f"Building {name} failed:\n{built.stderr}")
        unfinished.rename(binary)
    return str(binary)


def compiler() -> str:
    found = shutil.which("cc")
    if found is None:
        raise CannotRun("The benchmarks need a C compiler for their load generator: no `cc` (Debian: apt install gcc).")
    return found


@cache
def has_openssl() -> bool:
    """Whether its headers are there to build the load generator with."""
    look = [compiler(), "-E", "-include", "openssl/ssl.h", "-x", "c", os.devnull]
    return subprocess.run(look, capture_output=True, check=False).returncode == 0


def without_the_impossible(transports: Iterable[Transport]) -> list[Transport]:
    """Those that the load generator can be built for; of the others it is said that they are left out."""
    wanted = list(transports)
    possible = [transport for transport in wanted if not uses_tls(transport) or has_openssl()]
    if possible != wanted:
        missing = "OpenSSL's headers are not here (Debian: apt install libssl-dev)"
        print(f"Left out, because {missing}: {', '.join(sorted({*wanted} - {*possible}))}.", file=sys.stderr)
    return possible


@dataclass(frozen=True)
class Latency:
    """Of `count` messages or requests; milliseconds."""

    count: int
    p50: float
    p99: float
    longest: float


@dataclass(frozen=True)
class Arrivals:
    """Messages of one priority: when the last came (seconds), and how many `low` ones had come by then."""

    count: int
    last: float
    low_before: int


@dataclass(frozen=True)
class Batch:
    """`rounds` messages to every device took `seconds`."""

    rounds: int
    seconds: float
    latency: Latency | None = None
    classes: dict[str, Arrivals] = field(default_factory=dict)
    lost: int = 0
    """Messages that did not come; those that did took `seconds`. Of a yardstick only (`may_lose`)."""


class Fleet:
    """The load generator with its devices, connected and subscribed."""

    def __init__(
        self,
        port: int,
        devices: Path,
        batches: Sequence[int],
        *options: str,
        transport: Transport = "tcp",
        timeout: float = 120.0,
        quiet: bool = False,
        may_lose: bool = False,
    ) -> None:
        """`quiet`: it does not say on stderr why it gave up. `may_lose`: the server is a yardstick, and a batch of
        which no more comes is over (`Batch.lost`)."""
        command = [program("load_generator"), "--port", str(port), "--devices", str(devices)]
        command += ["--batches", ",".join(map(str, batches)), "--timeout", str(timeout)]
        command += ["--transport", transport, *options]
        if may_lose:
            command += ["--lossy", str(LOSS_SECONDS)]
        errors = subprocess.DEVNULL if quiet else None
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            self.connected_seconds = float(self._expect("connected")[1])
            """From the first attempt to the last CONNACK."""
            self._expect("ready")
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:  # it still waits for messages
            self._process.kill()
            self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def vanish(self) -> None:
        """All at once, without a word to the server."""
        self._process.kill()
        self._process.wait(10)

    def has_ended(self, within: float) -> bool:
        """Whether it gives up within so many seconds, because a device was disconnected for example."""
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def batch(self) -> Batch:
        """Wait until the next batch is through."""
        latency = None
        classes: dict[str, Arrivals] = {}
        lost = 0
        while True:
            words = self._line()
            if words[0] == "latency":
                latency = _latency(words[1:])
            elif words[0] == "class":
                classes[words[1]] = Arrivals(int(words[2]), float(words[3]), int(words[4]))
            elif words[0] == "lost":
                lost = int(words[1])
            elif words[0] == "batch":
                if not float(words[2]):
                    raise CannotRun("The yardstick handed over nothing at all.")
                return Batch(int(words[1]), float(words[2]), latency, classes, lost)

    def _expect(self, word: str) -> list[str]:
        words = self._line()
        if words[0] != word:
            raise CannotRun(f"The load generator said {words} and not {word}.")
        return words

    def _line(self) -> list[str]:
        words = _stdout(self._process).readline().split()
        if not words:
            raise CannotRun("The load generator gave up; its reason is above.")
        return words


@dataclass(frozen=True)
class Storm:
    """All devices connected at once."""

    rate: float
    """Connects per second."""
    cost: float
    """Microseconds of processor time of the server's for each."""


CONNECTING = 64
"""Devices that wait for their CONNACK at once."""


def storm(
    port: int, pid: int, listed: Path, devices: int, transport: Transport = "tcp", connecting: int = CONNECTING
) -> Storm:
    """Of the listed devices, at a server that knows them, or all the world; they hang up at the end."""
    before = processor_seconds(pid)
    with Fleet(port, listed, [], "--resume", "--connecting", str(connecting), transport=transport) as fleet:
        cost = processor_seconds(pid) - before
        return Storm(devices / fleet.connected_seconds, cost / devices * 1e6)


@dataclass(frozen=True)
class Requests:
    count: int
    seconds: float
    latency: Latency

    @property
    def per_second(self) -> float:
        return self.count / self.seconds


class HttpLoad:
    """Requests to one path, from the start of this object on; `result` waits for the last answer."""

    def __init__(
        self, port: int, path: str, body: str, *options: str, key: str = "-", transport: Transport = "tcp"
    ) -> None:
        command = [program("http_load"), "--port", str(port), "--path", path, "--body", body, "--key", key]
        command += ["--transport", transport, *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def result(self) -> Requests:
        words = self._process.communicate()[0].split()
        if not words:
            raise CannotRun("The HTTP load gave up; its reason is above.")
        return Requests(int(words[1]), float(words[2]), _latency([words[1], *words[3:]]))


def floor(devices: int, size: int, window: int, batches: Sequence[int], directory: Path) -> tuple[float, list[Batch]]:
    """What the system calls alone take: seconds to connect all devices, and the batches."""
    arguments = [str(devices), str(size), str(window), ",".join(map(str, batches))]
    with subprocess.Popen([program("floor"), *arguments], stdout=subprocess.PIPE, text=True) as process:
        port = int(_stdout(process).readline().split()[1])
        with Fleet(port, anonymous_devices(devices, directory), batches) as fleet:
            results = []
            for line in _stdout(process):
                _, rounds, seconds = line.split()
                results.append(Batch(int(rounds), float(seconds)))
            if len(results) != len(batches):
                raise CannotRun("The floor gave up; its reason is above.")
            return fleet.connected_seconds, results


def _latency(words: Sequence[str]) -> Latency:
    count, *microseconds = map(int, words)
    return Latency(count, *(value / 1000 for value in microseconds))


def _stdout(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None, "opened as a pipe"
    return process.stdout


# -- devices -----------------------------------------------------------------------------------------------------------


def enrolled(server: Server, count: int, directory: Path, name: str = "kiosk") -> Path:
    """Enrol `name`-0 and following; the load generator's list of them."""
    devices: list[Device] = []
    for first in range(0, count, BULK):
        numbers = range(first, min(first + BULK, count))
        devices += server.api.enrol_many(f"{name}-{number}" for number in numbers)
    return device_list(directory / f"{name}.devices", devices)


def device_list(path: Path, devices: Iterable[Device]) -> Path:
    path.write_text("".join(f"{one.client_id} {one.client_id} {one.token} {one.topics['push']}\n" for one in devices))
    return path


def anonymous_devices(count: int, directory: Path) -> Path:
    """A list of devices without credentials, with topics as long as ours."""
    path = directory / "devices"
    path.write_text("".join(f"kiosk-{n} - - default/devices/kiosk-{n}/push\n" for n in range(count)))
    return path


# -- yardsticks --------------------------------------------------------------------------------------------------------


@contextmanager
def mosquitto(directory: Path, *lines: str, endpoint: Endpoint = TCP_ENDPOINT) -> Iterator[tuple[int, int]]:
    """Mosquitto with persistence off and nothing that would hold it back; its port and process id.

    `lines` are added to its configuration; without any it lets everybody in.
    """
    binary = tool("mosquitto")
    port = free_port()
    configuration = directory / "mosquitto.conf"
    written = [
        "user root",  # if we are: the default user could not read this directory
        f"listener 0 {directory / 'mosquitto.socket'}",  # it does not start with listeners for WebSocket only
        f"listener {port} 127.0.0.1",
        *endpoint.mosquitto_lines(),
        *("persistence false", "log_type error", "set_tcp_nodelay true"),
        *("max_inflight_messages 0", "max_queued_messages 0"),
        *(lines or ["allow_anonymous true"]),
    ]
    configuration.write_text("".join(f"{line}\n" for line in written))
    process = subprocess.Popen([binary, "-c", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


AMQTT = """
import asyncio, logging, sys, uvloop
from amqtt.broker import Broker

async def main() -> None:
    broker = Broker({
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    })
    await broker.start()
    await asyncio.Event().wait()

logging.disable()
uvloop.run(main())
"""


@contextmanager
def amqtt() -> Iterator[tuple[int, int]]:
    """amqtt's broker on uvloop, letting everybody in, with no other plugin; its port and process id."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", AMQTT, str(port)])
    try:
        wait_for_port(port, process)
        yield port, process.pid
    finally:
        process.kill()  # its own way out takes longer than a benchmark wants to wait
        process.wait(10)


def tool(name: str) -> str:
    binary = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if binary is None:
        raise CannotRun(f"The yardstick is Mosquitto: no `{name}` here (Debian: apt install mosquitto).")
    return binary


def free_port() -> int:
    """A port below the ephemeral ones (ip_local_port_range): any connection beside us may take one of those at once."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise CannotRun(f"{process.args!r} did not start.") from None
            time.sleep(0.02)


# -- from outside ------------------------------------------------------------------------------------------------------


def resident(pid: int) -> int:
    """Bytes of memory that a process has to itself."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise CannotRun(f"/proc/{pid}/smaps_rollup says nothing about memory.")


def processor_seconds(pid: int) -> float:
    """What a process has taken so far, in the system's part as well."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def fsync_milliseconds(directory: Path, count: int = 300) -> tuple[float, float]:
    """What an append and its fdatasync take on this disk now: median and 99th percentile."""
    path = directory / "fsync"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            start = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - start) * 1000)
    path.unlink()
    return median(taken), sorted(taken)[count * 99 // 100]
