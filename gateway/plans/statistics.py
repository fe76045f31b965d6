"""Comparison of the variants of a campaign: whether one did better, and by more than chance.

Each variant has n devices that were sent it, of which x did what the campaign is for. Two variants are compared by the
two-proportion z-test with the pooled share (Fleiss, *Statistical Methods for Rates and Proportions*, 3rd edition, 3.1,
without the correction for continuity), two-sided:

    z = (x1/n1 - x2/n2) / sqrt(p (1 - p) (1/n1 + 1/n2)),  p = (x1 + x2) / (n1 + n2)

The normal distribution stands in for the binomial, so nothing is said while one of the four expected counts is less
than 5 (Cochran's rule). The test, and the interval of each share, are those of `delivery/significance`.

Of k variants each is compared with each other one: k (k - 1) / 2 tests, whose p values are corrected by Holm's method
(1979), so that the chance of any wrong difference stays below 1 - confidence. A winner is better than every other one.

Who looks while the numbers grow, and stops when they please, finds differences that are none: until a campaign has
ended its result is preliminary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

from gateway.delivery.significance import Share, z_score

LEAST_EXPECTED_DEVICES = 5.0
"""Expected count in each cell from which on the normal distribution is near enough (Cochran, 1954)."""
DEFAULT_CONFIDENCE_SHARE = 0.95
"""Confidence unless the campaign says another."""

Verdict = Literal["not_enough", "no_difference", "winner"]


class VariantComparison(NamedTuple):
    """Two variants, compared."""

    variants: tuple[str, str]
    difference: float
    """Share of the first less that of the second."""
    z: float | None
    """None: the expected counts are too small for the test."""
    p: float | None
    """Probability of a difference as large as this, or larger, if there were none."""
    adjusted_p: float | None
    """The same, corrected for the number of comparisons."""


class Verdicts(NamedTuple):
    """Outcome of an experiment."""

    verdict: Verdict
    winner: str | None
    comparisons: list[VariantComparison]


def is_enough(first: Share, second: Share) -> bool:
    """Whether every expected count is large enough for the test."""
    if not (first.trials and second.trials):
        return False
    pooled = (first.successes + second.successes) / (first.trials + second.trials)
    return min(first.trials, second.trials) * min(pooled, 1 - pooled) >= LEAST_EXPECTED_DEVICES


def two_proportion_z(first: Share, second: Share) -> tuple[float, float]:
    """z and the two-sided p of two shares that are enough for it (`is_enough`)."""
    z = z_score(first, second)
    return z, math.erfc(abs(z) / math.sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's step-down method; in the order in which they are given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def compare_variants(shares: Mapping[str, Share], confidence: float = DEFAULT_CONFIDENCE_SHARE) -> Verdicts:
    """Compare each variant with each other one; a winner is better than all others with this confidence."""
    pairs = list(combinations(shares, 2))
    tests: dict[tuple[str, str], tuple[float, float]] = {}
    for first, second in pairs:
        if is_enough(shares[first], shares[second]):
            tests[first, second] = two_proportion_z(shares[first], shares[second])
    # Those without a test count as well: the correction must not depend on what has come in so far.
    adjusted = dict(zip(pairs, holm([tests[pair][1] if pair in tests else 1.0 for pair in pairs]), strict=True))
    comparisons = []
    for pair in pairs:
        z, p = tests.get(pair, (None, None))
        difference = shares[pair[0]].rate - shares[pair[1]].rate
        comparisons.append(VariantComparison(pair, difference, z, p, adjusted[pair] if p is not None else None))
    best = max(shares, key=lambda name: shares[name].rate, default=None)
    against_best = [found for found in comparisons if best in found.variants]
    if best is None or not against_best or any(found.p is None for found in against_best):
        return Verdicts("not_enough", None, comparisons)
    if all(found.adjusted_p is not None and found.adjusted_p < 1 - confidence for found in against_best):
        return Verdicts("winner", best, comparisons)
    return Verdicts("no_difference", None, comparisons)


def describe_verdicts(found: Verdicts, confidence: float, *, is_final: bool) -> dict[str, Any]:
    """Describe the outcome as the API shows it."""
    return {
        "verdict": found.verdict,
        "winner": found.winner,
        "confidence": confidence,
        "preliminary": not is_final,
        "comparisons": [
            {
                "variants": list(one.variants),
                "difference": round(one.difference, 6),
                "z": None if one.z is None else round(one.z, 4),
                "p": None if one.p is None else round(one.p, 6),
                "adjusted_p": None if one.adjusted_p is None else round(one.adjusted_p, 6),
            }
            for one in found.comparisons
        ],
    }
