"""`python -m broker` as a process: started, killed with SIGKILL, started again on the same port and data."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from tests.end_to_end.warm_start import WarmProcess

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"^broker ready mqtt=\S+:\d+( [a-z]+=\S+)*$")
PORT = re.compile(r"=\S+?:(\d+)(?=\s|$)")
SECONDS = 30.0


class BrokerProcess:
    def __init__(
        self, data_dir: Path | None, *options: str, websocket: bool = False, listen: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:  # fmt: skip
        """Anonymous unless `options` say otherwise. `websocket`: also on `ws_port`. `listen`: further addresses, their
        ports in `listening`. `log`: what it says on stderr."""
        self.options = list(options) or ["--allow-anonymous"]
        if data_dir is not None:
            self.options += ["--data-dir", str(data_dir)]
        self.port = 0
        self.ws_port = 0
        self.listening: list[int] = []
        self._websocket = websocket
        self._listen = list(listen)
        self._log = log
        self._process: WarmProcess | None = None

    def __enter__(self) -> BrokerProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill9()

    def start(self) -> BrokerProcess:
        """Wait for the ready line; ports it had before are kept."""
        options = ["--port", str(self.port), *self.options]
        if self._websocket:
            options += ["--ws-port", str(self.ws_port)]
        options += [f"--listen={address}" for address in self._listen]
        with self._log.open("ab") if self._log is not None else nullcontext() as log:
            errors = 2 if log is None else log.fileno()
            process = WarmProcess(options, errors, os.environ, ROOT, package="broker")
        self._process = process
        overdue = threading.Timer(SECONDS, process.send_signal, (signal.SIGKILL,))
        overdue.start()
        line = process.stdout.readline().rstrip("\n")
        overdue.cancel()
        assert READY.match(line), f"no ready line; the broker ended with {process.wait()}"
        ports = list(map(int, PORT.findall(line)))
        self.port = ports.pop(0)
        if self._websocket:
            self.ws_port = ports.pop(0)
        self.listening = ports
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None, "started before"
        return self._process.pid

    def kill9(self) -> None:
        """Kill the process: everything that is not durable is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def restart(self) -> None:
        self.kill9()
        self.start()

    def begin_to_stop(self) -> None:
        """SIGTERM; then `wait`."""
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None, "started before"
        self._process.send_signal(number)

    def _end(self, how: signal.Signals) -> int:
        self._send(how)
        return self.wait()

    def wait(self) -> int:
        """Wait until the process ends by itself; return the exit code."""
        process = self._process
        assert process is not None, "started before"
        code = process.wait(SECONDS)
        process.stdout.close()
        return code
