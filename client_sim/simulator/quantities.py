"""Durations and rates as people write them: `250ms`, `20s`, `5m`, `2h`, `1d`; `100/s`, `30/min`, `5/h`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile(rf"{_NUMBER}\s*(ms|s|min|m|h|d)", re.ASCII)
_RATE = re.compile(rf"{_NUMBER}\s*/\s*(s|min|m|h|d)", re.ASCII)


def seconds(text: object) -> float:
    """The seconds of a duration as a person writes it. Raises ValueError, which says how one is written."""
    found = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r} is no duration: write it as 250ms, 20s, 5m, 2h or 1d")
    return float(found[1]) * UNITS[found[2]]


def per_second(text: object) -> float:
    """The events per second of a rate as a person writes it. Raises ValueError, which says how one is written."""
    found = _RATE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r} is no rate: write it as 100/s, 30/min or 5/h")
    return float(found[1]) / UNITS[found[2]]


def duration(value: float) -> str:
    """`seconds` backwards, in the largest unit that leaves no fraction."""
    for unit in ("d", "h", "m", "s"):
        count = value / UNITS[unit]
        if count >= 1 and count == int(count):
            return f"{count:.0f}{unit}"
    return f"{round(value * 1000)}ms"


Duration = Annotated[float, BeforeValidator(seconds)]
"""Seconds, written as text."""
Rate = Annotated[float, BeforeValidator(per_second)]
"""Per second, written as text."""
