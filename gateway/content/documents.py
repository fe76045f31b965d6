"""The content of a push as a document whose texts may be templates, compiled once and rendered for each difference.

Only strings are templates, one by one: a rendered text is put into its place as a value, and the whole is written as
JSON afterwards. So nothing that a device says of itself can end a string, add a member or change what is around it.

A document is put together of a saved template and of what the push itself says, which wins: of a notification member by
member, of texts by locale, and data as a whole.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.content.locales import LocaleChoice

if TYPE_CHECKING:
    from gateway.content.liquid_language import LiquidText

ROOTS = ("device", "data", "values")
"""Variables of a template."""
DEVICE_FIELDS = ("id", "name", "locale", "timezone", "tags", "attributes")
"""Members of `device`."""
SOURCE_CHARACTERS = 65_536
"""Characters of all templates of a push, together: sixteen of the largest."""
PARSED_CHARACTERS = 131_072
"""Characters of the templates that are kept parsed: with as many variables as they can have, about 13 MiB."""
COMPUTED_MEMBERS = ("size", "first", "last")
"""Members that Liquid makes up: what they are of is read as a whole."""


class _Nothing:
    """The content has no such part, which is not the same as JSON's null."""


NOTHING: Final = _Nothing()


class DocumentFault(Exception):
    """A document's template cannot be used; the message says where it is, and why."""


class MissingText(NamedTuple):
    """A variable that a rendering needs and does not find."""

    variable: str
    where: str
    """The text that needs it, such as `notification.title`."""


@dataclass(slots=True, frozen=True)
class Document:
    """The content of a push, compiled."""

    notification: Any = None
    """Members of the notification; None: it has none."""
    texts: Mapping[str, Any] = field(default_factory=dict)
    """Members of the notification that replace others, by locale. `actions` has titles by the action's id."""
    data: Any = NOTHING
    """The push's data, as it is sent."""
    raw_data: Any = None
    """The same, as templates read it."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What templates are given, and devices are not sent."""

    def over(self, below: Document) -> Document:
        """Merge this document with another, whose parts it replaces."""
        notification = self.notification
        if notification is not None and below.notification is not None:
            notification = {**below.notification, **notification}
        has_data = self.data is not NOTHING
        return Document(
            below.notification if notification is None else notification,
            {**below.texts, **self.texts},
            self.data if has_data else below.data,
            self.raw_data if has_data else below.raw_data,
            {**below.values, **self.values},
        )

    @property
    def shows_texts(self) -> bool:
        """Whether there is something to show to a person."""
        return self.notification is not None or bool(self.texts)

    def templates(self) -> Iterator[tuple[str, LiquidText]]:
        """The templates in it, each with its place."""
        for where, part in (("notification", self.notification), ("texts", self.texts), ("data", self.data)):
            for path, leaf in _leaves(part, where):
                if not isinstance(leaf, str):
                    yield path, leaf

    def device_variables(self) -> tuple[tuple[Any, ...], ...]:
        """The variables of a device that its templates read, as paths below `device`.

        Those that another one contains are left out.
        """
        found = {_column(path[1:]) for _, text in self.templates() for path in text.variables if path[0] == "device"}
        return tuple(sorted((path for path in found if not _is_below(path, found)), key=str))

    def asked_tags(self) -> frozenset[str] | None:
        """The tags that its templates ask for one by one; None: they read all tags of a device."""
        asked: set[str] = set()
        for _, text in self.templates():
            if text.asked_tags is None:
                return None
            asked |= text.asked_tags
        return frozenset(asked)

    def locales(self) -> LocaleChoice:
        return LocaleChoice(self.texts)

    def notification_for(self, chain: tuple[str, ...]) -> dict[str, Any] | None:
        """The members of the notification for devices that have these texts, not yet rendered."""
        if self.notification is None and not chain:
            return None
        merged = dict(self.notification or {})
        for name in reversed(chain):
            text = dict(self.texts[name])
            titles = text.pop("actions", None)
            merged |= text
            if titles:
                merged["actions"] = [
                    action | ({"title": titles[action["id"]]} if action["id"] in titles else {})
                    for action in merged.get("actions") or ()
                ]
        return merged

    def render(
        self, chain: tuple[str, ...], device: Mapping[str, Any]
    ) -> Generator[None, None, tuple[dict[str, Any] | None, Any, list[MissingText]]]:
        """Render it for devices that have these texts and values: (notification, data, what is missing).

        A generator, so that others have a turn between two templates. Raises DocumentFault.
        """
        variables = {"device": device, "data": without_null(self.raw_data) or {}, "values": without_null(self.values)}
        missing: list[MissingText] = []
        notification = self.notification_for(chain)
        rendered = yield from _rendered(notification, "notification", variables, missing)
        data = self.data if self.data is NOTHING else (yield from _rendered(self.data, "data", variables, missing))
        return rendered, data, missing


def without_null(value: Any) -> Any:
    """A JSON value without the members that are null: to a template they are missing."""
    if isinstance(value, dict):
        return {key: without_null(member) for key, member in value.items() if member is not None}
    return [without_null(item) for item in value] if isinstance(value, list) else value


# -- compiling ---------------------------------------------------------------------------------------------------------


async def compile_document(
    *,
    notification: Any = None,
    texts: Mapping[str, Any] | None = None,
    data: Any = NOTHING,
    values: Mapping[str, Any] | None = None,
    is_liquid: bool,
) -> Document:
    """Compile JSON values to a document; their strings are templates if `is_liquid`. Raises DocumentFault."""
    if not is_liquid:
        return Document(notification, texts or {}, data, None if data is NOTHING else data, values or {})

    def compiled() -> Document:  # what comes first loads the language, a tenth of a second
        document = Document(
            _compiled(notification, "notification"),
            _compiled(dict(texts or {}), "texts"),
            data if data is NOTHING else _compiled(data, "data"),
            None if data is NOTHING else data,
            values or {},
        )
        _check(document)
        return document

    try:
        return await asyncio.to_thread(compiled)
    except RecursionError:
        raise DocumentFault("data: it is nested too deeply") from None


def _compiled(value: Any, where: str) -> Any:
    from gateway.content.liquid_language import TemplateFault

    if isinstance(value, str):
        if "{{" not in value and "{%" not in value:
            return value
        try:
            return _PARSED.get(value)
        except TemplateFault as fault:
            raise DocumentFault(f"{where}: {fault}") from None
    if isinstance(value, dict):
        return {key: _compiled(member, f"{where}.{key}") for key, member in value.items()}
    return [_compiled(item, f"{where}.{number}") for number, item in enumerate(value)] if _is_list(value) else value


def _check(document: Document) -> None:
    """Raise DocumentFault for templates that are too long, or read what there never is."""
    characters = 0
    for where, text in document.templates():
        characters += len(text.source)
        if characters > SOURCE_CHARACTERS:
            raise DocumentFault(f"its templates have more than {SOURCE_CHARACTERS} characters, together")
        for path in text.variables:
            if path[0] not in ROOTS:
                raise DocumentFault(f"{where}: there is no variable {path[0]!r}; there are {', '.join(ROOTS)}")
            if path[0] == "device" and (len(path) < 2 or path[1] not in DEVICE_FIELDS):
                named = "device" if len(path) < 2 else f"device.{path[1]}"
                there = ", ".join(f"device.{name}" for name in DEVICE_FIELDS)
                raise DocumentFault(f"{where}: {named} cannot be read; there are {there}")


class _ParsedTemplates:
    """Keeps templates parsed, those that were not used for longest leave. Any thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, LiquidText] = OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()

    def get(self, source: str) -> LiquidText:
        """The parsed template. Raises TemplateFault."""
        from gateway.content.liquid_language import LiquidText

        with self._lock:
            kept = self._kept.get(source)
            if kept is not None:
                self._kept.move_to_end(source)
                return kept
        parsed = LiquidText(source)
        with self._lock:
            if source not in self._kept:
                self._characters += len(source)
                self._kept[source] = parsed
            while self._characters > PARSED_CHARACTERS:
                oldest, _ = self._kept.popitem(last=False)
                self._characters -= len(oldest)
        return parsed


_PARSED = _ParsedTemplates()


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The strings and templates in a value, each with its place."""
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield from _leaves(member, f"{where}.{key}")
    elif _is_list(value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{where}.{number}")
    elif value is not None and not isinstance(value, bool | int | float | _Nothing):
        yield where, value


def _column(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """The part of a path below `device` that is read from a device's row: as far as it is known beforehand."""
    if path[0] != "attributes":
        return path[:1]
    known: list[Any] = []
    for segment in path:
        if segment in COMPUTED_MEMBERS or not _can_be_read(segment):
            break
        known.append(segment)
    return tuple(known)


def _can_be_read(segment: Any) -> bool:
    """Whether a part of a path can be one of SQLite's paths into JSON."""
    return segment >= 0 if isinstance(segment, int) else isinstance(segment, str) and '"' not in segment


def _is_below(path: tuple[Any, ...], others: set[tuple[Any, ...]]) -> bool:
    return any(path[:length] in others for length in range(1, len(path)))


# -- rendering ---------------------------------------------------------------------------------------------------------


def _rendered(
    value: Any, where: str, variables: Mapping[str, Any], missing: list[MissingText]
) -> Generator[None, None, Any]:
    """Render the templates in a value, each a step. Raises DocumentFault."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        members = {}
        for key, member in value.items():
            members[key] = yield from _rendered(member, f"{where}.{key}", variables, missing)
        return members
    if _is_list(value):
        items = []
        for number, item in enumerate(value):
            items.append((yield from _rendered(item, f"{where}.{number}", variables, missing)))
        return items
    from gateway.content.liquid_language import MissingVariable, TemplateFault

    yield
    try:
        return value.render(variables)
    except MissingVariable as error:
        missing.append(MissingText(error.variable, where))
        return ""
    except TemplateFault as fault:
        raise DocumentFault(f"{where}: {fault}") from None
