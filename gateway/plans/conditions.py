"""Conditions of campaigns, written as people say them: `refused + failed >= 3`, `acted >= 95% in 10m of at least 20`.

    CONDITION := METRIC ("+" METRIC)* OPERATOR (NUMBER | PERCENT) ["in" DURATION] ["of at least" COUNT]
    OPERATOR  := ">=" | ">" | "<=" | "<"        DURATION := a number with s, m, h or d, such as 10m

A metric counts deliveries. `delivered`, `displayed`, `opened` and `acted` are cumulative, as `reached` of a push:
what was opened was displayed as well. `failed` is what was acted on with a result that has an `error`. The others are
present states, as `counts` of a push.

A percentage is of the devices that were sent it: those targeted without the suppressed. It is judged when at least so
many of them have an outcome as `of at least` says: of one device, one is 100 %.

There is no "or": several conditions stand in a list. The grammar is parsed by lark, which knows what it had expected
where; it is loaded by the first condition, because most servers never see one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from gateway.delivery_states import DeliveryState
from gateway.misspelling import nearest

if TYPE_CHECKING:
    from lark import Lark, Token

MAX_CONDITION_CHARACTERS = 200
"""Characters of a condition: all metrics, each once, have 130."""
CUMULATIVE: Final = {
    least.label: tuple(state.label for state in DeliveryState if least <= state <= DeliveryState.ACTED)
    for least in (DeliveryState.DELIVERED, DeliveryState.DISPLAYED, DeliveryState.OPENED, DeliveryState.ACTED)
}
"""Metrics that count every state from one on, with those states."""
FAILED: Final = "failed"
"""The metric that no state tells: acted, with an error as the result."""
METRICS: Final = (
    *CUMULATIVE,
    *(
        state.label
        for state in DeliveryState
        if state.label not in CUMULATIVE and state not in (DeliveryState.SUPPRESSED, DeliveryState.SENT)
    ),
    FAILED,
)
"""What a condition may count. `suppressed` is no part of what it is a share of, and `sent` lasts for moments."""
UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
MAX_DURATION_MS: Final = 30 * UNITS_MS["d"]
"""The longest that a condition may wait: longer than that is another campaign."""
OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
GRAMMAR: Final = r"""
    start: metrics OPERATOR amount within? sample?
    metrics: METRIC ("+" METRIC)*
    amount: PERCENT | NUMBER
    within: "in" DURATION
    sample: "of" "at" "least" COUNT
    METRIC: /[a-z_]+/i
    OPERATOR: ">=" | "<=" | ">" | "<"
    PERCENT.2: /[0-9]+(\.[0-9]+)?[ ]*%/
    NUMBER: /[0-9]+(?![0-9.]*[ ]*%)/
    DURATION: /[0-9]+[ ]*[a-z]+/i
    COUNT: /[0-9]+/
    %ignore /[ \t]+/
"""
_EXPECTED: Final = {
    "METRIC": "a metric",
    "OPERATOR": ">=, >, <= or <",
    "PLUS": "+",
    "PERCENT": "a percentage such as 95%",
    "NUMBER": "a number",
    "IN": "in DURATION",
    "OF": "of at least COUNT",
    "AT": "at least",
    "LEAST": "least",
    "DURATION": "a duration such as 10m",
    "COUNT": "a number",
    "$END": "the end",
}
"""Words for what the parser had expected, by the name of its token."""


class BadCondition(ValueError):
    """A text that is no condition. `str` says what to write instead; `column` counts from 1."""

    def __init__(self, text: str, column: int, complaint: str) -> None:
        super().__init__(f"{text!r}, column {column}: {complaint}")
        self.column = column


@dataclass(frozen=True, slots=True)
class Sample:
    """Counts that conditions are judged by: of a group, or of a campaign."""

    counts: Mapping[str, int]
    """Deliveries by present state, with `failed`."""
    base: int
    """Devices that were sent it: targeted without the suppressed."""

    @property
    def decided(self) -> int:
        """Devices with an outcome: of the others nothing is known yet."""
        return self.base - self.counts.get("waiting", 0) - self.counts.get("sent", 0)

    def count(self, metrics: Iterable[str]) -> int:
        """Count the deliveries of these metrics, each once."""
        counted = {state for metric in metrics for state in CUMULATIVE.get(metric, (metric,))}
        if "acted" in counted:  # what failed was acted on
            counted.discard(FAILED)
        return sum(self.counts.get(state, 0) for state in counted)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that was understood."""

    text: str
    metrics: tuple[str, ...]
    operator: str
    amount: float
    is_percent: bool
    within_ms: int | None
    """Milliseconds in which it is to become true; None: it says nothing about that."""
    sample: int | None
    """Devices with an outcome from which on a percentage is judged; None: as the campaign says."""

    @property
    def is_floor(self) -> bool:
        """Whether it asks for much and not for little: once true, it stays true."""
        return self.operator in (">=", ">")

    def value(self, sample: Sample) -> float | None:
        """The number, or the percentage, that the condition compares; None: there is nothing to take a share of."""
        count = sample.count(self.metrics)
        if not self.is_percent:
            return count
        return 100 * count / sample.base if sample.base else None

    def is_true(self, sample: Sample, min_sample: int = 1, *, capped: bool = False) -> bool | None:
        """Whether it is true of these counts; None while they are too few to say.

        `capped`: when everybody has an outcome, that is enough.
        """
        value = self.value(sample)
        needed = self.sample or min_sample
        if capped:
            needed = min(needed, sample.base)
        if value is None or (self.is_percent and sample.decided < needed):
            return None
        return OPERATORS[self.operator](value, self.amount)

    def shown(self, sample: Sample) -> str:
        """Describe how it stands: `acted >= 95% (80 of 100: 80%)`."""
        count = sample.count(self.metrics)
        value = self.value(sample)
        if not self.is_percent:
            return f"{self.text} ({count})"
        share = "" if value is None else f": {value:.3g}%"
        return f"{self.text} ({count} of {sample.base}{share})"


def parse_condition(text: str) -> Condition:
    """Understand a condition. Raises BadCondition."""
    import lark

    if len(text) > MAX_CONDITION_CHARACTERS:
        raise BadCondition(text[:20] + "..", 1, f"a condition has at most {MAX_CONDITION_CHARACTERS} characters")
    try:
        tree = _parser().parse(text)
    except lark.exceptions.UnexpectedInput as error:
        raise _explained(text, error) from None
    tokens: list[Token] = [token for token in tree.scan_values(lambda _: True) if not isinstance(token, lark.Tree)]
    found = {token.type: token for token in tokens}
    metrics: list[str] = []
    for token in tokens:
        if token.type != "METRIC":
            continue
        metric = _metric(text, token)
        if metric in metrics:
            raise BadCondition(text, _column(token), f"{metric} is counted already")
        metrics.append(metric)
    return Condition(
        text=" ".join(text.split()),
        metrics=tuple(metrics),
        operator=str(found["OPERATOR"]),
        amount=_amount(text, found),
        is_percent="PERCENT" in found,
        within_ms=None if "DURATION" not in found else _duration(text, found["DURATION"]),
        sample=None if "COUNT" not in found else _positive(text, found["COUNT"]),
    )


@cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(GRAMMAR, parser="lalr", maybe_placeholders=False)


def _column(token: Token) -> int:
    assert token.column is not None, "it is of a text"
    return token.column


def _explained(text: str, error: Any) -> BadCondition:
    """What to write where the parser had to stop."""
    token = getattr(error, "token", None)
    at_end = token is not None and token.type == "$END"
    column = len(text.rstrip()) + 1 if at_end or error.column < 1 else error.column
    names: set[str] = set(getattr(error, "expected", None) or getattr(error, "allowed", None) or ())
    expected = [words for name, words in _EXPECTED.items() if name in names]
    found = "it ends" if at_end else f"there is {text[column - 1 : column + 11].split(' ')[0]!r}"
    wanted = f"{found} where {' or '.join(expected)} should be" if expected else found
    example = "" if "acted" in text else "; write, for example, acted >= 95% in 10m"
    if text[column - 1 : column + 1] in ("==", "!=", "= "):
        wanted += "; counts grow, so they are compared with >=, >, <= or <"
    return BadCondition(text, column, wanted + example)


def _metric(text: str, token: Token) -> str:
    name = str(token).lower()
    if name in METRICS:
        return name
    near = nearest(name, METRICS)
    help_ = f"do you mean {near}?" if near is not None else f"there are {', '.join(METRICS)}"
    if name == "suppressed":
        help_ = "what is suppressed is no part of what a condition counts"
    raise BadCondition(text, _column(token), f"no metric is called {name!r}; {help_}")


def _amount(text: str, found: Mapping[str, Token]) -> float:
    token = found.get("PERCENT")
    if token is None:
        return float(found["NUMBER"])
    percent = float(token.rstrip("% "))
    if percent > 100:
        raise BadCondition(text, _column(token), "a percentage is at most 100%")
    return percent


def _positive(text: str, token: Token) -> int:
    if not int(token):
        raise BadCondition(text, _column(token), "at least 1")
    return int(token)


def _duration(text: str, token: Token) -> int:
    try:
        return parse_duration(str(token))
    except ValueError as error:
        raise BadCondition(text, _column(token), str(error)) from None


def parse_duration(text: str) -> int:
    """Milliseconds of a duration such as `90s`, `10m`, `2h` or `1d`. Raises ValueError, which says what to write."""
    number, unit = text.strip()[:-1].strip(), text.strip()[-1:].lower()
    if not (number.isascii() and number.isdigit() and len(number) < 10 and unit in UNITS_MS):
        raise ValueError(f"{text!r}: write a duration as a number with s, m, h or d, such as 10m")
    duration_ms = int(number) * UNITS_MS[unit]
    if not 0 < duration_ms <= MAX_DURATION_MS:
        raise ValueError(f"{text!r}: a duration is 1 second to 30 days")
    return duration_ms
