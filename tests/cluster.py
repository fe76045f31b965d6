"""A cluster on this machine: PostgreSQL with synchronous standbys, the balancer of `examples/cluster`, and its nodes.

Everything is in temporary directories and on loopback ports. PostgreSQL's machines are data directories with a process
each; one that `kill` ends has lost its power as far as others can tell. Who is the primary is decided by the test,
which is the cluster manager here (`fail_over`), or by Patroni (`tests/deploy/patroni.py`). Nobody tells the servers and
standbys: they have the addresses of all, and look for the one that takes writes, as `examples/cluster` has them do.

The balancer's configuration is the example's, with the addresses replaced: what is shipped is what is tested.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import psycopg

from tests.benchmarks.tools import free_port
from tests.end_to_end.harness import ROOT, wait_for
from tests.postgresql import give_away, run_program
from tests.third_party import require

EXAMPLE = ROOT / "examples" / "cluster"
USER = "fleetpush"
HOST = "127.0.0.1"
CONFIGURATION = {
    "listen_addresses": "'{addresses}'",
    "unix_socket_directories": "''",  # its lock names a process, and a killed one may not have been buried yet
    "port": "{port}",
    "cluster_name": "{name}",  # what a standby calls itself
    "max_connections": "100",
    # Whoever is the primary: a commit is answered when another one has it on its disk, and waits while there is none.
    "synchronous_standby_names": "'FIRST 1 (*)'",
    "synchronous_commit": "on",
    "wal_log_hints": "on",
    "wal_keep_size": "256MB",
    # Whoever is a standby: it follows the one that takes writes, and looks for another as soon as that has gone.
    "primary_conninfo": "'{primary}'",
    "wal_retrieve_retry_interval": "100ms",
    "wal_receiver_timeout": "3s",
    "wal_sender_timeout": "3s",
}
ADDRESS_PARAMETERS = "&".join(
    ("target_session_attrs=read-write", "connect_timeout=2", "tcp_user_timeout=3000", "keepalives_idle=2",
     "keepalives_interval=1", "keepalives_count=3")
)  # fmt: skip
"""The parameters that `examples/cluster/fleetpush.toml` has; a test compares them."""


SERVED = '"device %cp at %Ts.%ms node %s"'
"""What the balancer logs of a device's connection, as soon as it has one to a node."""
_SAME_SECONDS = 5.0
"""Between what both ends say of when a connection began, at most: ports come again later than that."""
_SERVED_LINE = re.compile(r"^device (\d+) at ([\d.]+) node node(\d)$", re.MULTILINE)


class Machine:
    """A machine of the database: its data directory, and the process that serves it."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.data = folder / name
        self._log = folder / f"{name}.log"

    @property
    def address(self) -> str:
        return f"postgresql://{USER}@{HOST}:{self.port}/postgres?connect_timeout=2"

    def start(self) -> None:
        """Returns when it answers."""
        try:
            run_program("pg_ctl", "start", "--wait", "--pgdata", str(self.data), "--log", str(self._log))
        except AssertionError as error:
            error.add_note(self._log.read_text()[-2_000:])
            raise

    def kill(self) -> None:
        """SIGKILL to all of its processes, before any of them could say a word."""
        postmaster = self._postmaster()
        if postmaster is not None:
            kill_family(postmaster)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    @property
    def is_running(self) -> bool:
        return self._postmaster() is not None

    def promote(self) -> None:
        """A standby becomes the primary; returns when it takes writes."""
        self.ask("SELECT pg_promote(true, 30)")

    def ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a statement, by a connection of its own."""
        with psycopg.connect(self.address, autocommit=True) as connection:
            return list(connection.execute(statement.encode(), values).fetchall())

    def _postmaster(self) -> int | None:
        try:
            process = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return process if _state(process) else None


class DatabaseCluster:
    """A primary and its standbys, the first of which is synchronous; `url` leads to the one that takes writes."""

    def __init__(self, machines: int = 3, addresses: Sequence[str] = (HOST,), **settings: str) -> None:
        """`addresses`: where they listen; the first is what `url` names. `settings`: of postgresql.conf."""
        self._folder = TemporaryDirectory(prefix="fleetpush-cluster-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        self._addresses = addresses
        self._settings = CONFIGURATION | settings
        self.machines = [Machine(folder, f"db{number}", free_port()) for number in range(1, machines + 1)]
        self.primary = self.machines[0]

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        give_away(folder)
        data = str(self.primary.data)
        run_program("initdb", "--pgdata", data, "--username", USER, "--auth", "trust", "--no-sync")
        with (self.primary.data / "pg_hba.conf").open("a") as file:
            file.writelines(f"host {what} all samenet trust\n" for what in ("all", "replication"))
        self._configure(self.primary)
        self.primary.start()
        for machine in self.machines[1:]:
            self._copy(machine)
        self.wait_synchronous()
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            machine.kill()
        self._folder.cleanup()

    def url(self, database: str = "postgres") -> str:
        """The address of a database as the setting `database` has it: all machines, and what they have to be."""
        hosts = ",".join(f"{self._addresses[0]}:{machine.port}" for machine in self.machines)
        return f"postgresql://{USER}@{hosts}/{database}?{ADDRESS_PARAMETERS}"

    def promote(self) -> None:
        """Make a primary of the standby that has most: it has every commit that was answered, because the synchronous
        one has."""
        standbys = [machine for machine in self.machines if machine is not self.primary and machine.is_running]
        received = "SELECT coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"
        self.primary = max(standbys, key=lambda machine: machine.ask(received)[0][0])
        self.primary.promote()

    def fail_over(self) -> None:
        """Kill the primary and promote a standby."""
        self.primary.kill()
        self.promote()

    def rejoin(self, machine: Machine) -> None:
        """A machine that was dead is a standby again, with the data of the present primary."""
        assert not machine.is_running, f"{machine.name} is killed before"
        self._copy(machine)

    def wait_synchronous(self) -> None:
        """Until a commit of the primary would be answered."""
        asked = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
        wait_for(lambda: self.primary.ask(asked)[0][0], what="a synchronous standby")

    def _copy(self, machine: Machine) -> None:
        shutil.rmtree(machine.data, ignore_errors=True)
        source = ("--host", HOST, "--port", str(self.primary.port), "--username", USER)
        run_program("pg_basebackup", "--pgdata", str(machine.data), *source, "--checkpoint", "fast", "--no-sync")
        self._configure(machine)
        signal_file = machine.data / "standby.signal"
        signal_file.touch()
        give_away(signal_file)
        machine.start()

    def _configure(self, machine: Machine) -> None:
        """Behind what initdb has written, or the primary that was copied has: the last line counts."""
        hosts = ",".join(HOST for _ in self.machines)
        ports = ",".join(str(each.port) for each in self.machines)
        primary = f"host={hosts} port={ports} user={USER} target_session_attrs=read-write connect_timeout=2"
        words = {
            "addresses": ",".join(self._addresses),
            "name": machine.name,
            "port": machine.port,
            "primary": primary,
        }
        with (machine.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value.format(**words)}\n" for name, value in self._settings.items())


@dataclass(frozen=True)
class NodeAddress:
    """Where the balancer finds a node."""

    mqtt: str
    """HOST:PORT of its listener with PROXY headers."""
    http: str


class ServedConnections:
    """Which node has had a device's connection, by what the balancer has logged."""

    def __init__(self, output: str) -> None:
        behind_s = time.time() - time.monotonic()
        self._of_port: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for port, at, node in _SERVED_LINE.findall(output):
            self._of_port[int(port)].append((float(at) - behind_s, int(node) - 1))

    def find(self, port: int, at: float) -> tuple[float, int] | None:
        """When the balancer has accepted a connection, by the monotonic clock, and the place of its node among those of
        the balancer; nothing if none was to be had. `port`: the device's, which had its connection at `at`."""
        near = [served for served in self._of_port[port] if abs(served[0] - at) < _SAME_SECONDS]
        return min(near, key=lambda served: abs(served[0] - at), default=None)


class Balancer:
    """HAProxy with the example's configuration, in front of as many nodes as are given (three at most)."""

    def __init__(self, folder: Path, nodes: Sequence[NodeAddress], certificate: Path | None = None) -> None:
        """`certificate`: certificate and key in one file; without it no TLS is spoken."""
        self.ports = {"mqtt": free_port(), "http": free_port()}
        self._configuration = folder / "balancer.cfg"
        self._configuration.write_text(balancer_configuration(nodes, self.ports, certificate))
        self._output = folder / "balancer.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [require("haproxy"), "-db", "-f", str(self._configuration)]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        wait_for(self._listens, what="the balancer to listen")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None, "entered before"
        self._process.kill()
        self._process.wait()

    @property
    def output(self) -> str:
        """What it has said: nodes that went, and that came back."""
        return self._output.read_text()

    @property
    def served(self) -> ServedConnections:
        """The connections of devices so far."""
        return ServedConnections(self.output)

    def _listens(self) -> bool:
        assert self._process is not None, "entered before"
        assert self._process.poll() is None, self.output
        with socket.socket() as client:
            return client.connect_ex((HOST, self.ports["http"])) == 0


def balancer_configuration(nodes: Sequence[NodeAddress], ports: Mapping[str, int], certificate: Path | None) -> str:
    """The example's, for these nodes and on these ports."""
    text = (EXAMPLE / "haproxy.cfg").read_text()
    replaced = {
        "bind 10.0.0.5:8883": f"bind {HOST}:{ports['mqtt']}",
        "bind 10.0.0.5:443": f"bind {HOST}:{ports['http']}",
        " ssl crt /etc/haproxy/push.pem": f" ssl crt {certificate}" if certificate else "",
        "maxconn 200000": "maxconn 8000",  # descriptors of a test
        "log /dev/log local0": "log stdout format raw local0",
        "default_backend mqtt_nodes": f"option logasap\n    log-format {SERVED}\n    default_backend mqtt_nodes",
    }
    if certificate is None:
        replaced[" alpn h2,http/1.1"] = ""
    for ours, theirs in replaced.items():
        assert ours in text, f"the example has no {ours!r}"
        text = text.replace(ours, theirs)
    mqtt, http = (_server_lines(text, port) for port in (1884, 8080))
    assert len(mqtt) == len(http) == 3, text
    for number, (mqtt_line, http_line) in enumerate(zip(mqtt, http, strict=True)):
        node = nodes[number] if number < len(nodes) else None
        checked = f" port {node.http.rpartition(':')[2]}" if node else ""
        text = text.replace(mqtt_line, f"    server node{number + 1} {node.mqtt}{checked}" if node else "")
        text = text.replace(http_line, f"    server node{number + 1} {node.http}" if node else "")
    return text


def _server_lines(text: str, port: int) -> list[str]:
    return re.findall(rf"^    server node\d 10\.0\.0\.1\d:{port}$", text, re.MULTILINE)


def kill_family(process: int) -> None:
    """SIGKILL to a process and its children, as if their machine had lost its power; returns when they are gone."""
    os.kill(process, signal.SIGSTOP)  # or it would begin to tidy up, and might have another child
    wait_for(lambda: _state(process) in ("T", ""), what="a process to stop")
    family = [process, *_children(process)]
    for each in family:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    wait_for(lambda: not any(map(_state, family)), what="processes to be gone")


def _children(process: int) -> Iterator[int]:
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == process:
                yield int(status.parent.name)


def _state(process: int) -> str:
    """As /proc has it; nothing when it is dead, even if nobody has asked yet how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0].strip("ZX")
    except (FileNotFoundError, ProcessLookupError):
        return ""
