"""A ledger with nothing in it, made once for each test process: all migrations take longer than the rest of a start.

What a first start makes of an empty directory is tested where nothing is prepared: by the programs of the quickstart
(`documents/test_shell_blocks.py`), in `end_to_end/test_surroundings.py`, and by `gateway/store/test_migrations.py`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.store.ledger_file import prepare


@cache
def empty_ledger() -> bytes:
    """The bytes of `fleetpush.db` as a first start makes it."""
    with TemporaryDirectory() as folder:
        prepare(Path(folder) / "empty.db")
        return (Path(folder) / "empty.db").read_bytes()


def make_data_directory(path: Path) -> None:
    """Make a data directory whose server has been stopped before it stored anything."""
    path.mkdir(mode=0o700, parents=True)
    (path / "fleetpush.db").write_bytes(empty_ledger())
