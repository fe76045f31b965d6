"""Liquid, the language of templates, as far as texts of pushes need it, and bounded.

Parsing and rendering is done by python-liquid. This module says what may be used of it, and what a rendering may cost.

Laws
1. A template reads what it is given, and nothing else: no files, no other templates, no clock, no counter that outlives
   it.
2. What is missing is an error, not a blank: a variable that is not there may be asked about (`{% if device.name %}`)
   or be given a `default`, and nothing else.
3. A rendering is bounded by its work, which is counted: the characters that filters and assignments touch, those of
   every value that is looked up (whatever it is compared with), and the characters of the template itself for each turn
   of a loop. No filter makes more of a value than was counted before.
4. A template yields text. What becomes of it, and how it is written as JSON, is not its business.

Loading python-liquid takes a tenth of a second, so this module is imported when the first template comes
(`documents.compile_document`, on a thread).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any

from dateutil import parser
from liquid import BoundTemplate, Environment, RenderContext
from liquid.builtin.expressions import Path, StringLiteral
from liquid.builtin.expressions.logical import ContainsExpression
from liquid.builtin.expressions.primitive import RangeLiteral
from liquid.exceptions import LiquidError, ResourceLimitError, UndefinedError
from liquid.expression import Expression
from liquid.output import LimitedStringIO
from liquid.static_analysis import TemplateAnalysis
from liquid.undefined import UNDEFINED, StrictUndefined

SOURCE_CHARACTERS = 4_096
"""Characters of one template: the size of a whole push, unless the server allows more. The worst takes 50 ms to parse,
on a thread."""
WORK_UNITS = 131_072
"""Work of one rendering: 128 KiB through filters and assignments, about 2 ms; or 16,384 characters of the template gone
through in loops, about 6 ms."""
LOOP_UNITS = 8
"""Work of a character of the template that a loop goes through: a variable costs as much as copying so many."""
VALUE_UNITS = 4
"""Work of a value in a list or object that is looked up, which may be compared or written; and of as many characters,
one for one."""
CALL_UNITS = 32
"""Work of calling a filter."""
OUTPUT_BYTES = 262_144
"""Bytes of a rendered text: the largest push that a server can be set to send."""
LOOP_TURNS = 1_000
"""Turns of all loops around each other."""
LIST_ITEMS = 1_000
"""Items of a list in a filter; `UNIQUE_ITEMS` in one that compares all with all."""
UNIQUE_ITEMS = 100
INTEGER_BITS = 64
"""Bits of a number in a filter."""
MAX_DIGITS = 15
"""Digits that a number can be rounded to: a float has no more."""
DATE_CHARACTERS = 64
_ANY_DAYS = tuple(datetime.datetime(*day, tzinfo=datetime.UTC) for day in ((2001, 1, 1), (2006, 2, 2)))
"""Two days that have nothing in common, the weekday included."""

TAGS = ("if", "unless", "case", "for", "break", "continue", "assign", "capture", "echo", "cycle", "comment", "#")
_SYNTAX_TAGS = ("content", "illegal", "statement", "output", "expression", "raw")
"""Names under which python-liquid keeps what is no tag to a person."""
REFUSED_TAGS = ("include", "render", "tablerow", "increment", "decrement", "ifchanged", "liquid", "doc")
REFUSED_FILTERS = ("strip_html", "safe", "escapejs")
"""`strip_html` takes the square of the text's length; the others are for pages of a browser."""


class TemplateFault(Exception):
    """A template cannot be parsed or rendered; the message says why, for its author."""


class MissingVariable(Exception):
    """A template needs a variable that is not there."""

    def __init__(self, variable: str) -> None:
        super().__init__(variable)
        self.variable = variable


class _Missing(StrictUndefined):
    """A variable that is not there: nothing to a condition and to `default`, an error to everything else."""

    force_liquid_default = True
    allowed_properties = StrictUndefined.allowed_properties | {"__class__", "__bool__", "__eq__", "__liquid__"}

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or other is False or isinstance(other, _Missing)

    __hash__ = None  # type: ignore[assignment]  # equal to None, and not its hash


_ABSENT = object()


class _BoundedContext(RenderContext):
    """Counts the work of assignments and loops. Each rendering has one."""

    def get(self, path: list[object], *, token: Any, default: object = UNDEFINED) -> object:
        """Look a variable up. One that is missing is named as its author has written it."""
        if default is not UNDEFINED:
            return super().get(path, token=token, default=default)
        found = super().get(path, token=token, default=_ABSENT)
        _env(self).spend_looking_at(found)
        return _Missing(str(path[0]), hint=_named(path), token=token) if found is _ABSENT else found

    def assign(self, key: str, val: Any) -> None:
        _env(self).spend(_size(val))
        super().assign(key, val)

    def get_buffer(self, buf: Any = None) -> LimitedStringIO:
        used = buf.size if isinstance(buf, LimitedStringIO) else 0
        return LimitedStringIO(limit=OUTPUT_BYTES - used, newline="")

    def raise_for_loop_limit(self, length: int = 1) -> None:
        _env(self).spend(length * LOOP_UNITS * _env(self).source_characters)
        super().raise_for_loop_limit(length)


class _BoundedTemplate(BoundTemplate):
    """A template that changes no end of a line: what is put in comes out."""

    context_class = _BoundedContext

    def _get_buffer(self) -> LimitedStringIO:
        return LimitedStringIO(limit=OUTPUT_BYTES, newline="")


class _BoundedEnvironment(Environment):
    """python-liquid with the tags and filters that texts may use. It renders one template at a time."""

    template_class = _BoundedTemplate
    loop_iteration_limit = LOOP_TURNS
    output_stream_limit = OUTPUT_BYTES
    local_namespace_limit = OUTPUT_BYTES
    context_depth_limit = 16
    block_nesting_limit = 16

    def __init__(self) -> None:
        super().__init__(undefined=_Missing)
        for name in REFUSED_TAGS:
            self.tags.pop(name, None)
        for name in REFUSED_FILTERS:
            self.filters.pop(name, None)
        for name, function in self.filters.items():
            # `default` alone is for what is missing, and makes nothing of what is there.
            self.filters[name] = function if name == "default" else self._counted(name, function)
        self.left = 0
        """Work that the rendering under way may still do."""
        self.source_characters = 0
        """Characters of the template that is being rendered."""

    def spend(self, units: int) -> None:
        """Count work. Raises ResourceLimitError when there was too much."""
        self.left -= units
        if self.left < 0:
            raise ResourceLimitError("it does too much: fewer loops and filters, or shorter values", token=None)

    def spend_looking_at(self, value: object) -> None:
        """Count the work of what may be done with a value by itself: comparing and writing it.

        Raises ResourceLimitError when there was too much; a large value is not walked to its end.
        """
        if isinstance(value, str):
            self.spend(len(value) // VALUE_UNITS)
        elif isinstance(value, list | dict):
            waiting: list[Any] = [value]
            while waiting:
                container = waiting.pop()
                self.spend(VALUE_UNITS * len(container))
                for item in container.values() if isinstance(container, dict) else container:
                    if isinstance(item, str):
                        self.spend(len(item) // VALUE_UNITS)
                    elif isinstance(item, list | dict):
                        waiting.append(item)

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        check = _CHECKS.get(name)

        @wraps(function)  # with the marks that say what the filter wants to be given
        def counted(value: Any, *arguments: Any, **named: Any) -> Any:
            given = [argument for argument in (*arguments, *named.values()) if argument is not self]
            self.spend(CALL_UNITS + _size(value) + sum(map(_size, given)))
            if check is not None:
                value = check(self, value, given)
            result = function(value, *arguments, **named)
            self.spend(_size(result))
            return result

        return counted


def _env(context: RenderContext) -> _BoundedEnvironment:
    env = context.env
    assert isinstance(env, _BoundedEnvironment), "the only one that there is"
    return env


def _size(value: object) -> int:
    """Units of work that copying a value is. Raises ResourceLimitError for one that is too large for a filter."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int):
        if value.bit_length() > INTEGER_BITS:
            raise ResourceLimitError("a number is too large", token=None)
        return 1
    if isinstance(value, list | tuple):
        if len(value) > LIST_ITEMS:
            raise ResourceLimitError(f"a list has more than {LIST_ITEMS} items", token=None)
        return len(value) + sum(map(_size, value))
    if isinstance(value, dict):
        return sum(len(str(key)) + _size(item) for key, item in value.items())
    return 1


# -- filters that could make much of little ----------------------------------------------------------------------------


def _check_replace(env: _BoundedEnvironment, value: Any, given: Sequence[Any]) -> Any:
    if len(given) >= 2:
        env.spend(str(value).count(str(given[0])) * len(str(given[1])))
    return value


def _check_join(env: _BoundedEnvironment, value: Any, given: Sequence[Any]) -> Any:
    if given and isinstance(value, list | tuple):
        env.spend(len(value) * len(str(given[0])))
    return value


def _check_unique(_: _BoundedEnvironment, value: Any, __: Sequence[Any]) -> Any:
    if isinstance(value, list | tuple) and len(value) > UNIQUE_ITEMS:
        raise ResourceLimitError(f"a list has more than {UNIQUE_ITEMS} items", token=None)
    return value


def _check_round(_: _BoundedEnvironment, value: Any, given: Sequence[Any]) -> Any:
    if given and not (isinstance(given[0], int) and abs(given[0]) <= MAX_DIGITS):
        raise ResourceLimitError(f"round takes a number up to {MAX_DIGITS}", token=None)
    return value


def _check_date(_: _BoundedEnvironment, value: Any, given: Sequence[Any]) -> Any:
    if isinstance(value, str) and value.strip().lower() in ("now", "today"):
        raise TemplateFault("a text does not know the time: send it in `data` or `values`")
    if len(str(value)) > DATE_CHARACTERS or any(len(str(argument)) > DATE_CHARACTERS for argument in given):
        raise ResourceLimitError(f"a date has more than {DATE_CHARACTERS} characters", token=None)
    if isinstance(value, str) and _is_relative(value):
        raise TemplateFault("a date needs its day, month and year: a text does not know which day it is")
    if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
        return datetime.datetime.fromtimestamp(int(value), datetime.UTC)  # not the zone of the server's machine
    return value


def _is_relative(date: str) -> bool:
    """Whether a text that can be read as a date leaves some of it to the day on which it is read, such as `12:00`."""
    try:
        return len({parser.parse(date, default=day).date() for day in _ANY_DAYS}) > 1
    except (ValueError, OverflowError):
        return False  # the filter leaves it as it is


_CHECKS: dict[str, Callable[[_BoundedEnvironment, Any, Sequence[Any]], Any]] = {
    "replace": _check_replace,
    "join": _check_join,
    "uniq": _check_unique,
    "round": _check_round,
    "date": _check_date,
}
_ENVIRONMENT = _BoundedEnvironment()
TAG_NAMES = frozenset(_ENVIRONMENT.tags)
FILTER_NAMES = frozenset(_ENVIRONMENT.filters)


class LiquidText:
    """A parsed template, which yields a text for the variables that it is given."""

    __slots__ = ("_template", "asked_tags", "source", "variables")

    def __init__(self, source: str) -> None:
        """Parse a template. Any thread. Raises TemplateFault."""
        if len(source) > SOURCE_CHARACTERS:
            raise TemplateFault(f"a template has at most {SOURCE_CHARACTERS} characters, and this one {len(source)}")
        self.source = source
        try:
            self._template = _ENVIRONMENT.from_string(source)
            found = self._template.analyze(include_partials=False)
            self._check(found)
        except (LiquidError, RecursionError) as error:
            raise TemplateFault(_first_line(error)) from None
        self.variables: tuple[tuple[Any, ...], ...] = tuple(
            {_path(variable.segments): None for of_name in found.globals.values() for variable in of_name}
        )
        """The variables that it reads, each as its path: names, numbers, and None for what is only known when it is
        rendered."""
        self.asked_tags = self._asked_tags()
        """The tags that it asks for with `device.tags contains "TAG"`; None: it reads the tags in another way, too."""

    def _check(self, found: TemplateAnalysis) -> None:
        for name in found.filters:
            if name not in FILTER_NAMES:
                raise TemplateFault(f"there is no filter {name!r}; there are {', '.join(sorted(FILTER_NAMES))}")
        for node in self._template.nodes:
            if any(isinstance(expression, RangeLiteral) for expression in _expressions(node)):
                raise TemplateFault("ranges such as (1..5) are not available: loop over a list")

    def _asked_tags(self) -> frozenset[str] | None:
        expressions = [expression for node in self._template.nodes for expression in _expressions(node)]
        reads = sum(isinstance(found, Path) and found.location()[:2] == _TAGS_PATH for found in expressions)
        asked = [
            str(found.right.value)
            for found in expressions
            if isinstance(found, ContainsExpression)
            and isinstance(found.right, StringLiteral)
            and isinstance(found.left, Path)
            and found.left.location() == _TAGS_PATH
        ]
        return frozenset(asked) if len(asked) == reads else None

    def render(self, variables: Mapping[str, Any]) -> str:
        """Render the text. Loop; bounded by WORK_UNITS. Raises MissingVariable, TemplateFault."""
        _ENVIRONMENT.left = WORK_UNITS
        _ENVIRONMENT.source_characters = len(self.source)
        try:
            return self._template.render(variables)
        except UndefinedError as error:
            raise MissingVariable(str(error.args[0])) from None  # what `_BoundedContext.get` has named
        except TemplateFault:
            raise
        except (LiquidError, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise TemplateFault(_first_line(error)) from None


def _expressions(node: Any) -> Iterator[Expression]:
    """All expressions in a node of a syntax tree, those in other expressions included."""
    context = RenderContext(_NO_TEMPLATE)
    waiting: list[Expression] = list(node.expressions())
    while waiting:
        expression = waiting.pop()
        yield expression
        waiting.extend(expression.children())
    for child in node.children(context, include_partials=False):
        yield from _expressions(child)


_TAGS_PATH = ("device", "tags")
_NO_TEMPLATE = _ENVIRONMENT.from_string("")


def _path(segments: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(None if isinstance(segment, list) else segment for segment in segments)


def _named(path: Sequence[object]) -> str:
    """A variable as people write it."""
    return str(path[0]) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path[1:])


def _first_line(error: BaseException) -> str:
    """The message of an error, in one line and without the picture of the source."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = str(error.args[0]) if error.args else str(error)
    return text.partition("\n")[0][:200] or type(error).__name__
