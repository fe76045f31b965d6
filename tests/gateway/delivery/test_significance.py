"""Differences of shares: published examples, and a law; `tests/gateway/plans/test_statistics` has the intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.significance import Share, Verdict, compare, exact_probability, z_score

shares = st.integers(0, 5_000).flatmap(lambda trials: st.builds(Share, st.integers(0, trials), st.just(trials)))


def test_the_z_test_as_published() -> None:
    # Heart attacks of physicians with placebo and with aspirin: Agresti, An Introduction to Categorical Data Analysis,
    # 2.4: X² = 25.0 on one degree of freedom, which is the square of z.
    assert z_score(Share(189, 11_034), Share(104, 11_037)) ** 2 == pytest.approx(25.0, abs=0.05)
    assert compare(Share(189, 11_034), Share(104, 11_037)) is Verdict.HIGHER
    assert compare(Share(104, 11_037), Share(189, 11_034)) is Verdict.NOT_HIGHER


def test_the_exact_test_as_published() -> None:
    # The lady tasting tea: Fisher, The Design of Experiments, 1935: 17 of 70 ways.
    assert exact_probability(Share(3, 4), Share(1, 4)) == pytest.approx(17 / 70)
    assert exact_probability(Share(4, 4), Share(0, 4)) == pytest.approx(1 / 70)


def test_few_are_not_compared_and_rare_ones_exactly() -> None:
    assert compare(Share(99, 99), Share(0, 10_000)) is Verdict.NOT_ENOUGH
    assert compare(Share(0, 100), Share(0, 100)) is Verdict.NOT_HIGHER
    assert compare(Share(4, 100), Share(0, 100)) is Verdict.NOT_HIGHER, "one in seventeen by chance"
    assert compare(Share(7, 100), Share(0, 100)) is Verdict.HIGHER
    assert compare(Share(4, 1_000_000), Share(0, 1_000_000)) is Verdict.NOT_HIGHER


@given(share=shares, base=shares)
def test_no_two_shares_are_higher_than_each_other(share: Share, base: Share) -> None:
    verdicts = compare(share, base), compare(base, share)
    assert verdicts != (Verdict.HIGHER, Verdict.HIGHER)
    assert (Verdict.NOT_ENOUGH in verdicts) == (min(share.trials, base.trials) < 100)
    if verdicts[0] is Verdict.HIGHER:
        assert share.successes * base.trials > base.successes * share.trials
