"""Nodes over a PostgreSQL that confirms what it has on disk, and the devices of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from tests.benchmarks.tools import enrolled, processor_seconds
from tests.end_to_end.harness import Server
from tests.end_to_end.nodes_behind_balancer import relay_without_nudges
from tests.nodes import NODE_URL, NodeProcess


@contextmanager
def nodes_over(
    address: str, folder: Path, count: int, *, nudges: bool = True, env: dict[str, str] | None = None
) -> Iterator[list[NodeProcess]]:
    """Start nodes over a new database of the PostgreSQL at `address`; it is named as the folder, which is made. Without
    `nudges` each is behind a relay that drops them."""
    folder.mkdir()
    name = folder.name.replace("-", "_")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    own = f"{address.rpartition('/')[0]}/{name}"
    with ExitStack() as ending:
        nodes = []
        for number in range(count):
            node = NodeProcess(folder / f"node-{number}", f"{own}?application_name=node-{number}", env=env)
            if not nudges:
                node.env[NODE_URL] = ending.enter_context(relay_without_nudges(folder, node.http_port))
            nodes.append(ending.enter_context(node))
        yield nodes


def divided(listed: Path, connected: int, parts: int) -> list[Path]:
    """Lists of `connected` devices of a list, in equal parts. Neighbours are in different ones: every set of devices
    has some of each part."""
    lines = listed.read_text().splitlines(keepends=True)
    chosen = lines[:: max(len(lines) // connected, 1)][:connected]
    paths = [listed.with_suffix(f".part{part}") for part in range(parts)]
    for part, path in enumerate(paths):
        path.write_text("".join(chosen[part::parts]))
    return paths


def enrolled_for(servers: Sequence[Server], count: int, folder: Path, name: str) -> list[Path]:
    """Enrol NAME0-0 and following, NAME1-0 .., the same number for each server; the load generator's lists of them."""
    return [enrolled(servers[0], count // len(servers), folder, f"{name}{no}") for no in range(len(servers))]


class NodeDatabase:
    """What the nodes' database has written and taken so far, asked by a connection of its own."""

    def __init__(self, node: NodeProcess) -> None:
        address = node.database.partition("?")[0]
        self._connection = psycopg.connect(address, autocommit=True)

    def __enter__(self) -> NodeDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def wal_bytes(self) -> int:
        return self._number("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")

    def size_bytes(self) -> int:
        """Tables and indexes, dead rows among them."""
        return self._number("SELECT pg_database_size(current_database())")

    def analyze(self) -> None:
        """Gather statistics now, as autovacuum does within a minute. Statements that were planned when tables were
        empty, and read the whole of them, are planned anew."""
        self._connection.execute("ANALYZE")

    def processor_seconds(self, number: int) -> float:
        """What PostgreSQL's processes for the connections of node `number`, from 0 on, have taken."""
        asked = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
        return sum(processor_seconds(pid) for (pid,) in self._connection.execute(asked, [f"node-{number}"]).fetchall())

    def _number(self, query: str) -> int:
        (found,) = self._connection.execute(query).fetchone() or (0,)
        return int(found)
