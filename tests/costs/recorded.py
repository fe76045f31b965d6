"""The recorded costs (`costs.toml`), and what is to be done when what was measured is another one.

Counts are the same each time (`turns`), with the same source, the same Python and the same SQLite. So a rise of more
than `RISE_SHARE` comes from a change; of pages, of which any change of what lies beside a row may split one, more than
`PAGES_SHARE`. So does a fall of more than `FALL_SHARE`, which has to be recorded, or the next change might spend it
unseen. Another Python or SQLite counts a little differently: there only a rise counts, of more than
`RISE_SHARE_ELSEWHERE`.
"""

from __future__ import annotations

import sqlite3
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("costs.toml")
RISE_SHARE = 0.02
PAGES_SHARE = 0.10
FALL_SHARE = 0.10
RISE_SHARE_ELSEWHERE = 0.25
SLACK = 0.003
"""A difference that is none: one statement or page for each of hundreds of deliveries."""
NO_REASON = "..."


@dataclass(frozen=True)
class RecordedCost:
    value: float
    reason: str
    """Why it is no less."""


@dataclass(frozen=True)
class RecordedCosts:
    """Costs by operation and counter, with the versions that they were counted with."""

    versions: dict[str, str]
    costs: dict[str, dict[str, RecordedCost]]

    @classmethod
    def read(cls) -> RecordedCosts:
        document = tomllib.loads(FILE.read_text())
        versions = document.pop("recorded_with")
        costs = {
            operation: {name: RecordedCost(float(number["cost"]), number["reason"]) for name, number in section.items()}
            for operation, section in document.items()
        }
        return cls(versions, costs)

    def complaints(self, measured: Mapping[str, Mapping[str, float]], versions: Mapping[str, str]) -> Iterator[str]:
        """What to change in the file, or in the source: for a person, with the line to paste."""
        if self.costs.keys() != measured.keys():
            yield f"costs.toml has {_names(self.costs)}; measured was {_names(measured)}"
            return
        for operation, counts in measured.items():
            recorded = self.costs[operation]
            for name, count in counts.items():
                if name not in recorded:
                    yield f"[{operation}] new:\n  {line(name, count, NO_REASON)}"
                    continue
                rise = PAGES_SHARE if name == "pages" else RISE_SHARE
                found = compare(recorded[name].value, count, rise if versions == self.versions else None)
                if found is not None:
                    yield f"[{operation}] {found}\n  {line(name, count, recorded[name].reason)}"


def compare(recorded: float, measured: float, rise: float | None = RISE_SHARE) -> str | None:
    """What is wrong with a cost that may rise by that share; None: it was recorded with other versions."""
    change = measured - recorded
    if abs(change) <= SLACK:
        return None
    share = f"{change / recorded:+.1%}" if recorded else f"+{measured:g}"
    if change > recorded * (RISE_SHARE_ELSEWHERE if rise is None else rise):
        return f"dearer, {recorded:g} before ({share}); if it is worth it, with the reason:"
    if rise is not None and change < -recorded * FALL_SHARE:
        return f"cheaper, {recorded:g} before ({share}); keep it so:"
    return None


def _names(operations: Iterable[str]) -> str:
    return ", ".join(operations) or "nothing"


def line(name: str, count: float, reason: str) -> str:
    """A line of the file."""
    return f'{name} = {{ cost = {count:.4g}, reason = "{reason}" }}'


def versions_here() -> dict[str, str]:
    """The versions that counts depend on."""
    return {"python": ".".join(map(str, sys.version_info[:2])), "sqlite": sqlite3.sqlite_version}
