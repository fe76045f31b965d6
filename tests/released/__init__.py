"""Data directories that servers of earlier schemas have left, one file for each: `rNNNN.tar.xz`.

Made by that version's own code (`python -m tests.released.make TREE`), and killed with everything under way: what waits
for a device that is away, what a device has and has not acknowledged, a QoS 2 message on either side of PUBREC, events.
`released` unpacks one; its `facts` say what was true, and so has to be after an upgrade.

`pNNNN.sql.xz` are schemas in PostgreSQL that such servers have left (`test_postgresql_upgrade`).

Add one when a schema is released that people have data in; those that are here stay what they are.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FACTS = "facts.json"


@dataclass(frozen=True)
class ReleasedDirectory:
    """A data directory of an earlier version, and what was true in it."""

    data_dir: Path
    revision: str
    facts: dict[str, Any]


def revisions() -> list[str]:
    return sorted(path.name.removesuffix(".tar.xz").removeprefix("r") for path in HERE.glob("r*.tar.xz"))


def released(revision: str, data_dir: Path) -> ReleasedDirectory:
    """Unpack the data directory of a schema revision."""
    data_dir.mkdir(mode=0o700)
    with tarfile.open(HERE / f"r{revision}.tar.xz") as tar:
        tar.extractall(data_dir, filter="data")
    facts = data_dir / FACTS
    found = json.loads(facts.read_text())
    facts.unlink()
    return ReleasedDirectory(data_dir, revision, found)
