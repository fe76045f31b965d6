"""A result beside an earlier one: of a file (`--compare`), or of another revision, measured in turns (`--against`).

Absolute numbers drift with the machine and the hour, so two ratios stand side by side: ours now to ours then, and the
same of ours to its yardstick. The second is what a file of another day can tell; in turns both can be read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure, markdown_table, number_text
from tests.benchmarks.tools import CannotRun


@dataclass(frozen=True)
class Result:
    """What a run has written with `--json`."""

    benchmarks: tuple[str, ...] | None
    """Names of the benchmarks; None: it was written before results had them."""
    figures: list[Figure]

    @classmethod
    def read(cls, path: Path) -> Result:
        """Raises CannotRun."""
        try:
            document = json.loads(path.read_text())
            benchmarks = document.get("benchmarks")
            figures = [Figure.read(figure) for figure in document["figures"]]
        except OSError as error:
            raise CannotRun(f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CannotRun(f"{path} is no result of a benchmark: `--json FILE` writes one.") from None
        return cls(tuple(benchmarks) if benchmarks is not None else None, figures)

    def require(self, benchmarks: Sequence[str], path: Path) -> None:
        """Raises CannotRun when it cannot have a figure of these benchmarks."""
        if self.benchmarks is not None and not set(self.benchmarks) & set(benchmarks):
            raise CannotRun(f"{path} is a result of {', '.join(self.benchmarks)}, not of {', '.join(benchmarks)}.")


@dataclass(frozen=True)
class Comparison:
    """A figure then and now."""

    then: Figure
    now: Figure

    @property
    def change(self) -> float:
        """Ours now to ours then."""
        return self.now.ours / self.then.ours if self.then.ours else float("inf")

    @property
    def change_beside(self) -> float | None:
        """The same of ours to its yardstick; None when the yardstick was not whole in either."""
        if self.then.incomplete is not None or self.now.incomplete is not None or not self.then.ratio:
            return None
        return self.now.ratio / self.then.ratio

    def document(self) -> dict[str, Any]:
        beside = self.change_beside
        return {
            "what": self.now.what,
            "beside": self.now.beside,
            "unit": self.now.unit,
            "then": round(self.then.ours, 4),
            "now": round(self.now.ours, 4),
            "change": round(self.change, 3),
            "change_beside": None if beside is None else round(beside, 3),
        }


def compared(then: Sequence[Figure], now: Sequence[Figure], then_name: str) -> list[Comparison]:
    """The figures that both have, by their names. Raises CannotRun when there is none."""
    earlier = {figure.key: figure for figure in then}
    found = [Comparison(earlier[figure.key], figure) for figure in now if figure.key in earlier]
    if not found:
        raise CannotRun(
            f"{then_name} has no figure in common with this run: it measured {_subjects(then)}; this run measured "
            f"{_subjects(now)}."
        )
    return found


def comparison_table(comparisons: Sequence[Comparison], then: str, now: str) -> str:
    """A Markdown table; `then` and `now` name the two results."""
    rows: list[tuple[str, ...]] = [
        ("what", "unit", then, now, "now / then", "beside", f"ours / it, {then}", f"ours / it, {now}", "now / then")
    ]
    for one in comparisons:
        beside = one.change_beside
        rows.append(
            (
                one.now.what,
                one.now.unit,
                number_text(one.then.ours),
                number_text(one.now.ours),
                f"{one.change:.2f}",
                one.now.beside,
                f"{one.then.ratio:.2f}",
                f"{one.now.ratio:.2f}",
                "incomplete" if beside is None else f"{beside:.2f}",
            )
        )
    return markdown_table(rows)


def _subjects(figures: Sequence[Figure]) -> str:
    return ", ".join(dict.fromkeys(figure.what for figure in figures)) or "nothing"
