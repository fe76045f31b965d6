"""Programs that are not ours and that tests drive: mosquitto and its clients, haproxy, openssl, strace, a C compiler,
and packages of npm.

On a person's machine a missing one skips the test and says which package has it. In an automatic run (`CI=true`) it
fails the test: a suite that skips what it exists for would stay green for ever.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

import pytest

PACKAGES = {
    "age": "age",
    "cc": "gcc",
    "certutil": "libnss3-tools",
    "chromium": "chromium",
    "debootstrap": "debootstrap",
    "dpkg-deb": "dpkg",
    "etcd": "etcd-server",
    "git": "git",
    "haproxy": "haproxy",
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "mosquitto_sub": "mosquitto-clients",
    "initdb": "postgresql",
    "ip": "iproute2",
    "openssl": "openssl",
    "patroni": "patroni",
    "pg_basebackup": "postgresql",
    "pg_ctl": "postgresql",
    "podman": "podman",
    "promtool": "prometheus",
    "runc": "runc",
    "node": "nodejs",
    "npm": "npm",
    "stdbuf": "coreutils",
    "systemd-nspawn": "systemd-container",
    "strace": "strace",
    "systemd-analyze": "systemd",
}
"""The Debian package of each program."""
SERVERS = "/usr/sbin"
"""Where Debian puts mosquitto and haproxy; not on every person's PATH."""
FETCH_SECONDS = 120


def require(binary: str) -> str:
    """The path of `binary`; without it the test is skipped, or failed where CI=true."""
    path = shutil.which(binary) or shutil.which(binary, path=SERVERS) or _of_postgresql(binary)
    if path is not None:
        return path
    reason = f"{binary} is not installed (Debian package {PACKAGES.get(binary, binary)})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _of_postgresql(binary: str) -> str | None:
    """Debian has PostgreSQL's programs in no directory of PATH: those of the newest that is installed."""
    places = Path("/usr/lib/postgresql").glob(f"*/bin/{binary}")
    newest = max(places, key=lambda place: int(place.parts[-3]), default=None)
    return None if newest is None else str(newest)


def npm_package(folder: Path, name: str) -> Path:
    """The folder of a package as `folder`/package.json pins it. It is not in the tree: the first test that wants it
    has npm fetch it."""
    pins = folder / "package.json"
    wanted = json.loads(pins.read_text())["devDependencies"][name]
    package = folder / "node_modules" / name

    def is_there() -> bool:
        found = package / "package.json"
        return found.exists() and json.loads(found.read_text())["version"] == wanted

    with pins.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of test processes, one fetches
        if not is_there():
            command = [require("npm"), "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS)
            assert done.returncode == 0, done.stdout + done.stderr
            assert is_there(), "npm has fetched another version"
    return package


class Listener:
    """A program that runs until it is killed, and says things on its standard output."""

    def __init__(self, command: Iterable[str], on_line: Callable[[str], None]) -> None:
        self._process = subprocess.Popen(
            [require("stdbuf"), "-oL", *command], stdout=subprocess.PIPE, text=True
        )  # a pipe would be buffered in blocks
        self._on_line = on_line
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()

    def vanish(self) -> None:
        """SIGKILL: no goodbye, and no acknowledgement of what nobody saw."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None, "opened as a pipe"
        for line in self._process.stdout:
            self._on_line(line.rstrip("\n"))
