"""The figures of a simulation report, named and said in words once for all its forms: HTML, JUnit and the terminal.

Names are those of `SimulationReport`; what a figure means stands beside it, so that a reader needs no manual. Nothing
here draws.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from client_sim.program import PROGRAM
from client_sim.simulator.simulation_report import Finding, FindingKind, SimulationReport

UNKNOWN = "–"


@dataclass(frozen=True)
class Figure:
    """`field` of the report; `words` follow its number in a sentence; `kinds` of findings that are counted in it."""

    field: str
    title: str
    words: str
    meaning: str
    kinds: tuple[FindingKind, ...] = ()

    def of(self, report: SimulationReport) -> int:
        value = getattr(report, self.field)
        assert isinstance(value, int), f"{self.field} is a count"
        return value


COUNTS = (
    Figure("accepted", "Accepted", "accepted", "pushes that the server answered with 202"),
    Figure("deliveries", "Deliveries", "deliveries", "what they sum to: one push to one device each"),
    Figure("delivered", "Delivered", "delivered", "took effect on their device, each counted once"),
)
MUST_BE_ZERO = (
    Figure("lost", "Lost", "lost", "accepted, neither arrived nor ended with a reason", ("lost",)),
    Figure("duplicated", "Duplicated", "duplicated", "took effect more than once on one device", ("duplicated",)),
    Figure("late", "Late", "late", "arrived after the end of their time to live", ("late",)),
    Figure(
        "out_of_order",
        "Out of order",
        "out of order",
        "arrived after a push of the same priority that was accepted later",
        ("out_of_order",),
    ),
    Figure(
        "expired_online",
        "Expired though online",
        "expired though online",
        "ended expired while their device was connected all along",
        ("expired_online",),
    ),
    Figure(
        "disagreements",
        "Disagreements",
        "told differently by the two ledgers",
        "the devices and the server's ledger do not say the same",
        ("booked_without_arrival", "arrived_without_booking"),
    ),
    Figure(
        "violations", "Violations", "against the protocol", "times the server broke the MQTT protocol", ("violation",)
    ),
    Figure(
        "unexplained",
        "Unexplained",
        "ended without a cause",
        "ended, or did not end, against what was sent, the clock, and what devices did",
        ("ended_without_cause", "not_superseded"),
    ),
    Figure(
        "contradictions",
        "Contradictions",
        "contradictory answers",
        "the server's counts, lists, times and presence do not agree",
        ("contradiction",),
    ),
    Figure(
        "events_wrong",
        "Events wrong",
        "events missing or wrong",
        "what the event stream or the webhook left out, told twice, or made up",
        ("event",),
    ),
    Figure(
        "unanswered",
        "Unanswered",
        "receipts unanswered",
        "receipts of connected devices that the server never acknowledged",
        ("unanswered",),
    ),
)
REDELIVERED = Figure(
    "redelivered", "Redelivered", "redelivered", "copies of a push that its device had already; allowed, dropped there"
)

ARRIVED = ("delivered", "displayed", "dismissed", "opened", "acted")
OPEN = ("waiting", "sent")
ENDED = ("expired", "superseded", "cancelled", "suppressed", "overflowed", "refused", "revoked")

KIND_WORDS: dict[FindingKind, str] = {
    "lost": "lost",
    "duplicated": "duplicated",
    "late": "late",
    "out_of_order": "out of order",
    "expired_online": "expired though online",
    "booked_without_arrival": "booked, never arrived",
    "arrived_without_booking": "arrived, not booked",
    "violation": "protocol violation",
    "ended_without_cause": "ended without a cause",
    "not_superseded": "not superseded",
    "contradiction": "contradiction",
    "event": "event missing or wrong",
    "unanswered": "never acknowledged",
}


def verdict(report: SimulationReport) -> str:
    """The reason for which a simulation passed or failed, in one sentence."""
    wrong = [figure for figure in MUST_BE_ZERO if figure.of(report)]
    reasons = [f"{count(figure.of(report))} {figure.words}" for figure in wrong]
    said = {figure.field for figure in wrong}
    missed = [threshold for threshold in report.thresholds if not threshold.passed]
    # `lost == 0` besides "3 lost" would say the same twice.
    news = [threshold for threshold in missed if re.split(r"\W", threshold.text.strip(), maxsplit=1)[0] not in said]
    reasons += [f"{threshold.text} was {threshold.actual}" for threshold in news]
    if not report.passed:
        if reasons:
            return "; ".join(reasons) + "."
        if not report.accepted:
            return "Nothing was accepted, so nothing was proven."
        return "It did not come to its end as it should; see the warnings."
    undelivered = sum(report.ended.values())
    told = f"All {count(report.deliveries)} deliveries are accounted for: {count(report.delivered)} took effect"
    told += " exactly once" if not report.duplicated else ""
    told += f", {count(undelivered)} ended with a reason" if undelivered else ""
    told += "; both ledgers say the same" if not report.disagreements else ""
    if report.thresholds and not missed:
        told += (
            "; the threshold holds" if len(report.thresholds) == 1 else f"; {len(report.thresholds)} thresholds hold"
        )
    if reasons:
        return f"Passed, although: {'; '.join(reasons)}."
    return (told if report.deliveries else "There was nothing to deliver") + "."


def leading(findings: Sequence[Finding], of_a_kind: int) -> tuple[list[Finding], list[Finding]]:
    """Some of every kind, so that a hundred lost ones do not hide the one that came twice; and the others."""
    first: list[Finding] = []
    others: list[Finding] = []
    seen: Counter[FindingKind] = Counter()
    for finding in findings:
        seen[finding.kind] += 1
        (first if seen[finding.kind] <= of_a_kind else others).append(finding)
    return first, others


def command_again(report: SimulationReport, scenario: str | None = None) -> str:
    """The command that runs the same simulation again. `scenario`: another name than the one it was started by."""
    words = ["simulate", scenario or report.scenario]
    if scenario is None:
        words += ["--devices", str(report.devices)]
    if report.processes > 1:
        words += ["--processes", str(report.processes)]
    return f"{PROGRAM} {shlex.join([*words, '--seed', str(report.seed)])}"


def count(value: int) -> str:
    return f"{value:,}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with at least `digits` significant digits, whole numbers without decimals."""
    if value is None:
        return UNKNOWN
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:,.{_decimals(value, digits)}f}"


def milliseconds(value: float | None) -> str:
    """Always three digits: they stand below each other."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0 ms"
    unit = "ms"
    if value >= 1000:
        value, unit = value / 1000, "s"
    return f"{value:,.{_decimals(value, 3)}f} {unit}"


def _decimals(value: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def memory(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{number(value)} {unit}"
        value /= 1024
    return f"{number(value)} GiB"


def span(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 120:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def change(now: float | None, then: float | None) -> str:
    """The change since an earlier run: the ratio, or the difference where there was nothing."""
    if now is None or then is None:
        return ""
    if now == then:
        return "="
    if then == 0 or now == 0:
        return f"{'+' if now > then else '−'}{number(abs(now - then))}"
    ratio = now / then
    return f"×{ratio:,.{max(2, _decimals(ratio, 2))}f}" if ratio < 10 else f"×{ratio:,.0f}"


def printable(text: str) -> str:
    """The text without control characters and lone surrogates, which terminals obey and XML forbids."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _unprintable(letter) else letter for letter in text)


def _unprintable(letter: str) -> bool:
    code = ord(letter)
    return (
        (code < 0x20 and letter not in "\n\t")
        or 0x7F <= code < 0xA0
        or 0xD800 <= code < 0xE000
        or code in (0xFFFE, 0xFFFF)
    )
