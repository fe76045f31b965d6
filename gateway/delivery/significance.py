"""Significance of a difference between two shares: how sure a figure is, and whether one is higher than another.

Textbook methods, with the mathematics of the standard library:

- *Wilson's score interval* (Wilson 1927) for one share. Unlike the usual p ± z·s it stays within 0 and 1, and means
  something at few observations or at none of a kind.
- The *pooled two-proportion z test*, one-sided, for two shares. It is an approximation that holds once enough has been
  observed of both kinds.
- *Fisher's exact test*, one-sided, where it does not hold: people who leave are few.

What is too little altogether is said to be too little, and no verdict is made of it. All assume that observations are
independent. Alerts to the same person are not quite; so a verdict here is a reason to look, and its level is strict.
"""

from __future__ import annotations

import math
from enum import StrEnum
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE_SHARE = 0.95
"""Of intervals: the usual one."""
LEVEL_SHARE = 0.01
"""Probability with which a test calls equal shares different: the usual 5 %, divided by the five comparisons that are
made with one bucket (Bonferroni)."""
MIN_OBSERVATIONS = 100
"""Observations of each of two shares, below which they are not compared."""
MIN_EXPECTED_OBSERVATIONS = 5
"""Observations of each kind that equal shares would lead one to expect in both samples: below it the normal
distribution is no good approximation (Cochran 1954), and the exact test decides."""


class Interval(NamedTuple):
    """Bounds of a share, within 0 and 1."""

    low: float
    high: float


class Verdict(StrEnum):
    """Result of a comparison."""

    HIGHER = "higher"
    NOT_HIGHER = "not_higher"
    NOT_ENOUGH = "not_enough"


class Share(NamedTuple):
    """Observations of a kind, of all of them."""

    successes: int
    trials: int

    @property
    def rate(self) -> float:
        return self.successes / self.trials if self.trials else 0.0


def wilson_interval(share: Share, confidence: float = CONFIDENCE_SHARE) -> Interval:
    """The interval that holds the true share with this confidence; (0, 1) of nothing."""
    successes, trials = share
    if not trials:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (successes + z * z / 2) / (trials + z * z)
    half = z / (trials + z * z) * math.sqrt(successes * (trials - successes) / trials + z * z / 4)
    # The ends are exact where a rounding error would leave a share outside of its own interval.
    return Interval(
        0.0 if not successes else max(0.0, centre - half), 1.0 if successes == trials else min(1.0, centre + half)
    )


def z_score(share: Share, base: Share) -> float:
    """Standard errors by which a share lies above another one, if both were samples of the same; 0 if nothing varies.

    Both need observations.
    """
    pooled = (share.successes + base.successes) / (share.trials + base.trials)
    error = math.sqrt(pooled * (1 - pooled) * (1 / share.trials + 1 / base.trials))
    return (share.rate - base.rate) / error if error else 0.0


def exact_probability(share: Share, base: Share) -> float:
    """The probability of as many in the first sample or more, if both shares were the same (Fisher)."""
    found, whole = share.successes + base.successes, share.trials + base.trials
    ways = _log_comb(whole, share.trials)
    return math.fsum(
        math.exp(_log_comb(found, count) + _log_comb(whole - found, share.trials - count) - ways)
        for count in range(share.successes, min(found, share.trials) + 1)
    )


def _log_comb(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def compare(share: Share, base: Share, level: float = LEVEL_SHARE) -> Verdict:
    """Decide whether a share is significantly higher than another one."""
    trials = min(share.trials, base.trials)
    if trials < MIN_OBSERVATIONS:
        return Verdict.NOT_ENOUGH
    found, whole = share.successes + base.successes, share.trials + base.trials
    if min(found, whole - found) * trials < MIN_EXPECTED_OBSERVATIONS * whole:
        is_higher = exact_probability(share, base) < level
    else:
        is_higher = z_score(share, base) > NormalDist().inv_cdf(1 - level)
    return Verdict.HIGHER if is_higher else Verdict.NOT_HIGHER
