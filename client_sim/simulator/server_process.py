"""`fleetpush serve` as a child, which can be killed and started again on the same ports and data."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

READY = re.compile(r"^fleetpush ready https?=(\S+):(\d+) mqtts?=(\S+):(\d+)$")
START_SECONDS = 60.0
"""The time for a start after kill -9 with a large journal, on a machine that is busy with other things."""
STOP_SECONDS = 30.0
LAST_LINES = 20
FLEETPUSH = (sys.executable, "-m", "gateway")
FORM = "FLEETPUSH_PURE"
"""The variable that asks for the source instead of compiled modules (`broker/compiled_modules`)."""


class ServerDidNotStart(Exception):
    """The message holds its last words."""


class ServerProcess:
    """A server in a folder of its own, on free ports of 127.0.0.1, without any of the caller's settings.

    It runs in the form that the caller asks for, compiled or from source.
    """

    def __init__(self, folder: Path, *options: str, program: Sequence[str] = FLEETPUSH) -> None:
        """`options` of `serve`; `program`: the command that knows `serve`."""
        self.data_dir = folder / "data"
        self._log = folder / "server.log"
        self._folder = folder
        self._options = options
        self._program = program
        self._process: subprocess.Popen[str] | None = None
        self.http_port = self.mqtt_port = 0

    def start(self) -> float:
        """Start it; seconds until its ready line. Raises ServerDidNotStart."""
        command = [*self._program, "serve", "--data-dir", str(self.data_dir)]
        command += ["--http-port", str(self.http_port), "--mqtt-port", str(self.mqtt_port), *self._options]
        environment = {
            name: value for name, value in os.environ.items() if name == FORM or not name.startswith("FLEETPUSH_")
        }
        root = str(Path(__file__).resolve().parents[2])
        environment["FLEETPUSH_WEBHOOK_NETWORKS"] = "127.0.0.0/8"  # the simulation's own receiver
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None, "a pipe was asked for"
        watchdog = threading.Timer(START_SECONDS, self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                if ready := READY.match(line.strip()):
                    self.http_port, self.mqtt_port = int(ready[2]), int(ready[4])
                    return time.monotonic() - began
        finally:
            watchdog.cancel()
        self.kill()
        raise ServerDidNotStart(f"the server did not start. Its last words:\n{self.last_log_lines()}")

    def kill(self) -> None:
        """End the server with SIGKILL: no connection is closed in order, nothing is flushed."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self.wait()

    def stop(self) -> int:
        """End the server with SIGTERM; its exit code."""
        assert self._process is not None, "started before"
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of the process; its exit code."""
        if self._process is None:
            return 0
        code = self._process.wait(STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        assert self._process is not None, "started before"
        return self._process.pid

    @property
    def running_pid(self) -> int | None:
        """The process id; None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def url(self) -> str:
        """The address of its HTTP API."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def key(self) -> str:
        """The admin key, which the server writes beside its data."""
        return (self.data_dir / "admin.key").read_text().strip()

    def last_log_lines(self) -> str:
        """The last lines of its log."""
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LAST_LINES:])
