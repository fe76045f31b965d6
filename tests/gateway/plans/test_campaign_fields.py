"""Plans of campaigns: sizes that are exact, whatever is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.plans.campaign_fields import MAX_PARTS, make_plan, sizes_of_variants
from tests.gateway.plans.campaign_world import CampaignWorld


def sizes(total: int, named: int | None = None, **fields: Any) -> list[int]:
    plan = make_plan(CampaignWorld.campaign_request(**fields), total, named)
    return [plan.holdout, *(group.size for group in plan.groups), plan.left_out]


def test_shares_are_of_the_whole_target_and_rounded_up() -> None:
    assert sizes(1_000, rollout=["1%", "10%", "rest"]) == [0, 10, 100, 890, 0]
    assert sizes(50, rollout=["1%", "10%", "rest"]) == [0, 1, 5, 44, 0]
    assert sizes(1_000, rollout=["1%"]) == [0, 10, 990]
    assert sizes(1_000, rollout=[5, "0.5%"], holdout="10%") == [100, 5, 5, 890]
    assert sizes(3, rollout=["50%", "rest"]) == [0, 2, 1, 0]
    assert sizes(0, rollout=["50%", "rest"]) == [0, 0, 0, 0]


def test_a_canary_comes_out_of_the_target() -> None:
    assert sizes(100, canary=3, rollout=["10%", "rest"]) == [0, 3, 10, 87, 0]
    assert sizes(100, 3, canary={"tag": "lab"}, holdout="50%") == [50, 3, 47, 0]
    assert sizes(4, 4, canary={"tag": "lab"}, holdout="50%") == [0, 4, 0, 0], "named devices are in no holdout"
    assert sizes(2, canary="1%", rollout=["1%", "rest"]) == [0, 1, 1, 0, 0]


ROLLOUTS = st.lists(st.integers(1, 40).map(lambda share: f"{share}%") | st.integers(1, 500), min_size=1, max_size=5)


@given(
    total=st.integers(0, 5_000),
    rollout=ROLLOUTS,
    rest=st.booleans(),
    canary=st.none() | st.integers(1, 50) | st.just("2%"),
    holdout=st.none() | st.just("7%"),
)
def test_no_device_is_planned_twice(total: int, rollout: list[Any], rest: bool, canary: Any, holdout: Any) -> None:
    fields = {"rollout": [*rollout, *(["rest"] if rest else [])], "canary": canary, "holdout": holdout}
    shares = [size for size in (*rollout, holdout) if isinstance(size, str)]
    if sum(int(share[:-1]) for share in shares) > 100:
        with pytest.raises(ValidationError, match="more than 100%"):
            CampaignWorld.campaign_request(**fields)
        return
    request = CampaignWorld.campaign_request(**fields)
    plan = make_plan(request, total, None)
    assert plan.left_out >= 0
    assert not rest or plan.left_out == 0
    assert plan.holdout + sum(group.size for group in plan.groups) + plan.left_out == total
    assert plan == make_plan(request, total, None)


@given(
    total=st.integers(0, 2_000_000),
    devices=st.integers(1, 100_000),
    unit=st.sampled_from("smhd"),
    growth=st.sampled_from([1.0, 1.01, 1.5, 10.0]),
    variants=st.integers(0, 4),
)
def test_a_rate_has_few_steps_and_keeps_its_pace(
    total: int, devices: int, unit: str, growth: float, variants: int
) -> None:
    rollout: dict[str, Any] = {"rate": f"{devices}/{unit}"} | ({"growth": growth, "every": "10m"} if growth > 1 else {})
    fields: dict[str, Any] = {"rollout": rollout}
    if variants > 1:
        fields["variants"] = [{"id": f"v{number}"} for number in range(variants)]
    request = CampaignWorld.campaign_request(**fields)
    plan = make_plan(request, total, None)
    assert plan.left_out == 0
    assert len(plan.groups) * len(request.weights) <= MAX_PARTS
    assert all(group.size > 0 for group in plan.groups)
    assert [group.pace_ms is None for group in plan.groups[:-1]] == [False] * (len(plan.groups) - 1)
    assert all(group.pace_ms >= 1_000 for group in plan.groups[:-1] if group.pace_ms is not None)
    assert sum(sizes_of_variants(request, plan)) == total if plan.groups else total == 0
    if growth == 1:
        milliseconds = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[unit]
        sent = at = 0
        for group in plan.groups:
            sent += group.size
            at += group.pace_ms or 0
            if group.pace_ms is not None:
                assert sent <= -(-devices * at // milliseconds), "what was sent when the next one starts"


@pytest.mark.parametrize("field", ["send_at", "send_at_local", "repeat", "window", "spread"])
def test_a_campaign_has_its_own_times(field: str) -> None:
    values: dict[str, Any] = {
        "send_at": "2027-01-01T00:00:00Z",
        "send_at_local": "09:00",
        "repeat": {"cron": "0 9 * * *", "zone": "UTC"},
        "window": {"from": "09:00", "to": "10:00", "zone": "device"},
        "spread": 60,
    }
    with pytest.raises(ValidationError, match=f"push.{field}: a campaign has its own times|repeat"):
        CampaignWorld.campaign_request(push={field: values[field]})
