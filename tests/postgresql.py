"""A PostgreSQL server for tests (`run.py test --database postgresql`): one for a run, and a schema for each ledger."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.store.postgresql.server import PostgresqlServer
from tests.third_party import require

URL_VARIABLE = "FLEETPUSH_TEST_POSTGRESQL"
"""Where the run's server is. Unset: ledgers are files of SQLite."""
_NOBODY = 65_534
"""PostgreSQL refuses to run as root."""
_CONFIGURATION = {
    "listen_addresses": "''",
    "unix_socket_directories": "'{folder}'",
    "max_connections": "400",  # four workers, each with some gateways, and five connections for each of those
    # A run makes a thousand schemas, and takes no power cut: a test of those starts a server of its own.
    "fsync": "off",
    "max_locks_per_transaction": "1024",
}


class Postgresql:
    """A server on a socket in a folder of its own; `url` is there while the block lasts."""

    def __init__(self, **settings: str) -> None:
        self._settings = _CONFIGURATION | settings
        self._folder = TemporaryDirectory(prefix="fleetpush-postgresql-", ignore_cleanup_errors=True)
        self.url = f"host={self._folder.name} user=fleetpush dbname=postgres"

    def __enter__(self) -> Postgresql:
        path = Path(self._folder.name)
        if os.geteuid() == 0:
            os.chown(path, _NOBODY, _NOBODY)
        self._run("initdb", "--pgdata", f"{path}/data", "--username", "fleetpush", "--auth", "trust", "--no-sync")
        lines = (f"{name} = {value.format(folder=path)}" for name, value in self._settings.items())
        with (path / "data" / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")
        self._run("pg_ctl", "start", "--wait", "--pgdata", f"{path}/data", "--log", f"{path}/log")
        return self

    def __exit__(self, *_: object) -> None:
        path = Path(self._folder.name)
        self._run("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", f"{path}/data")
        self._folder.cleanup()

    def _run(self, program: str, *arguments: str) -> None:
        as_nobody = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        command = [require(program), *arguments]
        done = subprocess.run(
            command, cwd="/", text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
            **as_nobody,  # type: ignore[call-overload]  # of the types that each has
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stderr}"


def schema_for(folder: Path) -> str:
    """The name of a schema that outlives a gateway, as the files in its folder do."""
    return f"t{hashlib.sha256(str(folder).encode()).hexdigest()[:24]}"


def backend_for(folder: Path) -> PostgresqlServer:
    """The ledger that belongs to a data directory."""
    return PostgresqlServer.open(os.environ[URL_VARIABLE], schema_for(folder))
