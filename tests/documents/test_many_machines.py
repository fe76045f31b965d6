"""The ten commands of "When one machine is not enough" work as they are pasted: nodes, a balancer, and their ends.

They are real processes, over a PostgreSQL of the tests; but for the ports, which are free ones, nothing is replaced.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.benchmarks.tools import free_port
from tests.documents.markdown import blocks
from tests.end_to_end.harness import DATABASE, ROOT, clean_environment, wait_for
from tests.nodes import new_database
from tests.third_party import require

PAGE: Final = ROOT / "docs" / "operate" / "many-machines.md"
BALANCER: Final = "examples/cluster/one-machine.cfg"
TIMEOUT_SECONDS: Final = 150
PROGRAM: Final = """\
#!/bin/bash
exec {python} -m gateway "$@"
"""


@contextmanager
def pasted(folder: Path, script: str, environment: dict[str, str]) -> Iterator[tuple[int, str]]:
    """What a shell has ended with and said; what it has started is killed behind it."""
    with (folder / "said").open("w") as out:
        shell = subprocess.Popen(
            ["bash", "-c", f"set -euo pipefail\n{script}"], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield shell.wait(TIMEOUT_SECONDS), (folder / "said").read_text()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((folder / "balancer.pid").read_text()), signal.SIGKILL)


def test_the_ten_commands(tmp_path: Path) -> None:
    ports = {8080: free_port(), 1883: free_port()}

    def with_ports(text: str) -> str:
        for usual, free in ports.items():
            text = text.replace(f":{usual}", f":{free}").replace(f" port {usual} ", f" port {free} ")
        return text

    script = "".join(block.text for block in blocks(PAGE) if block.mark == "nodes")
    assert len([line for line in script.splitlines() if line]) == 10, "the page says so"
    balancer = tmp_path / BALANCER
    balancer.parent.mkdir(parents=True)
    balancer.write_text(with_ports((ROOT / BALANCER).read_text()))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "fleetpush").write_text(PROGRAM.format(python=sys.executable))
    (programs / "fleetpush").chmod(0o755)
    (programs / "haproxy").symlink_to(require("haproxy"))
    environment = clean_environment(
        HOME=str(tmp_path), PATH=f"{programs}:{os.environ['PATH']}", PYTHONPATH=str(ROOT), FLEETPUSH_PURE="1",
        FLEETPUSH_HTTP_PORT=str(ports[8080]), FLEETPUSH_MQTT_PORT=str(ports[1883]), **{DATABASE: new_database()},
    )  # fmt: skip
    with pasted(tmp_path, with_ports(script), environment) as (code, said):
        logs = "".join(path.read_text() for path in sorted(tmp_path.glob("*.log")))
        assert code == 0, f"{said}\n{logs}"
        shown = (tmp_path / "kiosk-1.log").read_text()
        for title in ("Three nodes", "One has died", "One has gone home"):
            assert shown.count(title) == 1, f"{shown}\n{logs}"
        wait_for(lambda: not (tmp_path / "node2" / "server.json").exists(), what="the second node to have ended")
        assert (tmp_path / "node1" / "server.json").exists(), "the first was killed"
        assert (tmp_path / "node3" / "server.json").exists(), "the third serves"
