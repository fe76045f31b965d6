"""The drill of docs/operate/postgresql.md, with the commands of the page: the ledger as it was before a mistake.

The blocks are pasted into a shell in their order; folders, ports and the moment are those of this run.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest
import yaml

from tests.benchmarks.tools import free_port
from tests.documents.markdown import blocks
from tests.end_to_end.conftest import Wire, wire
from tests.end_to_end.harness import DATABASE, ROOT, Server, wait_for
from tests.postgresql import Postgresql, give_away, run_program, unprivileged
from tests.third_party import require

__all__ = ["wire"]  # a fixture of the end-to-end tests

PAGE = ROOT / "docs" / "operate" / "postgresql.md"
EXAMPLE = ROOT / "examples" / "cluster"


class Drill:
    """The blocks of the page as this run pastes them."""

    def __init__(self, folder: Path, source: Postgresql, data_dir: Path) -> None:
        self.port = free_port()
        self.folder = folder
        page = PAGE.read_text().splitlines()
        first = page.index("## Recovery to a moment") + 1
        self.blocks = [block.text for block in blocks(PAGE) if block.line > first and block.language == "sh"]
        self.settings = next(block.text for block in blocks(PAGE) if block.line > first and block.language == "ini")
        self._replaced = {
            "--host 10.0.0.21 --username replicator": f"--host {source.folder} --username fleetpush",
            "psql --host 127.0.0.1": "psql --username fleetpush --host 127.0.0.1",
            "/var/lib/fleetpush/data": str(data_dir),
            "/archive": str(folder / "archive"),
            "/recovered": str(folder / "recovered"),
            "5433": str(self.port),
            "examples/cluster/": f"{EXAMPLE}/",
            "/ledger": "/postgres",
            "--dbname ledger": "--dbname postgres",
        }

    def adapted(self, text: str) -> str:
        for theirs, ours in self._replaced.items():
            text = text.replace(theirs, ours)
        return text

    def paste(self, number: int, *, moment: str = "", as_postgres: bool = True) -> str:
        """Run a block; the one with the moment is given it."""
        text = self.adapted(self.blocks[number])
        if moment:
            text, times = re.subn(r"2026-12-01 14:05:00\+00", moment, text)
            assert times == 1, text
        path = f"{Path(require('pg_ctl')).resolve().parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd="/", capture_output=True, text=True, timeout=120,
            env={"PATH": path}, **(unprivileged() if as_postgres else {}),  # type: ignore[call-overload]  # each type
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return str(done.stdout)


@pytest.mark.long
def test_the_ledger_as_it_was_before_a_mistake(tmp_path: Path, wire: Wire) -> None:
    with Postgresql(fsync="on") as postgresql:
        folder = postgresql.folder  # which the user of PostgreSQL may write to
        drill = Drill(folder, postgresql, tmp_path / "data")
        patroni = yaml.safe_load((EXAMPLE / "patroni.yml").read_text())["bootstrap"]["dcs"]["postgresql"]["parameters"]
        for line in drill.settings.splitlines():
            name, _, value = line.partition(" = ")
            assert str(patroni[name]) == value.strip("'"), "the page says what the example does"
        for path in (folder / "archive", folder / "archive" / "wal"):
            path.mkdir()
            give_away(path)
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(drill.adapted(drill.settings))
        postgresql.stop()
        postgresql.start()
        with Server(tmp_path / "data", env={DATABASE: postgresql.address()}) as server:
            api = server.api
            present, absent = api.enrol("present"), api.enrol("absent")
            device = wire(server, present).start()
            kept = [api.push(absent.id)]
            drill.paste(0)
            kept.append(api.push(absent.id))
            seen = api.push(present.id)
            device.wait_push(seen)
            api.wait_counts(seen, delivered=1)
            drill.paste(1, as_postgres=False)
            with psycopg.connect(postgresql.address(), autocommit=True) as connection:
                (moment,) = connection.execute("SELECT clock_timestamp()::text").fetchone() or ("",)
                # The mistake, and life that goes on.
                api.call("DELETE", f"/v1/devices/{absent.id}", 204)
                gone = api.push(present.id)
                device.wait_push(gone)
                (last_event,) = connection.execute("SELECT last_value FROM fleetpush.event_no_seq").fetchone() or (0,)
                (segment,) = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone() or ("",)
            wait_for((folder / "archive" / "wal" / segment).exists, what="the archive to have it")

            drill.paste(2)
            drill.paste(3, moment=moment)
            try:
                assert "recovery stopping before commit" in (folder / "recovered.log").read_text()
                last_block = drill.adapted(drill.blocks[4]).splitlines()
                for line in last_block[:-1]:
                    subprocess.run(["bash", "-euc", line], check=True)
                address = re.search(r"--database (\S+)", last_block[-1])
                assert address is not None
                with Server(folder / "recovered-data", env={DATABASE: address[1]}) as recovered:
                    api = recovered.api
                    assert api.mailbox(absent.id) == kept
                    assert api.counts(seen)["delivered"] == 1
                    assert api.request("GET", f"/v1/pushes/{gone}").status_code == 404
                    again = wire(recovered, present)
                    assert not again.connect().session_present
                    assert again.subscribe(qos=1) == 1
                    after = api.push(present.id)
                    api.wait_counts(after, delivered=1)
                    with psycopg.connect(address[1]) as connection:
                        (first_new,) = connection.execute("SELECT max(no) FROM fleetpush.event").fetchone() or (0,)
                    assert first_new > last_event
            finally:
                run_program("pg_ctl", "stop", "--mode", "immediate", "--pgdata", f"{folder}/recovered")
