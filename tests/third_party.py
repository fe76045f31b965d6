"""Programs that are not ours and that tests drive: mosquitto and its clients, haproxy, openssl, strace, a C compiler.

On a person's machine a missing one skips the test and says which package has it. In an automatic run (`CI=true`) it
fails the test: a suite that skips what it exists for would stay green for ever.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable
from typing import Self

import pytest

PACKAGES = {
    "age": "age",
    "cc": "gcc",
    "certutil": "libnss3-tools",
    "chromium": "chromium",
    "debootstrap": "debootstrap",
    "dpkg-deb": "dpkg",
    "git": "git",
    "haproxy": "haproxy",
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "mosquitto_sub": "mosquitto-clients",
    "openssl": "openssl",
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


def require(binary: str) -> str:
    """The path of `binary`; without it the test is skipped, or failed where CI=true."""
    path = shutil.which(binary) or shutil.which(binary, path=SERVERS)
    if path is not None:
        return path
    reason = f"{binary} is not installed (Debian package {PACKAGES.get(binary, binary)})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


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
