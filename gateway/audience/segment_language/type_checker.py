"""The type checker: from a syntax tree to conditions, or to a message that says what to write instead.

Every expression has a type: a condition, a text, a number, a time. The type of an attribute is known when a device is
looked at, and not before; it is compared with a constant, so the constant decides which devices can match. Whatever
would silently match nobody is refused here, as far as it can be seen: a version that is compared as a text, a consent
that does not exist, a tag with a blank.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn, cast

from gateway.audience.segment_language import names
from gateway.audience.segment_language.messages import QUOTED_CHARACTERS, invalid, quoted, shortened
from gateway.audience.segment_language.operands import (
    FIXED_OPERANDS,
    AttributeValue,
    AttributeVersion,
    Fixed,
    FixedVersion,
    ListValue,
    NameSet,
    NoCondition,
    NullValue,
    Operand,
    SetSize,
    Span,
    TextField,
    TimeField,
    duration_ms,
    timestamp_ms,
    version_components,
)
from gateway.audience.segment_language.syntax_tree import (
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
from gateway.misspelling import nearest
from gateway.names import NAME_PATTERN
from gateway.store.attribute_index import NAME_CHARACTERS, TEXT_CHARACTERS
from gateway.store.segments.terms import (
    VERSION_COMPONENTS,
    AllOf,
    Always,
    AnyOf,
    AttributeTest,
    Comparison,
    FieldTest,
    HasChannelReceipt,
    HasMissed,
    HasReceipt,
    IsMember,
    IsMuted,
    IsOnline,
    IsPresent,
    MembershipCount,
    Moment,
    Negation,
    OneOf,
    Operator,
    Place,
    Term,
    TextMatch,
    TimeTest,
    Value,
    VersionComparison,
    terms_within,
)

MAX_TERMS = 100
"""Conditions of an expression: each is asked of every device that the others leave, some 0.5 us each."""
MAX_RECEIPT_TERMS = 10
"""Conditions about receipts among them: each may have to read all deliveries of a push, or the pushes of a channel."""
MAX_SPAN_MS = 400 * 86_400_000
"""Longest duration: as long as the counts of a push are kept."""

_NAME = re.compile(NAME_PATTERN)
"""Tags, topics and channels, as the API has them."""
_PUSH_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MIRRORED: Final = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def check(text: str, tree: Node) -> Term:
    """Check an expression, and make its conditions. Raises InvalidExpression."""
    checker = _Checker(text)
    term = checker.condition(tree)
    found = terms_within(term)
    if len(found) > MAX_TERMS:
        checker.refuse(
            tree, f"an expression has at most {MAX_TERMS} conditions, and this has {len(found)}; use a list"
            " (attributes.model in ['K1', 'K2']), or give the devices a tag"
        )  # fmt: skip
    receipts = sum(isinstance(one, HasReceipt | HasMissed | HasChannelReceipt) for one in found)
    if receipts > MAX_RECEIPT_TERMS:
        checker.refuse(
            tree, f"an expression asks for receipts at most {MAX_RECEIPT_TERMS} times, this {receipts} times"
        )
    return term


class _Checker:
    """Walks the tree of one text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def refuse(self, at: Node | Place, sentence: str) -> NoReturn:
        raise invalid(self._text, at if isinstance(at, Place) else at.place, sentence)

    # -- conditions --------------------------------------------------------------------------------------------------

    def condition(self, node: Node) -> Term:
        """The condition that a node is."""
        match node:
            case Junction(operator=operator, operands=operands):
                joined = AllOf if operator == "&&" else AnyOf
                terms = [self.condition(operand) for operand in operands]
                flat = [one for term in terms for one in (term.terms if isinstance(term, joined) else (term,))]
                return joined(tuple(flat))
            case Prefixed(operator="!", operand=Literal(value=str())):
                self.refuse(node, "! stands before a condition, so put parentheses around it: !('hall' in tags)")
            case Prefixed(operator="!", operand=operand):
                return Negation(self.condition(operand))
        return self._as_condition(node, self._operand(node))

    def _as_condition(self, node: Node, operand: Operand) -> Term:
        match operand:
            case Fixed(bool() as value):
                return Always(value)
            case AttributeValue(name):
                return AttributeTest(name, Comparison("==", True))
            case Fixed(value):
                self.refuse(
                    node, f"{self._shown(node)} alone is no condition; compare it, such as attributes.model == 'K2'"
                )
            case NameSet(of):
                self.refuse(node, f"{of} alone is no condition; write {names.SETS[of]}")
            case TextField(field) | TimeField(field):
                self.refuse(node, f"{field} alone is no condition; write {names.FIELDS[field]}, or has({field})")
            case NullValue():
                self.refuse(node, "null is no condition")
            case ListValue():
                self.refuse(node, "a list alone is no condition; write attributes.model in ['K1', 'K2']")
            case Moment() | Span():
                self.refuse(node, "a time alone is no condition; write last_seen > now - duration('7d')")
            case SetSize(of):
                self.refuse(node, f"a number alone is no condition; write size({of}) > 2")
            case AttributeVersion() | FixedVersion():
                self.refuse(node, f"a version alone is no condition; write {names.FUNCTIONS['version']}")
        return operand

    def _operand(self, node: Node) -> Operand:
        """The meaning of a node."""
        match node:
            case Literal(value=None):
                return NullValue()
            case Literal(value=value):
                return Fixed(cast(Value, value))
            case Name():
                return self._name(node)
            case Field():
                return self._field(node)
            case Call():
                return self._method(node, node.owner) if node.owner is not None else self._function(node)
            case Items(items=items):
                return ListValue(tuple((item, self._operand(item)) for item in items))
            case Operation(operator="in"):
                return self._membership(node)
            case Operation(operator="+" | "-"):
                return self._moment(node)
            case Operation():
                return self._comparison(node)
            case Prefixed(operator="-"):
                self.refuse(node, "a minus stands before a number, or before a duration that is taken from a time")
        return self.condition(node)

    # -- names -------------------------------------------------------------------------------------------------------

    def _name(self, node: Name) -> Operand:
        name = node.name
        if name in names.SETS:
            return NameSet(name)
        if name in names.TEXTS:
            return TextField(name)
        if name in names.TIMES:
            return TimeField(name)
        if name == "online":
            return IsOnline()
        if name == "now":
            return Moment(0, from_now=True)
        if name == "attributes":
            self.refuse(node, "attributes has no value itself; write which one, such as attributes.model == 'K2'")
        if name in names.FUNCTIONS:
            self.refuse(node, f"{name} is a function; write {names.FUNCTIONS[name]}")
        self._unknown(node.place, name, (*names.FIELDS, *names.FUNCTIONS), names.FIELDS | names.FUNCTIONS)

    def _unknown(self, place: Place, name: str, known: tuple[str, ...], examples: dict[str, str]) -> NoReturn:
        """Refuse a name that nobody knows, and propose one."""
        shown = quoted(name)
        if name in ("True", "TRUE", "False", "FALSE"):
            self.refuse(place, f"write {name.lower()} in small letters")
        if name in ("None", "NULL", "nil", "undefined"):
            self.refuse(place, "write !has(attributes.model) for an attribute that is missing")
        if name in names.ELSEWHERE:
            self.refuse(place, f"there is no {shown} here; write {names.ELSEWHERE[name]}")
        like = nearest(name[:NAME_CHARACTERS], known)
        if like is None:
            lowered = name.lower()[:NAME_CHARACTERS]
            like = next((one for one in known if one.lower() == lowered), None)
        if like is not None:
            example = "" if examples[like] == like else f", as in {examples[like]}"
            self.refuse(place, f"there is no {shown}; did you mean {like!r}{example}?")
        if known is _METHOD_NAMES:
            self.refuse(place, f"a text has no {shown}; there are {', '.join(known[:-1])} and {known[-1]}")
        if known is _FUNCTION_NAMES:
            others = ", ".join([*known[: known.index("delivered")], "opened"])
            self.refuse(place, f"there is no function {shown}; there are {others} and others for receipts")
        short = name if len(name) <= QUOTED_CHARACTERS else "NAME"
        self.refuse(
            place,
            f"{short} means nothing here; write '{short}' if it is a text, or attributes.{short} if it is an attribute",
        )

    def _field(self, node: Field) -> Operand:
        owner = node.owner
        if isinstance(owner, Name) and owner.name == "attributes":
            if isinstance(node.name, str):
                name = node.name
            elif isinstance(node.name, Literal) and isinstance(node.name.value, str):
                name = node.name.value
            else:
                self.refuse(node.name, "the name of an attribute is written in quotes: attributes['floor no']")
            if not 1 <= len(name) <= NAME_CHARACTERS:
                self.refuse(
                    node, f"the name of an attribute that can be asked for has 1 to {NAME_CHARACTERS} characters"
                )
            return AttributeValue(name)
        operand = self._operand(owner)
        if isinstance(operand, AttributeValue):
            self.refuse(
                node,
                "what is within an attribute cannot be asked for, only texts, numbers and booleans at the first level;"
                f" an attribute whose name has a dot is written attributes[{quoted(self._shown(node)[11:])}]",
            )
        if isinstance(node.name, str) and node.name in names.METHODS:
            self.refuse(node, f"{node.name} is a function; write {names.METHODS[node.name]}")
        if isinstance(operand, NameSet):
            self.refuse(node, f"{operand.of} is a list of names; write {names.SETS[operand.of]}")
        self.refuse(node, f"{self._shown(owner)} has no fields; only attributes have: attributes.model")

    def _shown(self, node: Node) -> str:
        return shortened(" ".join(self._text[node.place.start : node.place.end].split()))

    # -- functions ---------------------------------------------------------------------------------------------------

    def _function(self, node: Call) -> Operand:
        name = node.name
        if name in names.METHODS:
            self.refuse(node.name_place, f"{name} is written behind the text: {names.METHODS[name]}")
        if name not in names.FUNCTIONS:
            if name in names.FIELDS:
                self.refuse(node.name_place, f"{name} is no function; write {names.FIELDS[name]}")
            self._unknown(node.name_place, name, _FUNCTION_NAMES, names.FUNCTIONS)
        wanted = 2 if name in names.CHANNEL_RECEIPTS else 1
        if len(node.arguments) != wanted:
            many = "one value" if wanted == 1 else "two values"
            self.refuse(node, f"{name} takes {many} in its parentheses: {names.FUNCTIONS[name]}")
        argument = node.arguments[0]
        if name == "has":
            return self._has(argument)
        if name == "size":
            operand = self._operand(argument)
            if not isinstance(operand, NameSet):
                self.refuse(argument, "size counts tags or topics: size(tags) > 2")
            return SetSize(operand.of)
        if name == "version":
            return self._version(argument)
        constant = self._constant_text(argument, names.FUNCTIONS[name])
        if name == "timestamp":
            return Moment(self._timestamp_ms(argument, constant), from_now=False)
        if name == "duration":
            return Span(self._duration_ms(argument, constant))
        if name in names.RECEIPTS or name == names.HAS_MISSED:
            if not _PUSH_ID.fullmatch(constant):
                self.refuse(argument, "this is no push id; it is the push_id in the answer to a push")
            if name == names.HAS_MISSED:
                return HasMissed(constant, argument.place)
            return HasReceipt(names.RECEIPTS[name], constant, argument.place)
        if not _NAME.fullmatch(constant):
            self.refuse(argument, "no channel is called so; the names have letters, digits and _ . : - only")
        if name == "muted":
            return IsMuted(constant)
        span = self._operand(node.arguments[1])
        if not isinstance(span, Span):
            self.refuse(node.arguments[1], f"a duration belongs here: {names.FUNCTIONS[name]}")
        return HasChannelReceipt(names.CHANNEL_RECEIPTS[name], constant, span.ms)

    def _constant_text(self, node: Node, example: str) -> str:
        if isinstance(node, Literal) and isinstance(node.value, str):
            return node.value
        if isinstance(node, Name) and node.name not in names.FIELDS:
            self.refuse(node, f"a text is written in quotes: '{node.name[:40]}'")
        self.refuse(node, f"a text in quotes belongs here: {example}")

    def _has(self, argument: Node) -> Term:
        operand = self._operand(argument)
        match operand:
            case AttributeValue(name):
                return AttributeTest(name, IsPresent())
            case TextField(field):
                return FieldTest(field, IsPresent())  # type: ignore[arg-type]  # a name of the table
            case TimeField(field):
                return TimeTest(field, "==", None)  # type: ignore[arg-type]  # a name of the table
            case NameSet(of):
                self.refuse(argument, f"write size({of}) > 0 to ask whether a device has any {of}")
        self.refuse(argument, "has asks whether a device has an attribute: has(attributes.model)")

    def _version(self, argument: Node) -> Operand:
        operand = self._operand(argument)
        match operand:
            case AttributeValue(name):
                return AttributeVersion(name)
            case Fixed(str() as text):
                components = version_components(text)
                if components is None:
                    self.refuse(
                        argument,
                        f"this is no version: up to {VERSION_COMPONENTS} numbers with dots between them, such as '2.3'",
                    )
                return FixedVersion(components)
            case Fixed():
                self.refuse(argument, f"a version is written in quotes: version('{self._shown(argument)}')")
        self.refuse(argument, f"a version is a text or an attribute: {names.FUNCTIONS['version']}")

    def _timestamp_ms(self, node: Node, text: str) -> int:
        try:
            found = timestamp_ms(text)
        except ValueError:
            self.refuse(node, "there is no such day or time")
        if found is not None:
            return found
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            self.refuse(node, f"the time of the day is missing: write '{text}T00:00:00Z' (UTC)")
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}", text):
            self.refuse(node, f"the offset is missing: write '{text}Z' (UTC), or '{text}+01:00'")
        self.refuse(node, "a time is written like '2026-12-01T08:30:00Z' (UTC), or with an offset such as +01:00")

    def _duration_ms(self, node: Node, text: str) -> int:
        found = duration_ms(text)
        if found is None:
            self.refuse(node, "a duration is a number and a unit: '90s', '15m', '12h', '7d', '2w', or '1h30m'")
        if found > MAX_SPAN_MS:
            self.refuse(node, f"a duration is at most {MAX_SPAN_MS // 86_400_000} days")
        return found

    def _method(self, node: Call, owner: Node) -> Term:
        if node.name not in names.METHODS:
            if node.name in ("size", "has"):
                self.refuse(node, f"{node.name} is written before it: {names.FUNCTIONS[node.name]}")
            self._unknown(node.name_place, node.name, _METHOD_NAMES, names.METHODS)
        operand = self._operand(owner)
        if len(node.arguments) != 1:
            self.refuse(node, f"{node.name} takes one text in its parentheses: {names.METHODS[node.name]}")
        if isinstance(operand, NameSet):
            self.refuse(node, f"{operand.of} is a list of names, not a text; write {names.SETS[operand.of]}")
        if isinstance(operand, TextField) and operand.field == "consent":
            self.refuse(node, "consent is 'granted', 'denied' or 'unknown'; write consent == 'granted'")
        if not isinstance(operand, TextField | AttributeValue):
            self.refuse(
                owner, f"{node.name} asks an attribute, id, name, locale or timezone: {names.METHODS[node.name]}"
            )
        text = self._constant_text(node.arguments[0], names.METHODS[node.name])
        self._bounded(node.arguments[0], text)
        test = TextMatch(node.name, text)  # type: ignore[arg-type]  # a name of the table
        return self._value_test(operand, test)

    def _value_test(self, operand: TextField | AttributeValue, test: Comparison | OneOf | TextMatch) -> Term:
        if isinstance(operand, AttributeValue):
            return AttributeTest(operand.name, test)
        return FieldTest(operand.field, test)  # type: ignore[arg-type]  # a name of the table

    def _bounded(self, node: Node, text: str) -> None:
        if len(text) > TEXT_CHARACTERS:
            self.refuse(node, f"a text that is compared has at most {TEXT_CHARACTERS} characters, this has {len(text)}")

    # -- operators ---------------------------------------------------------------------------------------------------

    def _moment(self, node: Operation) -> Moment | Span:
        left, right = self._operand(node.left), self._operand(node.right)
        sign = 1 if node.operator == "+" else -1
        match left, right:
            case Moment(ms, from_now), Span(span):
                return Moment(ms + sign * span, from_now)
            case Span(span), Moment(ms, from_now) if sign == 1:
                return Moment(ms + span, from_now)
            case Span(first), Span(second):
                return Span(max(first + sign * second, 0))
            case Moment(), Fixed(str()):
                self.refuse(node.right, f"write duration({quoted(self._shown(node.right)[1:-1])})")
            case ((Moment() | TimeField()), (Moment() | TimeField())):
                self.refuse(
                    node, "write a time on each side instead of their difference: last_seen > now - duration('7d')"
                )
            case Moment(), Fixed():
                self.refuse(node.right, "a number has no unit; write now - duration('7d')")
        self.refuse(node, "only times are added: now - duration('7d')")

    def _membership(self, node: Operation) -> Term:
        left, right = self._operand(node.left), self._operand(node.right)
        match left, right:
            case Fixed(str() as name), NameSet(of):
                if not _NAME.fullmatch(name):
                    sentence = f"none of the {of} is called so; their names have letters, digits and _ . : - only"
                    self.refuse(node.left, sentence)
                return IsMember(of, name)  # type: ignore[arg-type]  # a name of the table
            case _, NameSet(of):
                if isinstance(node.left, Name):
                    self.refuse(node.left, f"a text is written in quotes: '{node.left.name[:40]}' in {of}")
                self.refuse(node.left, f"a text in quotes belongs before in: {names.SETS[of]}")
            case ((TextField() | AttributeValue()), ListValue(items)):
                return self._one_of(node.left, left, node.right, items)
            case NameSet(of), Fixed(str()):
                self.refuse(node, f"it is the other way round: {self._shown(node.right)} in {of}")
            case _, ListValue():
                self.refuse(node.left, "an attribute, id, name, locale, timezone or consent is looked for in a list")
            case ((TextField() | AttributeValue()), Fixed(str())):
                self.refuse(node.right, f"a list stands in brackets: in [{self._shown(node.right)}]")
            case Fixed(str()), (TextField() | AttributeValue()):
                self.refuse(node, f"write {self._shown(node.right)}.contains({self._shown(node.left)})")
        self.refuse(
            node.right, "in is followed by tags, topics or a list: 'hall' in tags, attributes.model in ['K1', 'K2']"
        )

    def _one_of(
        self, asked: Node, left: TextField | AttributeValue, list_: Node, items: tuple[tuple[Node, Operand], ...]
    ) -> Term:
        if not items:
            self.refuse(list_, "this list is empty, so nobody is in it")
        values: list[str | int | float] = []
        for node, operand in items:
            if not isinstance(operand, Fixed) or isinstance(operand.value, bool):
                if isinstance(operand, Fixed):
                    self.refuse(
                        node,
                        f"only texts and numbers stand in a list; write {self._shown(asked)} == {self._shown(node)}",
                    )
                self.refuse(node, "only texts in quotes and numbers stand in a list")
            self._check_constant(node, left, operand.value, "==")
            values.append(operand.value)
        return self._value_test(left, OneOf(tuple(dict.fromkeys(values))))

    def _comparison(self, node: Operation) -> Term:
        left, right = self._operand(node.left), self._operand(node.right)
        operator, asked, given = node.operator, node.left, node.right
        if isinstance(left, FIXED_OPERANDS) and not isinstance(right, FIXED_OPERANDS):
            left, right, operator, asked, given = right, left, _MIRRORED[operator], given, asked
        term = self._compared(node, left, right, cast(Operator, "==" if operator == "!=" else operator), asked, given)
        return Negation(term) if operator == "!=" else term

    def _compared(
        self, node: Operation, left: Operand, right: Operand, operator: Operator, asked: Node, given: Node
    ) -> Term:
        """The condition of a comparison with a constant, which is `right`."""
        match left, right:
            case ((AttributeValue() | TextField()), Fixed(value)):
                self._check_constant(given, left, value, operator)
                return self._value_test(left, Comparison(operator, value))
            case TimeField(field), Moment():
                return TimeTest(field, operator, right)  # type: ignore[arg-type]  # a name of the table
            case SetSize(of), Fixed(int() | float() as number) if not isinstance(number, bool):
                return MembershipCount(of, operator, number)  # type: ignore[arg-type]  # a name of the table
            case AttributeVersion(name), FixedVersion(components):
                return AttributeTest(name, VersionComparison(operator, components))
            case _, Fixed(bool() as value) if not isinstance(left, NoCondition):
                if operator != "==":
                    self.refuse(node.operator_place, "what is true or false is compared with == and != only")
                return left if value else Negation(left)
            case _, NullValue():
                what = (
                    self._shown(asked)
                    if isinstance(left, AttributeValue | TextField | TimeField)
                    else "attributes.model"
                )
                self.refuse(given, f"there is no null here; write has({what}), or !has({what})")
            case TimeField(field), Fixed(str()):
                self.refuse(given, f"{field} is a time: write timestamp({self._shown(given)}), or now - duration('7d')")
            case TimeField(field), Span():
                self.refuse(given, f"{field} is compared with a time: write now - {self._shown(given)}")
            case TimeField(field), _:
                self.refuse(given, f"{field} is compared with a time: write {names.FIELDS[field]}")
            case AttributeValue(), (Moment() | Span()):
                self.refuse(
                    node, "attributes are texts, numbers and booleans; only last_seen and enrolled_at are times"
                )
            case NameSet(of), _:
                self.refuse(asked, f"{of} is a list of names; write {names.SETS[of]}")
            case SetSize(of), _:
                self.refuse(given, f"size({of}) is a number; compare it with one: size({of}) > 2")
            case AttributeVersion(), Fixed():
                shown = self._shown(given).strip("'\"")
                self.refuse(given, f"a version is compared with a version: write version('{shown}')")
            case ((AttributeValue() | TextField()), FixedVersion()):
                self.refuse(asked, f"a version is compared with a version: write version({self._shown(asked)})")
            case (
                (AttributeValue() | TextField() | AttributeVersion()),
                (AttributeValue() | TextField() | AttributeVersion()),
            ):
                self.refuse(
                    node, "two values of a device cannot be compared with each other; compare one with a fixed value"
                )
            case ((AttributeValue() | TextField()), ListValue()):
                self.refuse(node.operator_place, "use in for a list: attributes.model in ['K1', 'K2']")
        if isinstance(left, FIXED_OPERANDS) and isinstance(right, FIXED_OPERANDS):
            self.refuse(node, "both sides are fixed values, so this is the same for every device; compare an attribute")
        if isinstance(left, NoCondition) or isinstance(right, NoCondition):
            self.refuse(node, "these two cannot be compared; write something like attributes.model == 'K2'")
        self.refuse(node, "two conditions are joined with && or ||, not compared")

    def _check_constant(self, node: Node, asked: AttributeValue | TextField, value: Value, operator: str) -> None:
        """Refuse a constant that would match nobody, or not whom its author means."""
        ordered = operator != "=="
        if isinstance(value, bool):
            if ordered:
                self.refuse(node, "true and false have no order; use == or !=")
            if isinstance(asked, TextField):
                self.refuse(node, f"{asked.field} is a text: write {names.FIELDS[asked.field]}")
        elif isinstance(value, str):
            self._bounded(node, value)
            if ordered and isinstance(asked, AttributeValue) and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
                self.refuse(
                    node,
                    f"{quoted(value)} is a text, and texts are compared letter by letter ('10' is before '9'): write"
                    f" {value.lstrip('0') or '0'} without quotes for a number, or"
                    f" version(attributes.{asked.name}) and version('{value}') for versions",
                )
            if ordered and isinstance(asked, AttributeValue) and version_components(value) is not None:
                self.refuse(
                    node,
                    "texts are compared letter by letter ('2.10' is before '2.9'): write"
                    f" version(attributes.{asked.name}) {operator} version('{value}')",
                )
        elif isinstance(asked, TextField):
            self.refuse(node, f"{asked.field} is a text: write it in quotes, '{self._shown(node)}'")
        if isinstance(asked, TextField) and asked.field == "consent":
            if ordered:
                self.refuse(node, "consent has no order; use ==, != or in")
            if value not in names.CONSENTS:
                like = nearest(str(value), names.CONSENTS)
                self.refuse(
                    node,
                    f"no consent is {quoted(str(value))}; did you mean {like!r}?"
                    if like
                    else "consent is 'granted', 'denied' or 'unknown'",
                )


_METHOD_NAMES = tuple(names.METHODS)
_FUNCTION_NAMES = tuple(names.FUNCTIONS)
