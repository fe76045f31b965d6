"""HAProxy as a process: what stands between devices and the server in many fleets.

The ports are opened here and handed over as descriptors (`bind fd@N`), so that they are free ones and accept from the
first moment on. Each front is a `listen` section with one server behind it.
"""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.end_to_end.harness import wait_for
from tests.third_party import require

DEFAULTS = """\
global
    stats socket {stats}
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
"""


@dataclass(frozen=True)
class Front:
    name: str
    server: str
    """Address and options of the `server` line."""
    bind: str = ""
    """Options of the `bind` line."""
    lines: tuple[str, ...] = ()
    host: str = "127.0.0.1"


class HaProxy:
    def __init__(self, folder: Path, *fronts: Front) -> None:
        self.ports: dict[str, int] = {}
        self._stats = folder / "haproxy.stats"
        self._output = folder / "haproxy.log"
        config = folder / "haproxy.cfg"
        text = DEFAULTS.format(stats=self._stats)
        with ExitStack() as ours:
            listeners = []
            for front in fronts:
                family = socket.AF_INET6 if ":" in front.host else socket.AF_INET
                listener = ours.enter_context(socket.create_server((front.host, 0), family=family))
                listeners.append(listener.fileno())
                self.ports[front.name] = listener.getsockname()[1]
                bind, server = f"bind fd@{listener.fileno()} {front.bind}", f"server fleetpush {front.server}"
                text += "\n    ".join([f"listen {front.name}", *front.lines, bind, server]) + "\n"
            config.write_text(text)
            with self._output.open("wb") as output:
                self._process = subprocess.Popen(
                    [require("haproxy"), "-db", "-f", str(config)],
                    pass_fds=listeners,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )

    def __enter__(self) -> Self:
        wait_for(lambda: self._stats.exists() or self._process.poll() is not None, what="haproxy to begin")
        assert self._process.poll() is None, self._output.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def wait_checked(self, front: str) -> None:
        """Until the server behind a front has passed a health check."""
        wait_for(lambda: self._statistics(front)["check_status"] == "L4OK", what=f"a health check of {front}")

    def _statistics(self, front: str) -> dict[str, str]:
        """What it says of the server behind a front."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(self._stats))
            asked.sendall(b"show stat\n")
            with asked.makefile() as answer:
                names, *rows = (line.rstrip("\n").lstrip("# ").split(",") for line in answer if line.strip())
        return next(row for row in (dict(zip(names, row, strict=True)) for row in rows)
                    if (row["pxname"], row["svname"]) == (front, "fleetpush"))  # fmt: skip
