"""The statistics of variants, against worked examples that others have published."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.significance import Share, wilson_interval
from gateway.plans.statistics import compare_variants, holm, is_enough, two_proportion_z


@pytest.mark.parametrize(
    ("share", "interval"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
        # table I, method 3 (Wilson's score, without correction for continuity).
        (Share(81, 263), (0.2553, 0.3662)),
        (Share(15, 148), (0.0624, 0.1605)),
        (Share(0, 20), (0.0000, 0.1611)),
        (Share(1, 29), (0.0061, 0.1718)),
    ],
)
def test_wilsons_interval(share: Share, interval: tuple[float, float]) -> None:
    assert wilson_interval(share) == pytest.approx(interval, abs=5e-5)


def test_z_is_the_root_of_pearsons_chi_square() -> None:
    first, second = Share(38, 200), Share(63, 200)
    z, p = two_proportion_z(first, second)
    pooled = [(101 * 200 / 400), (299 * 200 / 400)]
    chi_square = sum(
        (observed - expected) ** 2 / expected
        for share in (first, second)
        for observed, expected in zip((share.successes, share.trials - share.successes), pooled, strict=True)
    )
    assert z**2 == pytest.approx(chi_square)
    assert z < 0
    assert two_proportion_z(second, first) == (-z, p)


def test_aspirin() -> None:
    """Physicians' Health Study (1988), as worked in Agresti, *An Introduction to Categorical Data Analysis*, 2nd
    edition, 2.2 and 2.3: 189 of 11,034 with placebo, 104 of 11,037 with aspirin; a difference of 0.0077, X2 25.01."""
    placebo, aspirin = Share(189, 11_034), Share(104, 11_037)
    z, p = two_proportion_z(placebo, aspirin)
    assert placebo.rate - aspirin.rate == pytest.approx(0.0077, abs=5e-5)
    assert z**2 == pytest.approx(25.01, abs=5e-3)
    assert p < 0.0001


def test_holm() -> None:
    """Holm's step-down method, by hand: the smallest of three counts three times, the next one twice; none sinks."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, corrected in zip(p_values, adjusted, strict=True):
        assert p <= corrected <= min(1.0, len(p_values) * p) + 1e-12
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[index] for index in order] == sorted(adjusted)


@given(trials=st.integers(0, 10_000), part=st.floats(0, 1))
def test_an_interval_holds_its_share(trials: int, part: float) -> None:
    share = Share(round(trials * part), trials)
    low, high = wilson_interval(share)
    assert 0 <= low <= high <= 1
    assert not trials or low <= share.rate <= high


def test_few_are_not_enough() -> None:
    assert not is_enough(Share(4, 1_000), Share(5, 1_000))
    assert is_enough(Share(4, 1_000), Share(6, 1_000))
    assert not is_enough(Share(0, 0), Share(5, 10))
    found = compare_variants({"a": Share(2, 10), "b": Share(0, 10)})
    assert (found.verdict, found.winner, found.comparisons[0].p) == ("not_enough", None, None)


def test_a_winner_beats_every_other_one() -> None:
    found = compare_variants({"a": Share(100, 1_000), "b": Share(150, 1_000), "c": Share(90, 1_000)})
    assert (found.verdict, found.winner) == ("winner", "b")
    # 100 against 135: p = 0.015, times three for three comparisons is not below 0.05; two alone would be.
    two = {"a": Share(100, 1_000), "b": Share(135, 1_000)}
    assert compare_variants(two).verdict == "winner"
    assert compare_variants(two | {"c": Share(130, 1_000)}).verdict == "no_difference"


def test_no_difference() -> None:
    found = compare_variants({"a": Share(100, 1_000), "b": Share(104, 1_000)})
    assert (found.verdict, found.winner) == ("no_difference", None)
    assert compare_variants({"a": Share(100, 1_000)}).verdict == "not_enough"
    assert compare_variants({"a": Share(0, 1_000), "b": Share(0, 1_000)}).verdict == "not_enough"
