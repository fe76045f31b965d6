"""What benchmarks need besides the server under test: the C programs, built once, and Mosquitto as a yardstick."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


class CannotRun(Exception):
    """The message is for the person: what is missing, and what to do."""


def program(name: str) -> str:
    """Path of the C program `name`, built from the source beside this file if it has changed since."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotRun("The benchmarks need a C compiler for their load generator: no `cc` (Debian: apt install gcc).")
    source = HERE / f"{name}.c"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fleetpush-benchmarks"
    cache.mkdir(parents=True, exist_ok=True)
    binary = cache / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not binary.exists():
        unfinished = binary.with_suffix(f".{os.getpid()}")
        built = subprocess.run(
            [compiler, "-O2", "-o", str(unfinished), str(source)], capture_output=True, text=True, check=False
        )
        if built.returncode:
            raise CannotRun(f"Building {source.name} failed:\n{built.stderr}")
        unfinished.rename(binary)
    return str(binary)


@dataclass(frozen=True)
class Batch:
    """`rounds` messages to every device took `seconds`."""

    rounds: int
    seconds: float


class Fleet:
    """The load generator with its devices, connected and subscribed."""

    def __init__(self, port: int, devices: Path, batches: list[int], *options: str, timeout: float = 120.0) -> None:
        command = [program("load_generator"), "--port", str(port), "--devices", str(devices)]
        command += ["--batches", ",".join(map(str, batches)), "--timeout", str(timeout), *options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._expect("ready")

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def batch(self) -> Batch:
        """Wait until the next batch is through."""
        _, rounds, seconds = self._expect("batch").split()
        return Batch(int(rounds), float(seconds))

    def _expect(self, word: str) -> str:
        assert self._process.stdout is not None, "opened as a pipe"
        line = self._process.stdout.readline()
        if not line.startswith(word):
            raise CannotRun("The load generator gave up; its reason is above.")
        return line


@contextmanager
def mosquitto(directory: Path) -> Iterator[int]:
    """Mosquitto with persistence off and nothing that would hold it back; its port."""
    binary = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if binary is None:
        raise CannotRun("The yardstick is Mosquitto: no `mosquitto` here (Debian: apt install mosquitto).")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    configuration = directory / "mosquitto.conf"
    configuration.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type error\nset_tcp_nodelay true\n"
        "max_inflight_messages 0\nmax_queued_messages 0\n"
    )
    process = subprocess.Popen([binary, "-c", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise CannotRun("Mosquitto did not start.") from None
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(10)
