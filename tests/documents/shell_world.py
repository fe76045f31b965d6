"""A directory and a shell in which what the documents say to type works as it is pasted.

The commands are real ones, but for what a test cannot have: `fleetpush` and `python3 run.py` are forked from a process
that has everything imported (`end_to_end.warm_start`); `serve` and `listen` come back when they are ready, as if each
had a terminal of its own; and ports and names that the pages take for granted (1883, 8080, push.example) are replaced
by those of the server that runs here.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from tests.documents.markdown import Block
from tests.end_to_end.harness import READY, clean_environment, wait_for
from tests.end_to_end.warm_start import REQUEST_BYTES, WarmProcess
from tests.third_party import require

TIMEOUT_SECONDS: Final = 90
CLIENT: Final = """\
#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = {{"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}}
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
sys.exit(int(server.recv(16)))
"""
"""`fleetpush`, without what Python takes to import it."""
PYTHON: Final = """\
#!/bin/bash
if [ "${{1-}}" = run.py ]; then exec fleetpush "${{@:2}}"; fi
exec {python} "$@"
"""
CURL: Final = """\
#!/bin/bash
. {ports}
arguments=("${{@//127.0.0.1:8080/127.0.0.1:$HTTP}}")
exec {program} --fail-with-body "${{arguments[@]//push.example:8080/127.0.0.1:$HTTP}}"
"""
MOSQUITTO: Final = """\
#!/bin/bash
. {ports}
arguments=("${{@//push.example/127.0.0.1}}")
arguments=("${{arguments[@]/#11883/$MQTT}}")
exec {program} "${{arguments[@]/#1883/$MQTT}}" $([[ " $* " = *" -p "* ]] || echo "-p $MQTT")
"""
SLEEP: Final = """\
#!/bin/bash
exec {program} $((3 * $1))
"""
"""A page says how long to wait on a machine that does nothing else."""
PROLOGUE: Final = """\
set -euo pipefail
trap 'echo "exit code $? in line $LINENO" >&2' ERR
"""
ENDLESS: Final = """\
timeout 2 bash -euo pipefail -c {script} || [ $? = 124 ]
"""


class ShellWorld:
    """`run` pastes blocks; `output` is what the commands in other terminals have printed since."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = ""
        self._programs = folder / "bin"
        self._programs.mkdir()
        self._ports = folder / "ports"
        self._ports.write_text("HTTP=8080 MQTT=1883\n")
        self._background: list[WarmProcess] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(folder / "commands"))
        self._listener.listen()
        self._program("fleetpush", CLIENT.format(python=sys.executable, address=str(folder / "commands")))
        self._program("python3", PYTHON.format(python=sys.executable))
        for name, text in (
            ("sleep", SLEEP),
            ("curl", CURL),
            ("mosquitto_sub", MOSQUITTO),
            ("mosquitto_pub", MOSQUITTO),
        ):
            self._program(name, text.format(ports=self._ports, program=require(name)))
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "python").symlink_to(self._programs / "python3")
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # A thread in `accept` is woken by shutdown, not by close.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for process in self._background:
            process.send_signal(signal.SIGKILL)
            process.wait(10)

    def run(self, blocks: Iterable[Block], before: str = "") -> str:
        """Paste blocks one after the other into one shell; what that shows. Raises AssertionError with what went wrong,
        and where."""
        script = PROLOGUE + before
        for block in blocks:
            text = block.text if block.mark != "endless" else ENDLESS.format(script=_quoted(block.text))
            script += f"echo '--- {block.place}' >&2\n{text}"
        path = self.folder / "script"
        path.write_text(script)
        environment = clean_environment(HOME=str(self.folder), PATH=f"{self._programs}:{os.environ['PATH']}")
        with (self.folder / "stdout").open("w") as out:
            shell = subprocess.Popen(
                ["bash", "-a", str(path)],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            code = shell.wait(TIMEOUT_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # what was started with `&`
        said = (self.folder / "stdout").read_text(errors="replace")
        assert code == 0, f"{said}\n{self.output}"
        return said

    def wait_output(self, text: str) -> None:
        """Wait until a command in another terminal has printed this."""
        wait_for(lambda: text in self.output, what=f"{text!r} in {self.output}")

    def _program(self, name: str, text: str) -> None:
        path = self._programs / name
        path.write_text(text)
        path.chmod(0o755)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request, descriptors, _, _ = socket.recv_fds(connection, REQUEST_BYTES, 3)
            try:
                code = self._carry_out(json.loads(request), *descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            connection.send(str(code).encode())

    def _carry_out(self, request: dict[str, object], given: int, out: int, errors: int) -> int:
        arguments, environment = request["arguments"], request["environment"]
        assert isinstance(arguments, list)
        assert isinstance(environment, dict)
        name = arguments[0] if arguments else ""
        if name == "serve":
            arguments = [*arguments, "--mqtt-port", "0", "--http-port", "0"]  # the last of an option counts
        folder = Path(str(request["folder"]))
        if name == "serve" or (name == "listen" and "--count" not in arguments):
            return self._start(arguments, environment, folder)
        process = WarmProcess(arguments, errors, environment, folder, given)
        with process.stdout:
            while text := process.stdout.readline():
                os.write(out, text.encode())
        return process.wait(TIMEOUT_SECONDS)

    def _start(self, arguments: list[str], environment: dict[str, str], folder: Path) -> int:
        """In another terminal; back when it is ready, with 0, or when it has ended, with its exit code."""
        errors, its_errors = os.pipe()
        process = WarmProcess(arguments, its_errors, environment, folder)
        os.close(its_errors)
        self._background.append(process)
        ready = threading.Event()
        for stream in (process.stdout, open(errors, errors="replace")):  # noqa: SIM115  # its reader closes it
            threading.Thread(target=self._follow, args=(stream, ready), daemon=True).start()
        ready.wait(TIMEOUT_SECONDS)
        return process.poll() or 0

    def _follow(self, stream: IO[str], ready: threading.Event) -> None:
        with stream:
            for line in stream:
                self.output += line
                if match := READY.match(line.rstrip("\n")):
                    self._ports.write_text(f"HTTP={match[2]} MQTT={match[4]}\n")
                if match or "is listening" in line:
                    ready.set()
        ready.set()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
