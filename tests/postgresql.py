"""A PostgreSQL server for tests (`run.py test --database postgresql`): one for a run.

Each ledger of a gateway in process has a schema in it, and each data directory of a server process a database.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from gateway.store.postgresql.address import Address, read_address
from gateway.store.postgresql.connection import Connection
from gateway.store.postgresql.server import PostgresqlServer
from tests.third_party import require

URL_VARIABLE = "TESTS_POSTGRESQL"
"""Where the run's server is. Unset: ledgers are files of SQLite."""
_NOBODY = 65_534
"""PostgreSQL refuses to run as root."""
_EMPTY = """
DO $$ DECLARE name text; BEGIN
 FOR name IN SELECT tablename FROM pg_tables
  WHERE schemaname = current_schema AND tablename NOT IN ('alembic_version', 'server_start')
 LOOP
  EXECUTE format('DELETE FROM %I', name);
 END LOOP;
 FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = current_schema LOOP
  PERFORM setval(name::regclass, 1, false);
 END LOOP;
END $$
"""
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

    def __init__(self, *, environment: Mapping[str, str] | None = None, **settings: str) -> None:
        """`environment`: variables of the server besides."""
        self._environment = environment
        self._settings = _CONFIGURATION | settings
        self._folder = TemporaryDirectory(prefix="fleetpush-postgresql-", ignore_cleanup_errors=True)
        self.url = self.address()
        self.running = False

    def __enter__(self) -> Postgresql:
        path = Path(self._folder.name)
        give_away(path)
        run_program("cp", "-R", f"{_new_data()}/data", str(path))
        lines = (f"{name} = {value.format(folder=path)}" for name, value in self._settings.items())
        with (path / "data" / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it again where it has been stopped; returns when it answers."""
        path = Path(self._folder.name)
        command = ("pg_ctl", "start", "--wait", "--pgdata", f"{path}/data", "--log", f"{path}/log")
        run_program(*command, env=self._environment)
        self.running = True

    def stop(self) -> None:
        """End it at once and without a checkpoint, as a crash does."""
        run_program("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", f"{self._folder.name}/data")
        self.running = False

    @contextmanager
    def losing_commits(self) -> Iterator[None]:
        """Forget what is committed within the block, though it was confirmed: as at a fail-over to a standby that was
        not synchronous. Whoever is connected loses the connection at both ends of the block."""
        data, kept = self.folder / "data", self.folder / "kept"
        self.stop()
        run_program("cp", "-R", str(data), str(kept))
        self.start()
        yield
        self.stop()
        run_program("rm", "-R", str(data))
        run_program("mv", str(kept), str(data))
        self.start()

    def require_passwords(self) -> None:
        """Have every user but its own prove by a password who it is."""
        rules = "local all fleetpush trust\nlocal all all scram-sha-256\n"
        (self.folder / "data" / "pg_hba.conf").write_text(rules)
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")

    @property
    def folder(self) -> Path:
        """The folder of its socket and its data."""
        return Path(self._folder.name)

    def address(self, database: str = "postgres") -> str:
        """The address of a database, as the setting `database` has it."""
        return f"postgresql://fleetpush@/{database}?host={self._folder.name}"


@cache
def _new_data() -> Path:
    """A folder with the data of a server that has not been started, for this process to copy: making it anew takes
    longer than most tests of a server."""
    folder = TemporaryDirectory(prefix="fleetpush-postgresql-new-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    path = Path(folder.name)
    give_away(path)
    run_program("initdb", "--pgdata", f"{path}/data", "--username", "fleetpush", "--auth", "trust", "--no-sync")
    return path


@cache
def server_of_process() -> Postgresql:
    """A server that all tests of this process share who have schemas or databases of their own; it ends with it."""
    server = Postgresql().__enter__()
    atexit.register(server.__exit__)
    return server


def run_program(program: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
    """Run one of PostgreSQL's programs to its end, as nobody where the tests are root. `env`: variables besides. Fails
    with what it complains of."""
    done = subprocess.run(
        [require(program), *arguments], cwd="/", env=os.environ | (env or {}), text=True, check=False,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        **unprivileged(),  # type: ignore[call-overload]  # of the types that each has
    )  # fmt: skip
    assert done.returncode == 0, f"{program}: {done.stderr}"


def unprivileged() -> dict[str, object]:
    """What a process is started with that may not be root's."""
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def give_away(path: Path) -> None:
    """Have a file or folder belong to whom `run_program` runs as."""
    if os.geteuid() == 0:
        os.chown(path, _NOBODY, _NOBODY)


def database_for(data_dir: Path) -> str:
    """The address of the database that belongs to a data directory of a server process, made if need be."""
    url = os.environ[URL_VARIABLE]
    name = f"t{hashlib.sha256(str(data_dir).encode()).hexdigest()[:24]}"
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
            connection.execute(f"CREATE DATABASE {name}")
    return url.replace("/postgres?", f"/{name}?")


class SchemaPool:
    """Schemas that this process has made. Making one takes 0.2 s, and emptying it 3 ms: they are used again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[PooledConnection] = []
        self._idle_schemas: list[str] = []
        self._made = 0
        self._of_folders: dict[Path, str] = {}
        self._emptying = psycopg.connect(url, autocommit=True, options="-c lock_timeout=5s")
        atexit.register(self.close)

    def connect(self) -> PooledConnection:
        """A connection to an empty schema, which comes back when it is closed."""
        if self._idle:
            return self._idle.pop()
        return PooledConnection(read_address(self._url), self._taken(), self)

    def backend_for(self, folder: Path) -> PostgresqlServer:
        """The ledger that belongs to a data directory, until that is given back."""
        if folder not in self._of_folders:
            self._of_folders[folder] = self._taken()
        return PostgresqlServer.open(self._url, self._of_folders[folder])

    def give_back(self, folder: Path) -> None:
        """Nobody uses the data directories in a folder any more."""
        for place in [place for place in self._of_folders if place.is_relative_to(folder)]:
            schema = self._of_folders.pop(place)
            self._empty(schema)
            self._idle_schemas.append(schema)

    def keep(self, connection: PooledConnection) -> None:
        """Empty what a connection has filled, for the next."""
        self._empty(connection.schema)
        self._idle.append(connection)

    def close(self) -> None:
        self._emptying.close()
        for connection in self._idle:
            Connection.close(connection)

    def _taken(self) -> str:
        if self._idle_schemas:
            return self._idle_schemas.pop()
        self._made += 1
        schema = f"process_{os.getpid()}_{self._made}"
        PostgresqlServer.open(self._url, schema)
        return schema

    def _empty(self, schema: str) -> None:
        self._emptying.execute("SELECT set_config('search_path', %s, false)", (schema,))
        self._emptying.execute(_EMPTY)


class PooledConnection(Connection):
    """A connection whose schema is emptied, and used again, when it is closed."""

    def __init__(self, address: Address, schema: str, pool: SchemaPool) -> None:
        super().__init__(address, schema)
        self.schema = schema
        self._pool = pool

    def close(self) -> None:
        if self.in_transaction:
            self.execute("ROLLBACK")
        self._pool.keep(self)


@cache
def schema_pool() -> SchemaPool:
    """That of this process."""
    return SchemaPool(os.environ[URL_VARIABLE])


def is_used() -> bool:
    """Whether the ledgers of this run are in PostgreSQL."""
    return URL_VARIABLE in os.environ
