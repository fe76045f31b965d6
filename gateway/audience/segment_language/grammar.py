"""The grammar: from text to syntax tree, in time that grows with the length of the text and with nothing else.

It is a part of CEL, the Common Expression Language: its operators, their precedence, its literals. Left out are
arithmetic but for times, `? :`, macros, and comparisons in a row, which CEL allows and nobody means.

`lark` makes an LALR(1) parser of it, whose stack is a list: nothing that somebody writes nests Python's calls. The tree
is built while it parses (`_Builder`), and is refused when it becomes too deep. Before that the tokens are counted, by
one regular expression: a token costs the parser 10 us. It parses on a reader thread, and gives the interpreter's lock
away after every hundred tokens: who waits for a thread that computes has it after 5 ms otherwise.
"""

from __future__ import annotations

import re
import time
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken, v_args

from gateway.audience.segment_language.messages import invalid, quoted
from gateway.audience.segment_language.syntax_tree import (
    MAX_DEPTH_LEVELS,
    MAX_EXPRESSION_CHARACTERS,
    Call,
    Field,
    Items,
    Junction,
    Literal,
    Name,
    Node,
    Operation,
    Prefixed,
)
from gateway.store.segments.terms import Place

MAX_TOKENS = 500
"""Words, values and signs of an expression: 80 conditions, or a list of 240 values. To compile them takes 5 ms."""
LOCK_TOKENS = 100
"""Tokens that are parsed while the interpreter's lock is held, 1 ms."""

GRAMMAR = r"""
?start: either
?either: both | both (OR both)+
?both: relation | relation (AND relation)+
?relation: sum | sum (EQUAL | UNEQUAL | AT_MOST | AT_LEAST | LESS | GREATER | IN) sum -> operation
?sum: unary | sum (PLUS | MINUS) unary -> operation
?unary: member | (NOT | MINUS) unary -> prefixed
?member: primary
    | member DOT NAME -> field
    | member DOT NAME OPEN arguments CLOSE -> method
    | member OPEN_BRACKET either CLOSE_BRACKET -> element
?primary: NAME -> name
    | NAME OPEN arguments CLOSE -> call
    | OPEN either CLOSE -> group
    | OPEN_BRACKET arguments CLOSE_BRACKET -> items
    | (TEXT | FLOAT | INTEGER | TRUE | FALSE | NULL) -> literal
arguments: (either (COMMA either)*)?

OR: "||"
AND: "&&"
EQUAL: "=="
UNEQUAL: "!="
AT_MOST: "<="
AT_LEAST: ">="
LESS: "<"
GREATER: ">"
IN: "in"
PLUS: "+"
MINUS: "-"
NOT: "!"
DOT: "."
COMMA: ","
OPEN: "("
CLOSE: ")"
OPEN_BRACKET: "["
CLOSE_BRACKET: "]"
TRUE: "true"
FALSE: "false"
NULL: "null"
NAME: /[A-Za-z_][A-Za-z0-9_]*/
TEXT: /"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'/
FLOAT: /[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+/
INTEGER: /[0-9]+/
SPACE: /[ \t\r\n\f]+|\/\/[^\n]*/
%ignore SPACE
"""

_TOKEN = re.compile(r"""[A-Za-z0-9_]+|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|["'][^\n]*|\|\||&&|[=!<>]=|[^\s]""")
"""The tokens of the grammar, or more than it has."""
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "`": "`", "?": "?"}
_ESCAPES |= {"a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_LARGEST_INTEGER = 2**63 - 1
_TYPED_QUOTES = "‘’‚‛“”„«»`´"
_WORD_OPERATORS = {"and": "&&", "or": "||", "not": "!", "is": "==", "eq": "==", "ne": "!="}
_MATCHING_WORDS = {"like", "contains", "startswith", "endswith", "matches"}
_UNITS_OF_TIME = {"ms", "s", "m", "h", "d", "w"}
_WRONG_SIGNS = {"=": "==", "&": "&&", "|": "||", "~": "!"}


class _TooDeep(Exception):
    """The tree has more levels than it may."""

    def __init__(self, place: Place) -> None:
        self.place = place


class _BadLiteral(Exception):
    """A text or number that nobody can read."""

    def __init__(self, place: Place, sentence: str) -> None:
        self.place = place
        self.sentence = sentence


def parse(text: str) -> Node:
    """Parse an expression. Raises InvalidExpression."""
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        sentence = f"an expression has at most {MAX_EXPRESSION_CHARACTERS:,} characters"
        raise invalid(text, Place(MAX_EXPRESSION_CHARACTERS, len(text)), sentence)
    for count, token in enumerate(_TOKEN.finditer(text)):
        if count == MAX_TOKENS:
            sentence = (
                f"an expression has at most {MAX_TOKENS:,} words, values and signs; give the devices a tag instead"
            )
            raise invalid(text, Place(*token.span()), sentence)
    try:
        return _tree(text)
    except UnexpectedInput as error:
        raise _explained(text, error) from None
    except _TooDeep as error:
        sentence = f"more than {MAX_DEPTH_LEVELS} levels are nested here; write it with fewer parentheses and signs"
        raise invalid(text, error.place, sentence) from None
    except _BadLiteral as error:
        raise invalid(text, error.place, error.sentence) from None


def _tree(text: str) -> Node:
    """Parse a text whose tokens have been counted. Raises UnexpectedInput, _TooDeep, _BadLiteral."""
    parser = _PARSER.parse_interactive(text)
    for count, _ in enumerate(parser.iter_parse(), 1):
        if count % LOCK_TOKENS == 0:
            time.sleep(0)
    tree: Node = parser.feed_eof()  # type: ignore[no-untyped-call]  # lark says no types of it
    return tree


# -- the tree ----------------------------------------------------------------------------------------------------------


def _place(token: Token) -> Place:
    assert token.start_pos is not None, "of a text"
    assert token.end_pos is not None, "of a text"
    return Place(token.start_pos, token.end_pos)


def _depth(place: Place, *nodes: Node) -> int:
    """The depth of a node over others."""
    depth = 1 + max((node.depth for node in nodes), default=0)
    if depth > MAX_DEPTH_LEVELS:
        raise _TooDeep(place)
    return depth


@v_args(inline=True)
class _Builder(Transformer[Token, Node]):
    """Builds the tree, a node whenever the parser has all of its parts."""

    def literal(self, token: Token) -> Literal:
        place = _place(token)
        match token.type:
            case "TEXT":
                return Literal(place, _unescaped(token, place))
            case "FLOAT":
                number = float(token)
                if number == float("inf"):
                    raise _BadLiteral(place, "this number is too large")
                return Literal(place, number)
            case "INTEGER":
                if len(token) > len(str(_LARGEST_INTEGER)) or int(token) > _LARGEST_INTEGER:
                    raise _BadLiteral(place, f"this number is too large: at most {_LARGEST_INTEGER}")
                return Literal(place, int(token))
        return Literal(place, {"TRUE": True, "FALSE": False, "NULL": None}[token.type])

    def name(self, token: Token) -> Name:
        return Name(_place(token), str(token))

    def group(self, _: Token, node: Node, __: Token) -> Node:
        return node

    def items(self, opened: Token, arguments: tuple[Node, ...], closed: Token) -> Items:
        place = Place(_place(opened).start, _place(closed).end)
        return Items(place, arguments, _depth(place, *arguments))

    def arguments(self, *parts: Any) -> tuple[Node, ...]:
        return parts[::2]

    def field(self, owner: Node, _: Token, name: Token) -> Field:
        place = Place(owner.place.start, _place(name).end)
        return Field(place, owner, str(name), _depth(place, owner))

    def element(self, owner: Node, _: Token, key: Node, closed: Token) -> Field:
        place = Place(owner.place.start, _place(closed).end)
        return Field(place, owner, key, _depth(place, owner, key))

    def call(self, name: Token, _: Token, arguments: tuple[Node, ...], closed: Token) -> Call:
        place = Place(_place(name).start, _place(closed).end)
        return Call(place, str(name), _place(name), None, arguments, _depth(place, *arguments))

    def method(self, owner: Node, _: Token, name: Token, __: Token, arguments: tuple[Node, ...], closed: Token) -> Call:
        place = Place(owner.place.start, _place(closed).end)
        return Call(place, str(name), _place(name), owner, arguments, _depth(place, owner, *arguments))

    def prefixed(self, operator: Token, operand: Node) -> Node:
        place = Place(_place(operator).start, operand.place.end)
        if (
            operator.type == "MINUS"
            and isinstance(operand, Literal)
            and isinstance(operand.value, int | float)
            and not isinstance(operand.value, bool)
        ):
            return Literal(place, -operand.value)
        return Prefixed(place, str(operator), operand, _depth(place, operand))

    def operation(self, left: Node, operator: Token, right: Node) -> Operation:
        place = Place(left.place.start, right.place.end)
        return Operation(place, str(operator), _place(operator), left, right, _depth(place, left, right))

    def either(self, *parts: Any) -> Junction:
        return self._junction("||", parts[::2])

    def both(self, *parts: Any) -> Junction:
        return self._junction("&&", parts[::2])

    def _junction(self, operator: str, operands: tuple[Node, ...]) -> Junction:
        place = Place(operands[0].place.start, operands[-1].place.end)
        return Junction(place, operator, operands, _depth(place, *operands))


def _unescaped(token: str, place: Place) -> str:
    """The text of a literal."""
    body = token[1:-1]
    if "\\" in body:

        def letter(found: re.Match[str]) -> str:
            code = found[1] or found[2] or found[3]
            if code is None:
                if found[4] not in _ESCAPES:
                    raise _BadLiteral(place, f"there is no escape \\{found[4]}; write \\\\ for a backslash")
                return _ESCAPES[found[4]]
            number = int(code, 16)
            if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                raise _BadLiteral(place, f"\\{found[0][1:]} is no character")
            return chr(number)

        body = _ESCAPE.sub(letter, body)
    if "\0" in body:
        raise _BadLiteral(place, "a text cannot contain the character with the number 0")
    if any(0xD800 <= ord(letter) < 0xE000 for letter in body):
        raise _BadLiteral(place, "this text contains half a character")
    return body


_PARSER = Lark(GRAMMAR, parser="lalr", lexer="contextual", transformer=_Builder(), maybe_placeholders=False)


# -- what is wrong -----------------------------------------------------------------------------------------------------


def _explained(text: str, error: UnexpectedInput) -> Exception:
    """The problem for a text that does not parse."""
    if isinstance(error, UnexpectedCharacters):
        return _wrong_character(text, error.pos_in_stream)  # type: ignore[arg-type]  # lark declares None, and sets it
    assert isinstance(error, UnexpectedToken), "the parser has no other"
    token: Token = error.token
    if token.type == "$END":
        return _wrong_end(text)
    place = _place(token)
    before = text[: place.start].rstrip()
    word = str(token)
    shown = word if len(word) < 40 else "this"
    if token.type == "NAME" and word.lower() in _WORD_OPERATORS:
        return invalid(text, place, f"write {_WORD_OPERATORS[word.lower()]} instead of {word}")
    distance = re.search(r"\d+$", text[: place.start])
    if distance is not None and word in _UNITS_OF_TIME:
        return invalid(text, Place(distance.start(), place.end), f"write duration('{distance[0]}{word}')")
    if token.type == "NAME" and word.lower() == "in":
        return invalid(text, place, "write in with small letters")
    if token.type == "NAME" and word.lower() in _MATCHING_WORDS:
        return invalid(text, place, "write attributes.model.contains('K') or attributes.model.startsWith('K') for this")
    if re.search(r"\bnot$", before, re.IGNORECASE):
        return invalid(text, Place(len(before) - 3, len(before)), "write ! instead of not, as in !('hall' in tags)")
    relations = {"EQUAL", "UNEQUAL", "AT_MOST", "AT_LEAST", "LESS", "GREATER", "IN"}
    wants_value = bool({"NAME", "TEXT"} & error.expected)
    if token.type in relations and not wants_value:
        return invalid(text, place, "one comparison ends here; put && or || between it and the next")
    if not before:
        return invalid(text, place, f"an expression cannot begin with {word!r}; it begins like 'hall' in tags")
    if token.type in ("CLOSE", "CLOSE_BRACKET") and not wants_value:
        return invalid(text, place, f"this {word!r} closes nothing; remove it, or open it before")
    if before.endswith("<") and word == ">":
        return invalid(text, Place(len(before) - 1, place.end), "write != instead of <>")
    if wants_value:
        return invalid(text, place, f"a name or a value is missing before {word!r}, such as tags, 'a text' or 5")
    if token.type in ("TEXT", "FLOAT", "INTEGER", "NAME", "TRUE", "FALSE", "NULL"):
        return invalid(
            text,
            place,
            f"{shown} comes unexpectedly: put an operator before it, such as ==, in, && or ||",
        )
    if token.type == "COMMA":
        sentence = "a list is written in brackets, ['a', 'b'], and conditions are joined with && or ||"
        return invalid(text, place, f"this comma comes unexpectedly: {sentence}")
    return invalid(
        text, place, f"{word!r} comes unexpectedly: an operator such as && is missing before it, or it is too much"
    )


def _wrong_character(text: str, at: int) -> Exception:
    letter = text[at]
    place = Place(at, at + 1)
    if letter in "'\"":
        end = text.find("\n", at)
        place = Place(at, len(text) if end < 0 else end)
        return invalid(text, place, f"this text has no end: put {letter} behind its last character")
    if letter in _TYPED_QUOTES:
        return invalid(text, place, "this is a typographic quote; write ' or \" around a text")
    if letter in _WRONG_SIGNS:
        return invalid(text, place, f"write {_WRONG_SIGNS[letter]} instead of {letter}")
    if letter in "?:":
        return invalid(text, place, "there is no 'condition ? a : b' here; write it with &&, || and !")
    if letter in "*/%":
        return invalid(text, place, "there is no arithmetic here but now - duration('7d'); compare with a fixed number")
    if letter in "{}":
        return invalid(text, place, "braces mean nothing here; a list is written ['a', 'b']")
    return invalid(text, place, f"the character {quoted(letter)} means nothing here; a text is written 'like this'")


def _wrong_end(text: str) -> Exception:
    end = len(text.rstrip())
    place = Place(max(end - 1, 0), max(end, 1))
    if not end:
        return invalid(text, Place(0, 1), "the expression is empty; to address all devices use the target all")
    opened: list[tuple[str, int]] = []
    for token in _TOKEN.finditer(text):
        if token[0] in ("(", "["):
            opened.append((token[0], token.start()))
        elif token[0] in (")", "]") and opened:
            opened.pop()
    if opened and text[end - 1] not in "&|=<>!,+-.([":
        sign, at = opened[-1]
        return invalid(
            text, Place(at, at + 1), f"this {sign!r} is never closed; put {')' if sign == '(' else ']'!r} where it ends"
        )
    return invalid(text, place, "something is missing at the end, behind this")
