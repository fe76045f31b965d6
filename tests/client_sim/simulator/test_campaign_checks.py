"""The judge of campaigns: it accuses what must not be, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from client_sim.simulator.campaign_checks import compare_deliveries, compare_groups, number_of
from client_sim.simulator.campaign_parts import ArrivedPart, Outcome
from client_sim.simulator.gateway_client import ServerDelivery
from client_sim.simulator.scenario import CampaignPlan
from client_sim.simulator.simulated_push import BUILD_ERROR, result_of

IDS = [f"d{index}" for index in range(20)]
ORDER = sorted(range(20), key=lambda index: number_of("c1", IDS[index]))
PLAN = CampaignPlan(canary=4, rollout=("25%", "rest"), variants=2)


@dataclass
class Story:
    """A campaign that went well: a canary of four, five devices, the rest, half of each in a variant."""

    report: dict[str, Any]
    arrived: list[ArrivedPart]

    def fail(self, place: int, outcome: Outcome) -> None:
        """The device at this place of the order fails."""
        self.arrived = [one._replace(outcome=outcome) if one.device == ORDER[place] else one for one in self.arrived]

    def stop(self, groups: int, state: str = "paused") -> None:
        """Only so many groups are sent."""
        for group in self.report["group_results"][groups:]:
            group["parts"] = []
        sent = {part["push_id"] for group in self.report["group_results"] for part in group["parts"]}
        self.arrived = [one for one in self.arrived if one.push_id in sent]
        self.report |= {"state": state, "blast_radius": len(self.arrived), "reason": "stopped"}

    def mistakes(self) -> list[str]:
        return [what for _, what in compare_groups(PLAN, self.report, self.arrived, IDS)]


@pytest.fixture
def story() -> Story:
    groups, arrived, first = [], [], 0
    for number, size in enumerate((4, 6, 10), 1):
        parts = []
        for place, name in enumerate(("v1", "v2")):
            push_id = f"g{number}-{name}"
            parts.append({"push_id": push_id, "variant": name})
            begin = first + place * size // 2
            arrived += [ArrivedPart(1, ORDER[at], push_id, name, "done") for at in range(begin, begin + size // 2)]
        first += size
        groups.append({"group": number, "parts": parts})
    report: dict[str, Any] = {
        "campaign_id": "c1",
        "state": "completed",
        "reason": None,
        "groups": 3,
        "blast_radius": 20,
        "group_results": groups,
        "variants": [{"id": "v1"}, {"id": "v2"}],
    }
    return Story(report, arrived)


def test_a_good_build_goes_to_all_and_a_bad_one_stops_at_the_canary(story: Story) -> None:
    assert story.mistakes() == []
    story.fail(2, "refused")
    assert story.mistakes() != []
    story.stop(1)
    assert story.mistakes() == []
    story.report["state"] = "completed"
    assert len(story.mistakes()) == 1


def test_what_fails_later_stops_there_and_silence_at_the_end_is_only_told(story: Story) -> None:
    story.fail(12, "silent")
    assert len(story.mistakes()) == 1, "it is completed, and says nothing of it"
    story.report["reason"] = "acted 95%"
    assert story.mistakes() == []
    story.fail(5, "error")
    assert any("it failed in group 2, and group 3 was sent" in what for what in story.mistakes())


def test_a_campaign_that_stops_without_a_reason_of_ours(story: Story) -> None:
    story.stop(2)
    assert story.mistakes() == ["nothing failed; it is paused, and 10 of 20 devices had a part"]


def test_mistakes_of_parts(story: Story) -> None:
    first, *others = story.arrived
    for arrived, said in (
        (others, "the canary has 3 devices"),
        ([*story.arrived, first._replace(push_id="g3-v1")], "it had 2 parts"),
        ([first._replace(push_id="other"), *others], "which is no part of it"),
        ([first._replace(variant="v2"), *others], "it had the variant v2 in a part of v1"),
    ):
        found = Story(story.report, arrived).mistakes()
        assert any(said in what for what in found), (said, found)
    story.report["blast_radius"] = 19
    assert story.mistakes() == ["it tells a blast radius of 19; 20 devices had a part"]


def test_a_device_in_another_variant_than_its_number_says(story: Story) -> None:
    swapped = {ORDER[0]: ORDER[3], ORDER[3]: ORDER[0]}
    story.arrived = [one._replace(device=swapped.get(one.device, one.device)) for one in story.arrived]
    assert any("by its number it is not in group 1" in what for what in story.mistakes())


def test_the_ledger_must_say_what_devices_did() -> None:
    outcomes: list[Outcome] = ["done", "error", "refused", "silent"]
    arrived = [ArrivedPart(1, index, "p", None, outcome) for index, outcome in enumerate(outcomes)]
    listed = [
        ServerDelivery("d0", "acted", None, result=result_of("p", "d0")),
        ServerDelivery("d1", "acted", None, result=BUILD_ERROR),
        ServerDelivery("d2", "refused", "reason_code_0x83"),
        ServerDelivery("d3", "delivered", None),
    ]
    assert compare_deliveries({"p": listed}, arrived, IDS) == []
    listed[0] = ServerDelivery("d0", "acted", None, result=BUILD_ERROR)
    listed[3] = ServerDelivery("d4", "delivered", None)
    found = [what for _, what in compare_deliveries({"p": listed}, arrived, IDS)]
    assert len(found) == 3
    assert found[1:] == [
        "the server lists it as delivered; it never had a part",
        "it had a part that the server does not list",
    ]
