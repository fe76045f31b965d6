"""The database of `examples/cluster` as it is shipped: three Patroni over etcd, each with its PostgreSQL.

The configuration is the example's (`patroni.yml`), with the addresses, folders and passwords of this run. One etcd
instead of three, which are not what is tried, and no watchdog device.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import httpx2
import psycopg
import yaml

from tests.benchmarks.tools import free_port
from tests.cluster import ADDRESS_PARAMETERS, EXAMPLE, HOST, kill_family
from tests.end_to_end.harness import wait_for
from tests.postgresql import give_away, unprivileged
from tests.third_party import require

NAMES: Final = ("db1", "db2", "db3")
PASSWORD: Final = "of-this-run"


class PatroniMachine:
    """A machine of the database: Patroni, and the PostgreSQL that it starts."""

    def __init__(self, folder: Path, name: str, etcd: str) -> None:
        self.name = name
        self.port = free_port()
        self.rest_url = f"http://{HOST}:{free_port()}"
        self.data = folder / f"{name}.data"
        self._configuration = folder / f"{name}.yml"
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._configuration.write_text(yaml.safe_dump(self._adapted(folder, etcd)))

    def _adapted(self, folder: Path, etcd: str) -> dict[str, Any]:
        text = (EXAMPLE / "patroni.yml").read_text()
        for network in ("10.0.0.20/30", "10.0.0.8/29"):
            assert network in text, f"the example has no {network}"
            text = text.replace(network, f"{HOST}/32")
        for role in ("postgres", "replicator"):
            text = text.replace(f"CHANGE-{role}", PASSWORD)
        document: dict[str, Any] = yaml.safe_load(text)
        document["name"] = self.name
        document["etcd3"]["hosts"] = etcd
        rest, server = self.rest_url.removeprefix("http://"), f"{HOST}:{self.port}"
        document["restapi"] = {"listen": rest, "connect_address": rest}
        document["postgresql"] |= {
            "listen": server,
            "connect_address": server,
            "data_dir": str(self.data),
            "bin_dir": str(Path(require("pg_ctl")).resolve().parent),
            "pgpass": str(folder / f"{self.name}.pgpass"),
            "parameters": {"unix_socket_directories": str(folder)},
        }
        archive = document["bootstrap"]["dcs"]["postgresql"]["parameters"]
        archive["archive_command"] = archive["archive_command"].replace("/archive/wal", str(folder / "wal"))
        document["watchdog"]["mode"] = "off"
        return document

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [require("patroni"), str(self._configuration)], stdout=log, stderr=log, cwd="/",
                **unprivileged(),  # type: ignore[call-overload]  # of the types that each has
            )  # fmt: skip

    def kill_postgresql(self) -> None:
        """Patroni stays, and finds out."""
        kill_family(int((self.data / "postmaster.pid").read_text().split("\n", 1)[0]))

    def kill(self) -> None:
        """Patroni first, which would notice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):
            self.kill_postgresql()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


class PatroniCluster:
    """Three machines, and the database `ledger` of the user `fleetpush` in the primary; `url` leads to it."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="fleetpush-patroni-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self._etcd_url = f"http://{HOST}:{free_port()}"
        self._etcd: subprocess.Popen[bytes] | None = None
        self.machines = [PatroniMachine(self.folder, name, self._etcd_url.partition("//")[2]) for name in NAMES]

    def __enter__(self) -> Self:
        (self.folder / "wal").mkdir()
        for path in (self.folder, *self.folder.iterdir()):
            give_away(path)
        peers = f"http://{HOST}:{free_port()}"
        options = {
            "--name": "etcd",
            "--data-dir": str(self.folder / "etcd"),
            "--listen-client-urls": self._etcd_url,
            "--advertise-client-urls": self._etcd_url,
            "--listen-peer-urls": peers,
            "--initial-advertise-peer-urls": peers,
            "--initial-cluster": f"etcd={peers}",
        }
        command = [require("etcd"), "--unsafe-no-fsync", *(word for pair in options.items() for word in pair)]
        self._etcd = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for machine in self.machines:
                machine.start()
            self.wait_synchronous()
            self._make_ledger()
        except BaseException as error:
            for machine in self.machines:
                error.add_note(f"{machine.name}: {machine.log[:6_000]}")
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            machine.kill()
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()
        self._folder.cleanup()

    def url(self, user: str = "fleetpush", database: str = "ledger") -> str:
        hosts = ",".join(f"{HOST}:{machine.port}" for machine in self.machines)
        return f"postgresql://{user}:{PASSWORD}@{hosts}/{database}?{ADDRESS_PARAMETERS}"

    @property
    def primary(self) -> PatroniMachine:
        with self._connected() as connection:
            return next(machine for machine in self.machines if machine.port == connection.info.port)

    def wait_synchronous(self) -> None:
        wait_for(self._is_synchronous, timeout=60, what="a primary and its standby")

    def _is_synchronous(self) -> bool:
        """Whether there is a standby that Patroni would make the primary. PostgreSQL may have a synchronous one already
        that Patroni has not noted in etcd yet: nobody would take over then."""
        roles: set[str] = set()
        for machine in self.machines:
            with suppress(httpx2.HTTPError):
                roles = {member["role"] for member in httpx2.get(machine.rest_url + "/cluster").json()["members"]}
                break
        if not {"leader", "sync_standby"} <= roles:
            return False
        try:
            self._connected().close()
        except psycopg.Error:
            return False
        return True

    def _make_ledger(self) -> None:
        with self._connected() as connection:
            connection.execute(f"CREATE ROLE fleetpush LOGIN PASSWORD '{PASSWORD}'".encode())
            connection.execute("CREATE DATABASE ledger OWNER fleetpush")

    def _connected(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url("postgres", "postgres"), autocommit=True)
