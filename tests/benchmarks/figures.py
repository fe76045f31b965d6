"""What a benchmark answers: figures beside their yardsticks, medians over runs, a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GOAL = "the goal"
"""The yardstick of a figure whose goal is a number and not a ratio."""


@dataclass(frozen=True)
class Figure:
    """One line of the table: ours, the yardstick of the same run, and which ratio of the two we want."""

    what: str
    unit: str
    ours: float
    beside: str
    """Name of the yardstick."""
    other: float
    at_least: float | None = None
    at_most: float | None = None
    """The goal for ours / other; both None: only to be seen."""
    incomplete: str | None = None
    """Why the yardstick's number is not to be relied on, and no goal is met or missed by it."""
    detail: str | None = None
    """What else is known of it, for who reads the JSON: how it came about."""

    @classmethod
    def read(cls, document: dict[str, Any]) -> Figure:
        """A figure as `document` has written it. Raises KeyError, ValueError, TypeError."""
        sign, _, goal = document["goal"].partition(" ")
        return cls(
            what=document["what"],
            unit=document["unit"],
            ours=float(document["ours"]),
            beside=document["beside"],
            other=float(document["other"]),
            at_least=float(goal) if sign == "≥" else None,
            at_most=float(goal) if sign == "≤" else None,
            incomplete=document.get("incomplete"),  # results of before November 2026 have none
            detail=document.get("detail"),  # nor this
        )

    @property
    def key(self) -> tuple[str, str]:
        """Names the figure among those of a result."""
        return self.what, self.beside

    @property
    def ratio(self) -> float:
        return self.ours / self.other if self.other else float("inf")

    @property
    def is_met(self) -> bool | None:
        if self.incomplete is not None:
            return None
        if self.at_least is not None:
            return self.ratio >= self.at_least
        return self.ratio <= self.at_most if self.at_most is not None else None

    @property
    def goal(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    def document(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": round(self.ours, 4),
            "beside": self.beside,
            "other": round(self.other, 4),
            "ratio": round(self.ratio, 3),
            "goal": self.goal,
            "met": self.is_met,
            "incomplete": self.incomplete,
            "detail": self.detail,
        }


def medians(runs: Sequence[Sequence[Figure]]) -> list[Figure]:
    """The figures of several runs as one each: the run in the middle by its ratio, of those that are complete."""
    found: dict[tuple[str, str], list[Figure]] = {}
    for figures in runs:
        for figure in figures:
            found.setdefault(figure.key, []).append(figure)
    return [_middle([figure for figure in same if figure.incomplete is None] or same) for same in found.values()]


def _middle(figures: Sequence[Figure]) -> Figure:
    return sorted(figures, key=lambda figure: figure.ratio)[(len(figures) - 1) // 2]


def loss(lost: int, messages: int) -> str | None:
    """Why a yardstick's number is incomplete, if it lost any messages."""
    return f"lost {lost:,} of {messages:,} messages" if lost else None


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def table(figures: Sequence[Figure]) -> str:
    """A Markdown table."""
    rows: list[tuple[str, ...]] = [("what", "ours", "unit", "beside", "it", "ours / it", "goal", "")]
    for figure in figures:
        verdict = {True: "met", False: "missed", None: ""}[figure.is_met]
        if figure.incomplete is not None:
            verdict = f"incomplete: {figure.incomplete}"
        numbers = number_text(figure.ours), figure.unit, figure.beside, number_text(figure.other)
        rows.append((figure.what, *numbers, f"{figure.ratio:.2f}", figure.goal, verdict))
    return markdown_table(rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned for a terminal; the first row is its head."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(f"| {' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))} |" for row in rows)


def number_text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
