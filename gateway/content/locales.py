"""Locales of texts: which of a push's texts a device is for, by its language tag.

A tag is looked up as RFC 4647, 3.4 has it: `de-AT-1996` has the texts of `de-AT-1996`, `de-AT` and `de`, the first
that there are before the later ones, and behind them the `default`. Letters' case does not matter, and `_` is as good
as `-`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import StringConstraints

DEFAULT = "default"
"""The name of the texts for devices whose locale has none, or that have no locale."""
MAX_LOCALES = 100
"""Locales of a push: about as many as languages that an Android phone can be set to."""

LocaleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{1,8}([-_][A-Za-z0-9]{1,8})*$", max_length=35)]
"""A language tag as devices have one, or `default`. RFC 5646, 4.4.1: no tag in use has more than 35 characters."""


def normalized(locale: str) -> str:
    """A language tag in the form in which tags are compared."""
    return locale.lower().replace("_", "-")


class LocaleChoice:
    """Chooses among the locales that a push has texts in."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {normalized(name): name for name in names}
        self._chosen: dict[str | None, tuple[str, ...]] = {}

    def of(self, locale: str | None) -> tuple[str, ...]:
        """The names of the texts for a device, those that go first first; empty for none."""
        chosen = self._chosen.get(locale)
        if chosen is None:
            found = [] if locale is None else [name for tag in _ranges(locale) if (name := self._names.get(tag))]
            if (default := self._names.get(DEFAULT)) is not None and default not in found:
                found.append(default)
            if len(self._chosen) > 10 * MAX_LOCALES:
                self._chosen.clear()
            chosen = self._chosen[locale] = tuple(found)
        return chosen


def _ranges(locale: str) -> Iterable[str]:
    """A tag, and what is left of it when its last parts are taken away."""
    parts = normalized(locale).split("-")
    while parts:
        yield "-".join(parts)
        parts.pop()
        if parts and len(parts[-1]) == 1:  # a letter introduces what follows it
            parts.pop()
