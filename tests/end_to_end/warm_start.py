"""`fleetpush` without the second and a half that Python takes to import it: forked from a process that has it all.

`WarmProcess` is what `subprocess.Popen` is to `harness`. Each test process has one parent of servers, started with the
first of them, and another one for those that preload libraries (`tests/preloaded.py`); it imports what `python -m
gateway` and `python -m broker` import, reads the signatures of all commands and routes, and then only forks. A server
is a process of its own all the same, with its own threads, descriptors, environment and directory, that can be killed.

What is different from a start by hand: the seed of `hash` is that of the parent, and variables that Python or the
loader read when they begin (`PYTHON..`, `LD_..`) come too late, but for LD_PRELOAD, which chooses the parent.
`can_start` says so. And at its end the modules are not cleared, one by one.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import io
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
REQUEST_BYTES = 128 * 1024
MOST_DESCRIPTORS = 16
HIGH_DESCRIPTOR = 100
"""Where passed sockets wait for the numbers that they get: one of them may have another's."""
PRELOAD = "LD_PRELOAD"
_starting = threading.Lock()
NUMBER_BYTES = 8
"""What the parent says of a process: its identifier, and when it has ended its exit code."""
NOWHERE = {"type": "http", "method": "GET", "path": "/nowhere", "headers": []}
"""A request that no route takes, so that each is asked, and has read its signature when the first server is forked."""


def can_start(environment: Mapping[str, str]) -> bool:
    """Whether a forked process may have this environment."""
    return all(
        environment.get(name) == os.environ.get(name)
        for name in {*environment, *os.environ}
        if name.startswith(("LANG", "LC_", "LD_", "PYTHON", "FLEETPUSH_PROGRAM", "FLEETPUSH_PURE"))
        and name not in ("PYTHONPATH", PRELOAD)
    )


@cache
def _requests(preloaded: str | None) -> socket.socket:
    """To the parent of servers with these libraries, which ends with us."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = [sys.executable, "-m", __name__, str(its.fileno())]
        environment = os.environ if preloaded is None else {**os.environ, PRELOAD: preloaded}
        parent = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, pass_fds=[its.fileno()])
    atexit.register(parent.wait)
    atexit.register(ours.close)  # the last that is registered comes first
    return ours


class WarmProcess:
    """`arguments` are those of the program, `errors` and `stdin` descriptors; without the latter nothing can be read.
    `stdout` is the reading end of a pipe."""

    def __init__(
        self,
        arguments: Sequence[str],
        errors: int,
        environment: Mapping[str, str],
        folder: Path,
        stdin: int | None = None,
        sockets: Sequence[int] = (),
        stdout: int | None = None,
        package: str = "gateway",
        open_files: int | None = None,
    ) -> None:
        """`sockets`: descriptors that it has from 3 on, as a service manager passes them. `stdout`: where it writes
        instead of into the pipe. `package`: whose program it is, `gateway` or `broker`. `open_files`: descriptors
        that it may have."""
        self.returncode: int | None = None
        self._waiting = threading.Lock()
        out, its_out = os.pipe()
        self._status, its_status = os.pipe()
        weakref.finalize(self, os.close, self._status)  # not when it has ended: several threads may wait for that
        said = {
            "arguments": [package, *arguments],
            "environment": dict(environment),
            "folder": str(folder),
            "sockets": len(sockets),
            "open_files": open_files,
        }
        request = json.dumps(said)
        with _starting:
            requests = _requests(environment.get(PRELOAD))
        given = () if stdin is None else (stdin,)
        writes_to = its_out if stdout is None else stdout
        try:
            socket.send_fds(requests, [request.encode()], [writes_to, errors, its_status, *sockets, *given])
        finally:
            os.close(its_out)
            os.close(its_status)
        self.stdout: IO[str] = open(out, encoding="utf-8", errors="replace")  # noqa: SIM115  # its reader closes it
        self.pid = int(os.read(self._status, NUMBER_BYTES))

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        return self._end(0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutExpired."""
        code = self._end(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def _end(self, timeout: float | None) -> int | None:
        until = None if timeout is None else time.monotonic() + timeout
        ready = select.poll()  # unlike `select`, of any number
        ready.register(self._status, select.POLLIN)
        while self.returncode is None:
            left = None if until is None else max(until - time.monotonic(), 0) * 1000
            if not ready.poll(left):
                return None
            with self._waiting:
                if self.returncode is None:
                    said = os.read(self._status, NUMBER_BYTES)
                    self.returncode = int(said) if said else -signal.SIGKILL  # the parent is gone
        return self.returncode


def serve_requests(requests: socket.socket) -> list[str] | None:
    """In the parent. Returns in each process that it forks, with the arguments, and in itself when nobody asks any
    more."""
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    status_of: dict[int, int] = {}
    while True:
        ready = select.select([requests.fileno(), woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            while status_of:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                os.write(status_of[pid], number(os.waitstatus_to_exitcode(status)))
                os.close(status_of.pop(pid))
        if requests.fileno() not in ready:
            continue
        request, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES, MOST_DESCRIPTORS)
        if not request:
            return None
        out, errors, status, *given = descriptors
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (requests.detach(), woken, wake, status, *status_of.values()):
                os.close(descriptor)
            return become(json.loads(request), out, errors, *given)
        for descriptor in (out, errors, *given):
            os.close(descriptor)
        status_of[pid] = status
        os.write(status, number(pid))


def number(value: int) -> bytes:
    return f"{value:{NUMBER_BYTES}}".encode()


def become(request: dict[str, Any], out: int, errors: int, *given: int) -> list[str]:
    """In a process that was just forked: be as if the shell had started it."""
    arguments, environment, folder = request["arguments"], request["environment"], request["folder"]
    sockets = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, HIGH_DESCRIPTOR) for descriptor in given[: request["sockets"]]]
    assert isinstance(arguments, list)
    assert isinstance(environment, dict)
    assert isinstance(folder, str)
    for number, descriptor in ((1, out), (2, errors), *((0, stdin) for stdin in given[len(sockets) :])):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for descriptor in given[: len(sockets)]:
        os.close(descriptor)
    for number, descriptor in enumerate(sockets, 3):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if request["open_files"] is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (request["open_files"], request["open_files"]))
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # for the whole process
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), errors="backslashreplace", write_through=True)
    os.environ.clear()
    os.environ.update(environment)
    if sockets:
        os.environ["LISTEN_PID"] = str(os.getpid())
    time.tzset()
    os.chdir(folder)
    return arguments


def main() -> None:
    gc.disable()
    for module in ("uvloop", "alembic.command", "gateway.app", "gateway.cli", "gateway.__main__", "broker.command"):
        import_module(module)
    commands = import_module("gateway.cli")
    for found in iter_modules(commands.__path__):  # what each command imports when it is called
        if not hasattr(commands, found.name):  # a function: its module would take its name
            import_module(f"gateway.cli.{found.name}")
    for name in commands.COMMANDS:
        commands.build_command(name)
    for route in import_module("gateway.api.http").api_routes():
        route.matches(NOWHERE)
    gc.freeze()
    gc.enable()
    arguments = serve_requests(socket.socket(fileno=int(sys.argv[1])))
    if arguments is not None:
        sys.argv[1:] = arguments  # the package's name and then its own
        package = sys.argv.pop(1)
        end_with(import_module(f"{package}.__main__").main)


def end_with(program: Callable[[], object]) -> NoReturn:
    """Run a program and end as the interpreter would, but for the clearing of all modules: that writes to every page
    which is shared with the parent, and takes longer than most commands."""
    code: object = None
    try:
        code = program()
    except SystemExit as end:
        code = end.code
    except BaseException:  # the interpreter's last words, whatever it was
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    main()
