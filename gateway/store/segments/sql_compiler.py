"""The compiler: conditions become SELECTs of device numbers, whose values are all bound.

The SQL is made of the texts in this module: what somebody wrote is in it as parameters only, and the names of columns
come from the types of the terms. So no expression can say anything else than what its terms say.

Every condition has two forms:

- *asked of a device* (`_asked`): 0 or 1, never NULL, of a row of `device`. A look-up in an index by the number of the
  device, where there is one; so what the conditions before leave is what the condition costs.
- *found by itself* (`_found`): a SELECT of the numbers of the devices that have it, from an index, with a rank that
  says how few they usually are. Not every condition has this form: a text within a name has not.

Conditions that are joined are asked of devices with one statement; found is each of them by itself, and what it finds
is joined as sets (`set_algebra`). Which of the two is better, `evaluation` knows.

Types need no look at each value: numbers sort before texts, and texts before booleans (`value_forms`). So "a number
over 5" is the range from 5 to the first text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TypeAlias, assert_never

from gateway.delivery_states import MISSED, DeliveryState
from gateway.store.attribute_index import PREFIX_CHARACTERS
from gateway.store.deliveries.conditions import is_one_of
from gateway.store.segments.terms import (
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
    Term,
    TextMatch,
    TimeTest,
    ValueTest,
    VersionComparison,
    terms_within,
)
from gateway.store.segments.value_forms import PLAIN, ValueForm


class Given(Enum):
    """Values that are given when an expression is evaluated."""

    APP = "app"
    ONLINE = "online"
    """JSON array of the numbers of the connected devices."""
    CANDIDATES = "candidates"
    """JSON array of the numbers of the devices that are asked."""


@dataclass(slots=True, frozen=True)
class ServerTime:
    """A parameter: the server time at a moment."""

    moment: Moment


@dataclass(slots=True, frozen=True)
class NowMatches:
    """A parameter: whether the present time compares so with a moment."""

    operator: Operator
    moment: Moment


Parameter: TypeAlias = str | int | float | bytes | Given | ServerTime | NowMatches


@dataclass(slots=True, frozen=True)
class Fragment:
    """A part of a statement, and the parameters in it, in their order."""

    sql: str
    parameters: tuple[Parameter, ...] = ()


class Rank(IntEnum):
    """Ranks of conditions by how few devices they usually leave; the lowest is the best to begin with."""

    ONE = 0
    SEVERAL = 1
    RECEIPTS = 2
    MEMBERS = 3
    RANGE = 4
    MANY = 5


@dataclass(slots=True, frozen=True)
class _Found:
    """A SELECT of the numbers of all devices that have a condition, and of no other live ones."""

    rank: Rank
    select: Fragment


_MEMBERS = {"tags": ("device_tag", "tag"), "topics": ("device_topic", "topic")}
_ONLINE = "online(no) AS MATERIALIZED (SELECT value FROM json_each(?))"
_CANDIDATES = Fragment(
    "json_each(?) AS candidate CROSS JOIN device ON device.no = candidate.value", (Given.CANDIDATES,)
)
"""Each candidate is there once, so nobody needs a table of them, as `IN` makes one."""
_PUSH_NO = "(SELECT no FROM push WHERE app_no = ? AND id = ?)"
_LIVE = Fragment("device.app_no = ? AND device.removed_at IS NULL", (Given.APP,))
_REACHED = {
    state: is_one_of(*(further for further in DeliveryState if state <= further <= DeliveryState.ACTED))
    for state in (DeliveryState.DELIVERED, DeliveryState.DISPLAYED, DeliveryState.OPENED, DeliveryState.ACTED)
}
_FIELDS = {"id": "id", "name": "name", "locale": "locale", "timezone": "timezone", "consent": "consent"}
_TIMES = {"last_seen": "last_seen", "enrolled_at": "created_at"}
_RESTRICTED = "(consent = 'denied' OR channels <> '{}')"
"""The condition of the index `device_restricted`, as it says it."""


def rank_of(term: Term) -> Rank | None:
    """Rank a condition by how few devices it usually leaves; None if some of it cannot be found by itself."""
    ranks = []
    for one in terms_within(term):
        found = _found(one, PLAIN)
        if found is None and not isinstance(one, Always):
            return None
        ranks.append(Rank.ONE if found is None else found.rank)
    return max(ranks)


def compile_search(term: Term, form: ValueForm = PLAIN) -> Fragment:
    """Compile a condition that is not joined, and has a rank, to a SELECT of one column `no`: the devices that have it.

    They are of the app, but need not be live. `form`: that of attributes.
    """
    found = _found(term, form)
    assert found is not None, "it has a rank"
    return _with_tables(form, Fragment("SELECT no FROM found"), found.select)


def compile_question(terms: Sequence[Term], form: ValueForm = PLAIN) -> Fragment:
    """Compile conditions to a SELECT of one column `no`: those of given devices that are live and have all of them.

    `form`: that of attributes.
    """
    conditions = _joined(" AND ", [_LIVE, *(_asked(term, form) for term in terms)])
    return _with_tables(
        form,
        Fragment(
            f"SELECT device.no AS no FROM {_CANDIDATES.sql} WHERE {conditions.sql}",
            _CANDIDATES.parameters + conditions.parameters,
        ),
    )


def _with_tables(form: ValueForm, statement: Fragment, found: Fragment | None = None) -> Fragment:
    """A statement, preceded by the tables that it uses; `found` is one of them."""
    tables = []
    used = statement.sql if found is None else found.sql
    if "FROM online" in used:
        tables.append(Fragment(_ONLINE, (Given.ONLINE,)))
    if "FROM crowded" in used:
        tables.append(Fragment(f"crowded(device_no, name, value) AS ({form.crowded})", (Given.APP,)))
    if found is not None:
        tables.append(Fragment(f"found(no) AS ({found.sql})", found.parameters))
    beginning = _joined(", ", tables)
    return Fragment(
        f"{f'WITH {beginning.sql} ' if tables else ''}{statement.sql}", beginning.parameters + statement.parameters
    )


def _joined(between: str, fragments: Sequence[Fragment]) -> Fragment:
    return Fragment(
        between.join(fragment.sql for fragment in fragments),
        tuple(parameter for fragment in fragments for parameter in fragment.parameters),
    )


def _in(select: Fragment) -> Fragment:
    return Fragment(f"device.no IN ({select.sql})", select.parameters)


# -- asked of a device -------------------------------------------------------------------------------------------------


def _asked(term: Term, form: ValueForm) -> Fragment:
    """A condition on a row of `device`: 0 or 1."""
    match term:
        case Always(value):
            return Fragment("TRUE" if value else "FALSE")
        case Negation(inner):
            asked = _asked(inner, form)
            return Fragment(f"NOT ({asked.sql})", asked.parameters)
        case AllOf(terms) | AnyOf(terms):
            joined = _joined(" AND " if isinstance(term, AllOf) else " OR ", [_asked(one, form) for one in terms])
            return Fragment(f"({joined.sql})", joined.parameters)
        case IsMember(of, name):
            table, column = _MEMBERS[of]
            member = f"m.app_no = ? AND m.{column} = ? AND m.device_no = device.no"
            return Fragment(f"EXISTS (SELECT 1 FROM {table} AS m WHERE {member})", (Given.APP, name))
        case MembershipCount(of, operator, number):
            count = f"(SELECT count(*) FROM {_MEMBERS[of][0]} AS m WHERE m.device_no = device.no)"
            return Fragment(f"{count} {operator} ?", (number,))
        case AttributeTest(name, test):
            return _asked_attribute(name, test, form)
        case FieldTest(field, test):
            tested = _tested(test, f"device.{_FIELDS[field]}", None, PLAIN)
            return Fragment(f"ifnull({tested.sql}, 0)", tested.parameters)
        case TimeTest(field, operator, moment):
            return _asked_time(_TIMES[field], operator, moment)
        case IsMuted(channel):
            muted = "EXISTS (SELECT 1 FROM json_each(device.channels) AS j WHERE j.key = ? AND j.type = 'false')"
            return Fragment(f"(device.channels <> '{{}}' AND {muted})", (channel,))
        case HasReceipt(state, push_id):
            row = f"d.push_no = {_PUSH_NO} AND d.device_no = device.no AND {_come_to(state)}"
            asked = Fragment(f"EXISTS (SELECT 1 FROM delivery AS d WHERE {row})", (Given.APP, push_id))
            if state is not DeliveryState.DELIVERED:
                return asked
            in_sets = _in(_delivered_in_sets(push_id))
            return Fragment(f"({asked.sql} OR {in_sets.sql})", asked.parameters + in_sets.parameters)
        case IsOnline() | HasChannelReceipt() | HasMissed():
            found = _found(term, form)
            assert found is not None, "these can be found by themselves"
            return _in(found.select)


def _come_to(state: DeliveryState) -> str:
    """The condition that a row of `delivery` has come to a state, as counts of pushes have it."""
    return "d.dismissed_at IS NOT NULL" if state is DeliveryState.DISMISSED else f"d.state {_REACHED[state]}"


def _asked_time(column: str, operator: Operator, moment: Moment | None) -> Fragment:
    stored = f"device.{column}"
    tested = Fragment(f"{stored} IS NOT NULL")
    if moment is not None:
        tested = Fragment(f"ifnull({stored} {operator} ?, 0)", (ServerTime(moment),))
    if column != "last_seen":
        return tested
    present: Parameter = True if moment is None else NowMatches(operator, moment)
    return Fragment(
        f"CASE WHEN device.no IN (SELECT no FROM online) THEN ? ELSE {tested.sql} END", (present, *tested.parameters)
    )


def _asked_attribute(name: str, test: ValueTest, form: ValueForm) -> Fragment:
    indexed = _tested(test, "a.value", name, form)
    direct = _tested(test, "a.value", name, form, few_values=False)
    return Fragment(
        "(EXISTS (SELECT 1 FROM device_attribute AS a INDEXED BY device_attribute_of_device"
        f" WHERE a.device_no = device.no AND a.app_no = ? AND a.name = ? AND {indexed.sql})"
        f" OR device.no IN (SELECT a.device_no FROM crowded AS a WHERE a.name = ? AND {direct.sql}))",
        (Given.APP, name, *indexed.parameters, name, *direct.parameters),
    )


# -- found by itself ---------------------------------------------------------------------------------------------------


def _found(term: Term, form: ValueForm) -> _Found | None:
    """A SELECT of the devices that have a condition which is not joined, if an index has them together."""
    match term:
        case IsMember(of, name):
            table, column = _MEMBERS[of]
            return _found_by(
                Rank.MEMBERS,
                f"SELECT m.device_no FROM {table} AS m WHERE m.app_no = ? AND m.{column} = ?",
                Given.APP,
                name,
            )
        case AttributeTest(name, test):
            return _found_attribute(name, test, form)
        case FieldTest("id", Comparison("==") | OneOf() as test):
            tested = _tested(test, "device.id", None, PLAIN)
            return _found_by(
                Rank.ONE,
                f"SELECT device.no FROM device WHERE device.app_no = ? AND device.removed_at IS NULL AND {tested.sql}",
                Given.APP,
                *tested.parameters,
            )
        case FieldTest("consent", Comparison("==", "denied")):
            return _found_by(
                Rank.RANGE,
                f"SELECT no FROM device WHERE app_no = ? AND {_RESTRICTED} AND consent = 'denied'",
                Given.APP,
            )
        case IsMuted(channel):
            muted = "EXISTS (SELECT 1 FROM json_each(channels) AS j WHERE j.key = ? AND j.type = 'false')"
            return _found_by(
                Rank.RANGE, f"SELECT no FROM device WHERE app_no = ? AND {_RESTRICTED} AND {muted}", Given.APP, channel
            )
        case IsOnline():
            return _found_by(Rank.MANY, "SELECT no FROM online")
        case HasReceipt(state, push_id):
            rows = Fragment(
                f"SELECT d.device_no FROM delivery AS d WHERE d.push_no = {_PUSH_NO} AND {_come_to(state)}",
                (Given.APP, push_id),
            )
            if state is DeliveryState.DELIVERED:
                rows = _joined(" UNION ALL ", [rows, _delivered_in_sets(push_id)])
            return _Found(Rank.RECEIPTS, rows)
        case HasMissed(push_id):
            return _Found(Rank.RECEIPTS, _missed(push_id))
        case HasChannelReceipt(state, channel, span_ms):
            return _found_channel_receipt(state, channel, Moment(-span_ms, from_now=True))
    return None


def _found_by(rank: Rank, sql: str, *parameters: Parameter) -> _Found:
    return _Found(rank, Fragment(sql, parameters))


def _delivered_in_sets(push_id: str) -> Fragment:
    """Devices that acknowledged together; what became of one alone later is in its row, and is no less."""
    return Fragment(
        "SELECT here.value FROM outcome_set AS o CROSS JOIN json_each(devices_json(o.devices)) AS here"
        f" WHERE o.push_no = {_PUSH_NO} AND o.state = {DeliveryState.DELIVERED:d}",
        (Given.APP, push_id),
    )


def _missed(push_id: str) -> Fragment:
    """Devices for which a push has ended undelivered. What a row says of a device is true, whatever set it was in."""
    ended = is_one_of(*MISSED)
    return Fragment(
        f"SELECT d.device_no FROM delivery AS d WHERE d.push_no = {_PUSH_NO} AND d.state {ended}"
        " UNION ALL SELECT here.value FROM outcome_set AS o CROSS JOIN json_each(devices_json(o.devices)) AS here"
        f" WHERE o.push_no = {_PUSH_NO} AND o.state {ended} AND NOT EXISTS (SELECT 1 FROM delivery AS d"
        " WHERE d.push_no = o.push_no AND d.device_no = here.value)",
        (Given.APP, push_id, Given.APP, push_id),
    )


def _found_channel_receipt(state: DeliveryState, channel: str, since: Moment) -> _Found:
    # Pushes are numbered in the order of their acceptance: from the newest back to the first that is too old, which is
    # where SQLite stops to look for the maximum.
    pushes = (
        "FROM push AS p CROSS JOIN {joined} WHERE p.app_no = ? AND p.no > coalesce((SELECT max(no) FROM push"
        " WHERE app_no = ? AND accepted_at < ?), 0) AND p.channel = ? AND p.accepted_at >= ?"
    )
    values: tuple[Parameter, ...] = (Given.APP, Given.APP, ServerTime(since), channel, ServerTime(since))
    rows = pushes.format(joined="delivery AS d ON d.push_no = p.no")
    select = Fragment(f"SELECT d.device_no {rows} AND {_come_to(state)}", values)
    if state is DeliveryState.DELIVERED:
        sets = pushes.format(
            joined="outcome_set AS o ON o.push_no = p.no CROSS JOIN json_each(devices_json(o.devices)) AS here"
        )
        in_sets = Fragment(f"SELECT here.value {sets} AND o.state = {DeliveryState.DELIVERED:d}", values)
        select = _joined(" UNION ALL ", [select, in_sets])
    return _Found(Rank.MANY, select)


def _found_attribute(name: str, test: ValueTest, form: ValueForm) -> _Found:
    indexed = _tested(test, "a.value", name, form)
    direct = _tested(test, "a.value", name, form, few_values=False)
    match test:
        case Comparison("==", value) if not isinstance(value, bool):
            rank = Rank.SEVERAL
        case OneOf():
            rank = Rank.SEVERAL
        case _:
            rank = Rank.RANGE
    return _found_by(
        rank,
        f"SELECT a.device_no FROM device_attribute AS a WHERE a.app_no = ? AND a.name = ? AND {indexed.sql}"
        f" UNION ALL SELECT a.device_no FROM crowded AS a WHERE a.name = ? AND {direct.sql}",
        Given.APP,
        name,
        *indexed.parameters,
        name,
        *direct.parameters,
    )


# -- tests of a value --------------------------------------------------------------------------------------------------


def _tested(
    test: ValueTest, value: str, attribute: str | None, form: ValueForm, *, few_values: bool = True
) -> Fragment:
    """The condition on a value, an SQL expression: a column of texts, or the indexed value of an attribute.

    `few_values`: a test that takes long is made once for each value that there is in the index.
    """
    match test:
        case IsPresent():
            return Fragment(f"{value} IS NOT NULL")
        case Comparison("==", constant):
            return Fragment(f"{value} = ?", (form.key(constant),))
        case Comparison("<" | "<=" as operator, str() as constant):
            return Fragment(f"({value} {operator} ? AND {value} >= {form.texts})", (form.key(constant),))
        case Comparison(operator, str() as constant):
            return Fragment(f"({value} {operator} ? AND {value} < {form.booleans})", (form.key(constant),))
        case Comparison("<" | "<=" as operator, constant):
            return Fragment(f"{value} {operator} ?", (form.key(constant),))
        case Comparison(operator, constant):
            return Fragment(f"({value} {operator} ? AND {value} < {form.texts})", (form.key(constant),))
        case OneOf(values):
            return Fragment(form.one_of(value), (form.listed(values),))
        case TextMatch("startsWith", text):
            end = _after_prefix(text)
            if end is None:
                return Fragment(f"({value} >= ? AND {value} < {form.booleans})", (form.key(text),))
            return Fragment(f"({value} >= ? AND {value} < ?)", (form.key(text), form.key(end)))
        case TextMatch("endsWith", text):
            if not text:
                return Fragment(f"({value} >= {form.texts} AND {value} < {form.booleans})")
            length = len(text)
            return _whole_text(value, attribute, form, lambda whole: f"substr({whole}, -{length:d}) = ?", text)
        case TextMatch(_, text):
            return _whole_text(value, attribute, form, lambda whole: f"instr({whole}, ?) > 0", text)
        case VersionComparison(operator, components):
            assert attribute is not None, "the type checker makes versions of attributes only"
            if few_values:
                tested = Fragment(form.version_compares("v", operator), components)
                return _among_values(value, attribute, form, tested)
            return Fragment(form.version_compares(value, operator), components)
    assert_never(test)


def _after_prefix(prefix: str) -> str | None:
    """The first text behind all that begin with a prefix, by code point; None if no text is."""
    stripped = prefix.rstrip(chr(0x10FFFF))
    if not stripped:
        return None
    code = ord(stripped[-1]) + 1
    return stripped[:-1] + chr(0xE000 if code == 0xD800 else code)  # surrogates are no characters


def _whole_text(
    value: str, attribute: str | None, form: ValueForm, tested: Callable[[str], str], text: str
) -> Fragment:
    """A test that needs all of a text, of which the index may have the beginning only."""
    if attribute is None:
        return Fragment(tested(value), (text,))
    indexed = form.text(value)
    return Fragment(
        f"({value} >= {form.texts} AND {value} < {form.booleans}"
        f" AND CASE WHEN length({indexed}) < {PREFIX_CHARACTERS:d}"
        f" THEN {tested(indexed)} ELSE {form.whole(tested)} END)",
        (text, text, attribute),
    )


def _among_values(value: str, attribute: str, form: ValueForm, tested: Fragment) -> Fragment:
    """A test of the values of an attribute, `v`, that is made once for each: a fleet has few versions."""
    least = "SELECT min(value) FROM device_attribute WHERE app_no = ? AND name = ? AND value"
    return Fragment(
        f"{value} IN (WITH RECURSIVE each(v) AS ({least} >= {form.texts}"
        f" UNION ALL SELECT ({least} > v) FROM each WHERE v IS NOT NULL)"
        f" SELECT v FROM each WHERE {tested.sql})",
        (Given.APP, attribute, Given.APP, attribute, *tested.parameters),
    )
