"""Campaigns of a simulation: one is started by the public interface, and judged by what its devices had and did.

Some devices fail the build that a campaign brings them: they answer with an error, refuse it, or say nothing. From the
devices alone follows what the campaign must have done: no device has two parts, no part goes to a further group once a
device has failed, and without a failure every device has exactly one. Who is first follows from the campaign's id
(`docs/campaigns.md`, "Who is in which part"), and is computed here again; a server that was killed meanwhile must not
change it. Then the server's ledger must say of each device what the device has said.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from client_sim.simulator.campaign_parts import ArrivedPart, Outcome, build_of
from client_sim.simulator.gateway_client import GatewayClient, ServerDelivery
from client_sim.simulator.scenario import CampaignPlan
from client_sim.simulator.simulated_push import BUILD_ERROR, result_of

POLL_SECONDS = 0.25
ENDED = ("paused", "completed", "aborted")
HEARD_SECONDS = 10.0
"""The time after the end of a campaign by which the server must have what the devices have said."""
TTL_SECONDS = 3_600
STATES: dict[Outcome, str] = {"done": "acted", "error": "acted", "refused": "refused", "silent": "delivered"}


class CampaignRunner:
    """Starts campaigns and judges them. `found` is called with a device's index (-1: of none) and each mistake."""

    def __init__(
        self, gateway: GatewayClient, ids: Sequence[str], tag: str, speed: float, found: Callable[[int, str], None]
    ) -> None:
        """`ids`: of the devices. `tag`: of all of them. `speed`: of the server's clock."""
        self._gateway = gateway
        self._ids = ids
        self._tag = tag
        self._speed = speed
        self._found = found
        self._parts: dict[int, list[ArrivedPart]] = defaultdict(list)
        """By campaign."""

    @property
    def parts(self) -> int:
        """Parts that devices had."""
        return sum(map(len, self._parts.values()))

    def arrived(self, parts: Iterable[ArrivedPart]) -> None:
        """Record parts that devices had."""
        for part in parts:
            self._parts[part.campaign].append(part)

    async def run(
        self, campaign: int, plan: CampaignPlan, lasts: float, restart: Callable[[], Awaitable[None]]
    ) -> None:
        """Carry a campaign out, for so many seconds at most, and judge it. `restart` kills the server."""
        campaign_id = await self._gateway.make_campaign(self._request(campaign, plan), f"{self._tag}-c{campaign}")
        deadline = time.monotonic() + lasts
        to_kill = plan.kill_server
        while True:
            report = await self._gateway.campaign(campaign_id)
            if to_kill and report["blast_radius"]:
                to_kill = False
                await restart()
            elif report["state"] in ENDED:
                break
            elif time.monotonic() > deadline:
                self._found(-1, f"campaign {campaign_id} is still {report['state']} after {lasts:g} s")
                return
            await asyncio.sleep(POLL_SECONDS)
        await self._compare(campaign, plan, report)

    def _request(self, campaign: int, plan: CampaignPlan) -> dict[str, Any]:
        push = {"target": {"tag": self._tag}, "kind": "command", "ttl": TTL_SECONDS}
        seconds = max(1, round(plan.patience * self._speed))
        request: dict[str, Any] = {
            "name": f"Build {campaign}",
            "push": {**push, "data": build_of(campaign, plan.failing, None)},
            "canary": plan.canary,
            "rollout": list(plan.rollout),
            "go_on": [f"acted >= 100% in {seconds}s"],
            "stop": ["refused + failed >= 1"],
        }
        if plan.variants > 1:
            names = [f"v{number}" for number in range(1, plan.variants + 1)]
            request["variants"] = [{"id": name, "data": build_of(campaign, plan.failing, name)} for name in names]
        return request

    async def _compare(self, campaign: int, plan: CampaignPlan, report: Mapping[str, Any]) -> None:
        deadline = time.monotonic() + HEARD_SECONDS
        while True:
            parts = {part["push_id"]: part for group in report["group_results"] for part in group["parts"]}
            listed = {push_id: await self._gateway.deliveries(push_id) for push_id in parts}
            mistakes = [
                *compare_groups(plan, report, self._parts[campaign], self._ids),
                *compare_deliveries(listed, self._parts[campaign], self._ids),
            ]
            if not mistakes or time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
            report = await self._gateway.campaign(report["campaign_id"])
        for index, what in mistakes:
            self._found(index, f"campaign {report['campaign_id']}: {what}")


def compare_groups(
    plan: CampaignPlan, report: Mapping[str, Any], arrived: Sequence[ArrivedPart], ids: Sequence[str]
) -> list[tuple[int, str]]:
    """Compare which devices had a part with what must be: (device or -1, mistake) each."""
    found: list[tuple[int, str]] = []
    place_of = {
        part["push_id"]: (group["group"], part["variant"])
        for group in report["group_results"]
        for part in group["parts"]
    }
    pushes: dict[int, set[str]] = defaultdict(set)
    for one in arrived:
        pushes[one.device].add(one.push_id)
        if one.push_id not in place_of:
            found.append((one.device, f"it had the push {one.push_id}, which is no part of it"))
        elif place_of[one.push_id][1] != one.variant:
            found.append((one.device, f"it had the variant {one.variant} in a part of {place_of[one.push_id][1]}"))
    found += [(index, f"it had {len(several)} parts") for index, several in pushes.items() if len(several) > 1]
    groups: dict[int, list[ArrivedPart]] = defaultdict(list)
    for one in arrived:
        groups[place_of.get(one.push_id, (0, None))[0]].append(one)
    had, state = len(pushes), report["state"]
    canary = min(plan.canary, len(ids))
    if len(groups[1]) != canary:
        found.append((-1, f"the canary has {len(groups[1])} devices, not {canary}"))
    if report["blast_radius"] != had:
        found.append((-1, f"it tells a blast radius of {report['blast_radius']}; {had} devices had a part"))
    last = max((group for group in groups if groups[group]), default=0)
    failed = {group: [one for one in groups[group] if one.outcome != "done"] for group in groups}
    for group in range(1, last):
        if failed.get(group):
            index = failed[group][0].device
            found.append((index, f"it failed in group {group}, and group {last} was sent all the same"))
    silent_only = all(one.outcome == "silent" for one in failed.get(last, ()))
    ends = last == report["groups"]
    if failed.get(last) and state != "paused" and not (ends and silent_only and report["reason"]):
        found.append((failed[last][0].device, f"it failed, and the campaign is {state}"))
    if not any(failed.values()) and (state != "completed" or had != len(ids)):
        found.append((-1, f"nothing failed; it is {state}, and {had} of {len(ids)} devices had a part"))
    return found + _check_order(report, arrived, place_of, ids)


def _check_order(
    report: Mapping[str, Any],
    arrived: Sequence[ArrivedPart],
    place_of: Mapping[str, tuple[int, str | None]],
    ids: Sequence[str],
) -> list[tuple[int, str]]:
    """Check that parts were given out in the order of the devices' numbers, and that no place was left out."""
    names = [variant["id"] for variant in report["variants"] or ()]
    parts = [(number_of(report["campaign_id"], ids[one.device]), one) for one in arrived if one.push_id in place_of]
    parts.sort(key=lambda numbered: numbered[0])
    before = (0, 0)
    found = []
    for _, one in parts:
        group, variant = place_of[one.push_id]
        place = (group, names.index(variant) if variant is not None else 0)
        if place < before:
            found.append((one.device, f"by its number it is not in group {group}, variant {variant}"))
        before = max(place, before)
    first = sorted(range(len(ids)), key=lambda index: number_of(report["campaign_id"], ids[index]))[: len(parts)]
    left_out = set(first) - {one.device for _, one in parts}
    return found + [(index, "by its number it was to have a part before others") for index in sorted(left_out)]


def number_of(campaign_id: str, device_id: str) -> float:
    """The number of a device in a campaign, as its documentation says."""
    digest = hashlib.blake2b(f"{campaign_id}/{device_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32


def compare_deliveries(
    listed: Mapping[str, Sequence[ServerDelivery]], arrived: Sequence[ArrivedPart], ids: Sequence[str]
) -> list[tuple[int, str]]:
    """Compare what the server books of each part with what its devices did: (device or -1, mistake) each."""
    did = {(one.push_id, ids[one.device]): one for one in arrived}
    indexes = {device_id: index for index, device_id in enumerate(ids)}
    found: list[tuple[int, str]] = []
    for push_id, deliveries in listed.items():
        for delivery in deliveries:
            index = indexes.get(delivery.device_id or "", -1)
            one = did.pop((push_id, delivery.device_id or ""), None)
            if one is None:
                found.append((index, f"the server lists it as {delivery.state}; it never had a part"))
                continue
            expected = BUILD_ERROR if one.outcome == "error" else result_of(push_id, ids[one.device])
            if delivery.state != STATES[one.outcome]:
                found.append((index, f"the build was {one.outcome}; the server says {delivery.state}"))
            elif delivery.state == "acted" and delivery.result != expected:
                found.append((index, f"it said {expected}; the server has {delivery.result}"))
    return found + [(one.device, "it had a part that the server does not list") for one in did.values()]
