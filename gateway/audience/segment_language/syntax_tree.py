"""The syntax tree: an expression as it was written, before anybody asks whether it makes sense.

Each node knows its place in the text, for messages, and its depth: a tree that is deeper than `MAX_DEPTH_LEVELS` is not
made, so whatever walks one may call itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from gateway.store.segments.terms import Place

MAX_EXPRESSION_CHARACTERS = 4_096
"""Characters of an expression, wherever it comes from."""
MAX_DEPTH_LEVELS = 32
"""Levels of a tree. People nest four or five; each level is a call of the type checker and of the compiler, and one of
the 1,000 that SQLite's parser has."""

Constant: TypeAlias = str | int | float | bool | None


@dataclass(slots=True, frozen=True)
class Literal:
    """A text, a number, true, false or null."""

    place: Place
    value: Constant
    depth: int = 1


@dataclass(slots=True, frozen=True)
class Name:
    """A name by itself, such as `tags`."""

    place: Place
    name: str
    depth: int = 1


@dataclass(slots=True, frozen=True)
class Items:
    """A list of expressions in brackets."""

    place: Place
    items: tuple[Node, ...]
    depth: int


@dataclass(slots=True, frozen=True)
class Field:
    """A field of something: `owner.name` or `owner['name']`; then `name` is any expression."""

    place: Place
    owner: Node
    name: str | Node
    depth: int


@dataclass(slots=True, frozen=True)
class Call:
    """A call of a function, or of a method of `owner`."""

    place: Place
    name: str
    name_place: Place
    owner: Node | None
    arguments: tuple[Node, ...]
    depth: int


@dataclass(slots=True, frozen=True)
class Prefixed:
    """An operator and its operand: `!` or `-`."""

    place: Place
    operator: str
    operand: Node
    depth: int


@dataclass(slots=True, frozen=True)
class Operation:
    """Two operands and what is between them: a comparison, `in`, `+` or `-`."""

    place: Place
    operator: str
    operator_place: Place
    left: Node
    right: Node
    depth: int


@dataclass(slots=True, frozen=True)
class Junction:
    """Conditions that are joined by `&&`, or by `||`."""

    place: Place
    operator: str
    operands: tuple[Node, ...]
    depth: int


Node: TypeAlias = Literal | Name | Items | Field | Call | Prefixed | Operation | Junction
