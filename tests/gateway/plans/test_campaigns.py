"""Campaigns: group after group, as long as what comes back is as it should be, whatever is killed in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import Problem
from gateway.plans import campaigns as campaigns_module
from gateway.store.plans import campaigns as rows
from gateway.timestamps import WallTime, rfc3339
from tests.gateway.delivery.world import APP, items
from tests.gateway.plans.campaign_world import CampaignWorld

COMMAND = {"kind": "command", "data": {"command": "update"}}


@pytest.fixture
def world() -> Iterator[CampaignWorld]:
    world = CampaignWorld(devices=20)
    yield world
    world.close()


def refusal(world: CampaignWorld, coroutine: Any) -> str:
    with pytest.raises(Problem) as caught:
        world.run(coroutine)
    return caught.value.code


def push_ids(world: CampaignWorld, campaign_id: str, group: int) -> list[str]:
    return [part["push_id"] for part in world.show(campaign_id)["group_results"][group - 1]["parts"]]


def test_groups_follow_each_other_in_their_time(world: CampaignWorld) -> None:
    made = world.create(rollout=["10%", "50%", "rest"], observe="5m")
    assert world.show(made)["state"] == "running"
    world.go()
    assert world.parts(made) == [(1, None, 2)]
    world.passes(299)
    assert world.parts(made) == [(1, None, 2)]
    world.passes(1)
    assert world.parts(made) == [(1, None, 2), (2, None, 10)]
    world.passes(300)
    found = world.show(made)
    assert (found["state"], found["phase"], found["group"], found["groups"]) == ("running", "observing", 3, 3)
    assert found["blast_radius"] == found["counts"]["targeted"] == 20
    world.passes(300)
    found = world.show(made)
    assert (found["state"], found["reason"]) == ("completed", None)
    assert world.sent_to(made) == list(range(1, 21))
    assert world.campaign_events() == ["campaign.started", *["campaign.group_sent"] * 3, "campaign.completed"]
    push = world.run(world.reports.push(APP.no, push_ids(world, made, 2)[0]))
    assert (push["campaign_id"], push["group"], push["variant"]) == (made, 2, None)
    assert push["target"] == {"campaign": made}


def test_a_campaign_whose_canary_fails_stops_at_the_canary(world: CampaignWorld) -> None:
    made = world.create(push=COMMAND, canary={"devices": ["d3", "d7", "d9"]}, stop=["failed >= 2"])
    world.go()
    (push_id,) = push_ids(world, made, 1)
    assert world.devices_of(push_id) == {3, 7, 9}
    world.answer(push_id, 3, {"error": "no room"})
    world.passes(1)
    assert world.show(made)["state"] == "running"
    world.answer(push_id, 7, {"error": "no room"})
    world.passes(1)
    found = world.show(made)
    assert (found["state"], found["reason"]) == ("paused", "stop: failed >= 2 (2), of group 1")
    world.passes(100_000)
    assert world.sent_to(made) == [3, 7, 9]
    assert (found["blast_radius"], found["failed"]) == (3, 2)


def test_on_stop_abort_recalls_what_waits(world: CampaignWorld) -> None:
    made = world.create(push=COMMAND, canary=4, stop=["failed >= 1"], on_stop="abort")
    world.go()
    (push_id,) = push_ids(world, made, 1)
    first = min(world.devices_of(push_id))
    world.answer(push_id, first, {"error": "no room"})
    world.passes(1)
    found = world.show(made)
    assert (found["state"], found["reason"]) == ("aborted", "stop: failed >= 1 (1), of group 1")
    assert world.counts(push_id) == {"targeted": 4, "acted": 1, "cancelled": 3}
    assert world.row("SELECT count(*) FROM campaign_set") == (0,)
    assert world.campaigns.under_way == 0
    assert world.campaign_events()[-1] == "campaign.aborted"


def test_go_on_as_soon_as_enough_have_acted(world: CampaignWorld) -> None:
    made = world.create(push=COMMAND, canary=4, go_on=["acted >= 75% in 10m"])
    world.go()
    (push_id,) = push_ids(world, made, 1)
    for device_no in sorted(world.devices_of(push_id))[:3]:
        world.passes(60)
        assert len(world.parts(made)) == 1
        world.answer(push_id, device_no)
    world.passes(1)
    assert [size for _, _, size in world.parts(made)] == [4, 16]


def test_a_canary_that_does_not_act_in_time_pauses_the_campaign(world: CampaignWorld) -> None:
    made = world.create(push=COMMAND, canary=4, go_on=["acted >= 75% in 10m"])
    world.go()
    world.passes(599)
    assert world.show(made)["state"] == "running"
    world.passes(1)
    found = world.show(made)
    assert (found["state"], found["reason"]) == (
        "paused",
        "go_on: canary did not reach acted >= 75% in 10m (0 of 4: 0%)",
    )
    # Observed anew, from now on.
    world.run(world.campaigns.resume(APP.no, made, "k_other", next_group=False))
    world.passes(599)
    assert world.show(made)["state"] == "running"
    world.passes(1)
    assert world.show(made)["state"] == "paused"
    world.run(world.campaigns.resume(APP.no, made, "k_other", next_group=True))
    world.passes(0)
    assert [size for _, _, size in world.parts(made)] == [4, 16]


def test_a_condition_that_asks_for_little_is_judged_at_its_end(world: CampaignWorld) -> None:
    made = world.create(push=COMMAND, canary=4, go_on=["failed < 50% in 10m"])
    world.go()
    world.passes(599)
    assert len(world.parts(made)) == 1
    world.passes(1)
    assert world.show(made)["state"] == "paused", "nobody has answered: nothing is known"
    world.run(world.campaigns.resume(APP.no, made, "k", next_group=False))
    (push_id,) = push_ids(world, made, 1)
    world.answer(push_id, min(world.devices_of(push_id)))
    world.passes(600)
    assert len(world.parts(made)) == 2


def test_what_was_overruled_stops_again_when_it_grows(world: CampaignWorld) -> None:
    made = world.create(push=COMMAND, canary=4, stop=["failed >= 1"], observe="1h")
    world.go()
    (push_id,) = push_ids(world, made, 1)
    one, two, *_ = sorted(world.devices_of(push_id))
    world.answer(push_id, one, {"error": "no room"})
    world.passes(1)
    assert world.show(made)["state"] == "paused"
    world.run(world.campaigns.resume(APP.no, made, "k", next_group=False))
    world.passes(60)
    assert world.show(made)["state"] == "running"
    world.answer(push_id, two, {"error": "no room"})
    world.passes(1)
    assert world.show(made)["state"] == "paused"


def test_percentages_ask_for_a_sample(world: CampaignWorld) -> None:
    made = world.create(push=COMMAND, canary=10, stop=["failed >= 10%"], min_sample=3)
    world.go()
    (push_id,) = push_ids(world, made, 1)
    one, two, three, *_ = sorted(world.devices_of(push_id))
    for device_no in (one, two):
        world.answer(push_id, device_no, {"error": "no room"})
        world.passes(1)
        assert world.show(made)["state"] == "running"
    world.answer(push_id, three)
    world.passes(1)
    assert world.show(made)["reason"] == "stop: failed >= 10% (2 of 10: 20%), of group 1"


def test_variants_and_holdout_share_the_groups(world: CampaignWorld) -> None:
    variants = [{"id": "a", "weight": 3, "data": "A"}, {"id": "b", "weight": 1, "data": "B"}]
    made = world.create(rollout=[8, "rest"], variants=variants, holdout="20%", observe="1m")
    world.go()
    assert world.parts(made) == [(1, "a", 6), (1, "b", 2)]
    world.passes(60)
    assert world.parts(made)[2:] == [(2, "a", 6), (2, "b", 2)]
    world.passes(60)
    found = world.show(made)
    assert (found["state"], found["holdout"]) == ("completed", 4)
    page = world.run(world.campaign_reports.holdout(APP.no, made, 3, None))
    rest = world.run(world.campaign_reports.holdout(APP.no, made, 3, page.next_cursor))
    held = [int(item["device_id"].removeprefix("d")) for item in items(page) + items(rest)]
    assert sorted([*world.sent_to(made), *held]) == list(range(1, 21))
    contents = {row[0] for row in world.connection.execute("SELECT content FROM push")}
    assert contents == {'{"data":"A"}', '{"data":"B"}'}
    assert found["result"]["verdict"] == "not_enough"
    assert [(variant["id"], variant["size"]) for variant in found["variants"]] == [("a", 12), ("b", 4)]


def test_variants_may_be_texts_by_locale_and_templates(world: CampaignWorld) -> None:
    world.run(world.templates.put(APP.no, "soup", '{"notification": {"title": "Soup for {{ device.name }}"}}'))
    world.connection.execute("UPDATE device SET name = 'Till ' || no, locale = iif(no % 2 = 1, 'de', 'en')")
    variants = [
        {"id": "plain", "texts": {"de": {"title": "Essen"}, "default": {"title": "Lunch"}}},
        {"id": "soup", "template": "soup"},
    ]
    made = world.create(push={"notification": {"title": "Lunch"}}, canary=4, variants=variants)
    world.go()
    found = world.show(made)
    assert (found["state"], found["reason"]) == ("running", None)
    assert [(variant, size) for _, variant, size in world.parts(made)] == [("plain", 2), ("soup", 2)]


def test_a_canary_may_be_any_target(world: CampaignWorld) -> None:
    made = world.create(canary={"where": "id in ['d2', 'd5', 'd99']"})
    world.go()
    assert world.sent_to(made) == [2, 5]


def test_a_rate_sends_at_its_pace(world: CampaignWorld) -> None:
    made = world.create(rollout={"rate": "2/m"}, stop=["failed >= 1"])
    world.go()
    sizes = [len(world.sent_to(made))]
    for _ in range(60):
        world.passes(11)
        sizes.append(len(world.sent_to(made)))
    assert all(later - before <= 1 for before, later in pairwise(sizes)), "nothing is caught up in one go"
    seconds = [sizes.index(count) * 11 for count in range(1, 21)]
    assert seconds[-1] in range(19 * 30, 19 * 30 + 22), "looks that come late do not slow it down"
    world.passes(600)
    assert world.show(made)["state"] == "completed"
    assert world.sent_to(made) == list(range(1, 21))


def test_time_away_is_not_caught_up_at_once(world: CampaignWorld) -> None:
    made = world.create(rollout={"rate": "2/m"})
    world.go()
    world.now += 3_600_000
    world.crash()
    world.go()
    assert len(world.sent_to(made)) <= 2


def test_a_paused_campaign_sends_nothing(world: CampaignWorld) -> None:
    made = world.create(rollout=["50%", "rest"], observe="1m")
    world.go()
    world.run(world.campaigns.pause(APP.no, made, "k_other", "lunch"))
    assert refusal(world, world.campaigns.pause(APP.no, made, "k_other", None)) == "campaign_state"
    world.crash()
    world.passes(600)
    found = world.show(made)
    assert (found["state"], found["reason"], len(found["group_results"][0]["parts"])) == ("paused", "lunch", 1)
    world.run(world.campaigns.resume(APP.no, made, "k_other", next_group=False))
    assert refusal(world, world.campaigns.resume(APP.no, made, "k", next_group=False)) == "campaign_state"
    world.passes(59)
    assert len(world.parts(made)) == 1
    world.passes(1)
    assert len(world.parts(made)) == 2


def test_an_aborted_campaign_is_cleared_by_the_next_start(world: CampaignWorld) -> None:
    made = world.create(rollout=["50%", "rest"], holdout="10%")
    world.go()
    world.run(world.campaigns.abort(APP.no, made, "k_other", None))
    assert refusal(world, world.campaigns.abort(APP.no, made, "k_other", None)) == "campaign_state"
    world.crash()
    world.go()
    (push_id,) = push_ids(world, made, 1)
    assert world.counts(push_id) == {"targeted": 10, "cancelled": 10}
    assert world.show(made)["group_results"][0]["parts"][0]["recalled"]
    page = world.run(world.campaign_reports.holdout(APP.no, made, 10, None))
    assert len(page.items) == 2, "who got nothing is still known"
    assert world.row("SELECT count(*) FROM campaign_set") == (1,)


def test_the_target_is_frozen_when_it_starts(world: CampaignWorld) -> None:
    made = world.create(rollout=["50%", "rest"], observe="1m")
    world.go()
    gone = next(number for number in range(1, 21) if number not in world.sent_to(made))
    world.remove(gone)
    world.enrol(30)
    world.passes(60)
    assert world.sent_to(made) == [number for number in range(1, 21) if number != gone]
    assert [group["size"] for group in world.show(made)["group_results"]] == [10, 10]


def test_it_starts_at_its_time(world: CampaignWorld) -> None:
    made = world.create(send_at=rfc3339(world.now + 60_000))
    assert world.show(made)["state"] == "scheduled"
    world.passes(59)
    assert world.parts(made) == []
    world.crash()
    world.passes(1)
    assert world.parts(made) == [(1, None, 20)]


def test_a_start_goes_by_the_clock_on_the_wall(world: CampaignWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was an hour slow when the campaign was made, and is set right; then it is set back, which changes nothing."""
    clock = WallTime()
    monkeypatch.setattr("gateway.plans.campaign_reports.wall_time", clock)
    monkeypatch.setattr("gateway.plans.campaigns.wall_time", clock)
    made = world.create(send_at=rfc3339(world.now + 3_660_000), rollout=["50%", "rest"], observe="1m")
    clock.set_offsets([(0, 3_600_000)])
    world.passes(60)
    assert world.parts(made) == [(1, None, 10)]
    clock.set_offsets([(0, -3_600_000)])
    world.passes(60)
    assert world.parts(made) == [(1, None, 10), (2, None, 10)], "what has begun goes by distances"


def test_whatever_asks_for_approval_waits_for_another_key(world: CampaignWorld) -> None:
    made = world.create(ask_approval=True)
    world.passes(60)
    assert (world.show(made)["state"], world.parts(made)) == ("awaiting_approval", [])
    assert refusal(world, world.campaigns.approve(APP.no, made, "k_maker")) == "other_key_needed"
    world.run(world.campaigns.approve(APP.no, made, "k_other"))
    world.go()
    assert world.parts(made)[0][2] > 0


def test_commands_to_many_wait_for_another_key(world: CampaignWorld) -> None:
    world.set_policy(approve_above=5)
    made = world.create(push=COMMAND, canary=2)
    world.passes(60)
    assert (world.show(made)["state"], world.parts(made)) == ("awaiting_approval", [])
    assert refusal(world, world.campaigns.approve(APP.no, made, "k_maker")) == "other_key_needed"
    world.run(world.campaigns.approve(APP.no, made, "k_other"))
    world.go()
    found = world.show(made)
    assert (found["state"], found["approved_by"], found["blast_radius"]) == ("running", "k_other", 2)
    assert world.campaign_events()[:3] == ["campaign.approval_needed", "campaign.approved", "campaign.started"]
    # A part to more than that needs no approval of its own.
    world.passes(600)
    assert [size for _, _, size in world.parts(made)] == [2, 18]
    # What is no command, or is for few, needs none.
    assert world.show(world.create())["state"] == "running"
    assert world.show(world.create(push=COMMAND | {"target": {"devices": ["d1", "d2"]}}))["state"] == "running"


def test_a_policy_that_changes_while_it_runs_holds_for_what_is_left(world: CampaignWorld) -> None:
    made = world.create(push=COMMAND, canary=2, observe="1m")
    world.go()
    world.set_policy(approve_above=5)
    world.passes(60)
    assert (world.show(made)["state"], world.show(made)["blast_radius"]) == ("awaiting_approval", 2)
    world.run(world.campaigns.approve(APP.no, made, "k_other"))
    world.go()
    assert [size for _, _, size in world.parts(made)] == [2, 18]


def test_a_canary_that_is_gone_pauses_the_campaign(world: CampaignWorld) -> None:
    made = world.create(canary={"devices": ["d3"]}, send_at=rfc3339(world.now + 60_000))
    world.remove(3)
    world.passes(60)
    assert world.show(made)["reason"] == "canary: the push is for none of these devices"
    other = world.create(canary={"devices": ["d4"]})
    world.step()  # it is frozen
    world.remove(4)
    world.go()
    assert world.show(other)["reason"] == "canary: it reached nobody"
    assert world.show(other)["blast_radius"] == 0


def save(world: CampaignWorld, name: str, **content: Any) -> None:
    world.run(world.templates.put(APP.no, name, json.dumps(content)))


def test_a_template_that_is_a_command_needs_approval_too(world: CampaignWorld) -> None:
    world.set_policy(approve_above=5)
    save(world, "update", **COMMAND)
    save(world, "note", data=1)
    by_template = {"target": {"all": True}, "template": "update"}
    made = world.create(push=by_template)
    assert world.show(made)["state"] == "awaiting_approval"
    assert world.run(world.campaign_reports.forecast(APP, world.campaign_request(push=by_template)))["needs_approval"]
    variants = [{"id": "a"}, {"id": "b", "template": "update"}]
    assert world.show(world.create(variants=variants))["state"] == "awaiting_approval"
    assert world.show(world.create(push=by_template | {"template": "note"}))["state"] == "running"
    world.run(world.campaigns.approve(APP.no, made, "k_other"))
    world.go()
    assert world.parts(made) == [(1, None, 20)]


def test_a_template_that_is_made_anew_as_a_command_is_not_sent(world: CampaignWorld) -> None:
    world.set_policy(approve_above=5)
    save(world, "note", data=1)
    push = {"target": {"all": True}, "template": "note"}
    made, later = (
        world.create(push=push, rollout=[2, "rest"]),
        world.create(push=push, send_at=rfc3339(world.now + 500)),
    )
    world.go()
    world.run(world.templates.remove(APP.no, "note"))
    save(world, "note", **COMMAND)  # which is no version that was checked
    world.passes(600)
    assert world.parts(made) == [(1, None, 2)]
    assert not world.parts(later)
    for campaign in (made, later):
        shown = world.show(campaign)
        assert shown["state"] == "paused"
        assert "template" in shown["reason"]


def test_all_groups_get_the_version_of_a_template_that_was_checked(world: CampaignWorld) -> None:
    save(world, "note", data={"is": "first"})
    variants = [{"id": "a"}, {"id": "b", "template": "note"}]
    push = {"target": {"all": True}, "template": {"name": "note", "values": {"x": 1}}}
    made = world.create(push=push, variants=variants, rollout=[10, "rest"])
    world.go()
    save(world, "note", data={"is": "second"})
    world.passes(600)
    assert len(world.parts(made)) == 4
    for group in (1, 2):
        for push_id in push_ids(world, made, group):
            shown = world.run(world.reports.push(APP.no, push_id))
            assert shown["template"] == {"name": "note", "version": 1}
    assert refusal(world, world.campaigns.create(APP, "k", world.campaign_request(push={"template": "nothing"}))) == (
        "template_not_found"
    )


def test_a_part_is_made_of_the_push_and_its_variant_alone(world: CampaignWorld) -> None:
    listed = {"devices": [f"d{number}" for number in range(1, 11)]}
    push = {"target": listed, "data": {"n": None}, "collapse_key": "c", "ttl": 60}
    variants = [{"id": "a"}, {"id": "b", "data": None}, {"id": "c", "notification": {"title": "Hi"}}]
    made = world.create(push=push, variants=variants)
    world.go()
    assert sorted(world.sent_to(made)) == list(range(1, 11))
    contents = world.connection.execute("SELECT content, collapse_key, ttl, kind FROM push ORDER BY no").fetchall()
    assert [tuple(row) for row in contents] == [
        ('{"data":{"n":null}}', "c", 60, "silent"),
        ('{"data":null}', "c", 60, "silent"),
        ('{"notification":{"title":"Hi"},"data":{"n":null}}', "c", 60, "alert"),
    ]


def test_who_resumes_while_another_pauses_is_not_forgotten(world: CampaignWorld) -> None:
    made = world.create(rollout=[5, "rest"])
    world.go()
    database: Any = world.campaigns._database
    write = database.write

    async def write_and_resume(operation: Any, app_no: int) -> Any:
        found = await write(operation, app_no)
        database.write = write
        await world.campaigns.resume(APP.no, made, "k", next_group=False)
        return found

    database.write = write_and_resume
    world.run(world.campaigns.pause(APP.no, made, "k", None))
    world.passes(600)
    assert world.show(made)["state"] == "running"
    assert [size for _, _, size in world.parts(made)] == [5, 15]


def test_who_pauses_what_is_just_looked_at_stops_no_other(
    world: CampaignWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused, other = world.create(), world.create()
    due = world.campaigns.next_due()
    world.run(world.campaigns.pause(APP.no, paused, "k", None))
    world.go()
    assert len(world.parts(other)) == 1
    monkeypatch.setattr(world.campaigns, "next_due", lambda: due)  # chosen before it was paused and forgotten
    world.step()
    assert world.parts(paused) == []


def test_a_target_that_has_grown_needs_approval_at_its_start(world: CampaignWorld) -> None:
    world.set_policy(approve_above=20)
    made = world.create(push=COMMAND, send_at=rfc3339(world.now + 60_000))
    world.enrol()
    world.passes(60)
    assert world.show(made)["state"] == "awaiting_approval"
    world.run(world.campaigns.approve(APP.no, made, "k_other"))
    world.go()
    assert world.parts(made) == [(1, None, 21)]


def test_a_plain_command_to_many_is_refused(world: CampaignWorld) -> None:
    world.set_policy(approve_above=5)
    code = refusal(world, world.acceptance.accept(APP, world.request({"all": True}, kind="command")))
    assert code == "approval_needed"
    assert world.push({"devices": ["d1", "d2"]}, kind="command").targeted == 2
    assert world.push({"all": True}).targeted == 20


def test_campaigns_of_an_app_are_bounded(world: CampaignWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns_module, "RUNNING_CAMPAIGNS", 2)
    monkeypatch.setattr(campaigns_module, "KEPT_CAMPAIGNS", 3)
    first, second = world.create(), world.create()
    request = world.campaign_request()
    assert refusal(world, world.campaigns.create(APP, "k", request)) == "too_many_campaigns"
    assert world.campaigns.refused == 1
    for made in (first, second):
        world.run(world.campaigns.abort(APP.no, made, "k", None))
    world.go()
    third, fourth = world.create(), world.create()
    kept = {row[0] for row in world.connection.execute("SELECT id FROM campaign")}
    assert kept == {second, third, fourth}


def test_what_cannot_be_made_says_why(world: CampaignWorld) -> None:
    def code(**fields: Any) -> str:
        return refusal(world, world.campaigns.create(APP, "k", world.campaign_request(**fields)))

    assert code(push={"target": {"device": "nobody"}}) == "device_not_found"
    assert code(push={"target": {"device": "d1"}}, canary={"devices": ["d2"]}) == "invalid_request"
    assert code(push={"data": "x" * 5_000}) == "payload_too_large"
    assert code(variants=[{"id": "a"}, {"id": "b", "data": "x" * 5_000}]) == "payload_too_large"
    assert code(send_at="2999-01-01T00:00:00Z") == "invalid_request"
    assert refusal(world, world.campaigns.pause(APP.no, "c_none", "k", None)) == "campaign_not_found"


def test_a_full_disk_makes_it_wait(world: CampaignWorld) -> None:
    made = world.create()
    world.step()
    world.storage_left = False
    world.passes(60)
    assert world.parts(made) == []
    world.storage_left = True
    world.passes(2)
    assert len(world.parts(made)) == 1


def test_a_campaign_that_takes_long_holds_up_no_other(world: CampaignWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns_module, "TICK_SECONDS", 0)
    slow, quick = world.create(), world.create()
    read_campaign = rows.read_campaign
    advance = world.campaigns._advance

    async def stall(campaign_no: int) -> int | None:
        found = read_campaign(world.connection, campaign_no)
        if found is not None and found.id == slow:
            await asyncio.Event().wait()
        return await advance(campaign_no)

    monkeypatch.setattr(world.campaigns, "_advance", stall)

    async def until_sent() -> None:
        running = asyncio.ensure_future(world.campaigns.run())
        while not world.row("SELECT count(*) FROM campaign_part")[0]:  # noqa: ASYNC110  the world is moved by hand
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    world.run(until_sent())
    assert world.parts(quick) == [(1, None, 20)]
    assert world.parts(slow) == []
    assert world.campaigns.next_due(), "what was interrupted is still to do"


class Killed(BaseException):
    """The server was killed."""


def kill_after(world: CampaignWorld, operations: int) -> None:
    """Kill the server behind so many more commits, before anybody hears of the last one."""
    writer: Any = world.writer
    write, commit_group = writer.write, writer.commit_group
    left = [operations]

    def count() -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Killed

    async def killing_write(operation: Any, app_no: int | None = None) -> Any:
        result = await write(operation, app_no)
        count()
        return result

    def killing_commit(size: int | None = None) -> None:
        if writer.queue:
            commit_group(size)
            count()

    writer.write, writer.commit_group = killing_write, killing_commit


def end_tasks(world: CampaignWorld) -> None:
    """End what has waited for a writer that was killed."""
    tasks = asyncio.all_tasks(world.loop)
    if not tasks:
        return
    for task in tasks:
        task.cancel()
    world.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


COMMANDS = st.sampled_from(["", "", "pause", "resume", "next_group", "abort"])


def command(world: CampaignWorld, campaign_id: str, name: str) -> None:
    """Give a campaign a command, whether or not it is in a state for it."""
    campaigns = world.campaigns
    with suppress(Problem):
        if name == "pause":
            world.run(campaigns.pause(APP.no, campaign_id, "k", None))
        elif name in ("resume", "next_group"):
            world.run(campaigns.resume(APP.no, campaign_id, "k", next_group=name == "next_group"))
        elif name == "abort":
            world.run(campaigns.abort(APP.no, campaign_id, "k", None))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kills=st.lists(st.tuples(st.integers(1, 12), COMMANDS), max_size=12))
def test_no_device_has_two_parts_and_none_is_lost_whatever_is_killed(kills: list[tuple[int, str]]) -> None:
    world = CampaignWorld(devices=12)
    variants = [{"id": "a", "data": 1}, {"id": "b", "data": 2}]
    made = world.create(
        rollout=["20%", "30%", "rest"], canary={"devices": ["d5"]}, variants=variants, holdout="10%", observe="1m"
    )
    try:
        for operations, name in kills:
            kill_after(world, operations)
            try:
                world.passes(30)
                command(world, made, name)
                for _ in range(3):
                    world.passes(30)
            except Killed:
                end_tasks(world)
            world.crash()
            sent = world.sent_to(made)
            assert len(set(sent)) == len(sent), "no device twice"
        command(world, made, "resume")
        for _ in range(20):
            world.passes(60)
        found = world.show(made)
        sent = world.sent_to(made)
        assert found["state"] in ("completed", "aborted")
        assert len(set(sent)) == len(sent) == found["blast_radius"]
        if found["state"] == "completed":
            assert len(sent) == 11
            assert world.campaign_events().count("campaign.group_sent") == 4
        else:
            assert found["counts"]["waiting"] == 0
        assert world.row("SELECT count(*) FROM campaign_set WHERE group_no >= 0") == (0,)
        assert world.row("SELECT count(*) FROM campaign WHERE NOT cleared") == (0,)
    finally:
        world.close()
