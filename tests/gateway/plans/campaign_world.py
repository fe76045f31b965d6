"""The world of the delivery tests with campaigns in it: they make a move when a test says so."""

from __future__ import annotations

import json
from typing import Any

from gateway.plans.campaign_fields import CampaignRequest
from gateway.plans.campaign_reports import CampaignReports
from gateway.plans.campaigns import Campaigns
from tests.gateway.delivery.world import APP, World

DATA = {"target": {"all": True}, "data": 1}


class CampaignWorld(World):
    """A server with campaigns; devices are offline unless a test connects them."""

    def boot(self) -> None:
        super().boot()
        database: Any = self.writer
        self.campaigns = Campaigns(
            database=database,
            acceptance=self.acceptance,
            targets=self.targets,
            policies=self.policies,
            clock_ms=self.clock,
            storage_left=lambda: self.storage_left,
            recall=self.escalations.recall,
        )
        self.campaign_reports = CampaignReports(database=database, campaigns=self.campaigns)
        self.run(self.campaigns.load())

    crash = boot

    @staticmethod
    def campaign_request(**fields: Any) -> CampaignRequest:
        """A campaign as it comes by HTTP: from JSON."""
        push = DATA | fields.pop("push", {})
        return CampaignRequest.model_validate_json(json.dumps({"name": "A campaign", "push": push, **fields}))

    def create(self, key: str = "k_maker", **fields: Any) -> str:
        """Make a campaign; its id."""
        return self.run(self.campaigns.create(APP, key, self.campaign_request(**fields)))

    def step(self, moves: int = 1) -> None:
        for _ in range(moves):
            self.run(self.campaigns.step())
            self.settle()

    def passes(self, seconds: float) -> None:
        """Let time pass, and campaigns go as far as they can without more of it."""
        super().passes(seconds)
        self.go()

    def go(self) -> None:
        """Make all moves that are due now."""
        for _ in range(500):
            if not self.campaigns.next_due():
                return
            self.step()
        raise AssertionError("campaigns never rest")

    def show(self, campaign_id: str) -> dict[str, Any]:
        return self.run(self.campaign_reports.one(APP.no, campaign_id))

    def parts(self, campaign_id: str) -> list[tuple[int, str | None, int]]:
        """(Group, variant, targeted) of the parts that were sent."""
        return [
            (group["group"], part["variant"], part["targeted"])
            for group in self.show(campaign_id)["group_results"]
            for part in group["parts"]
        ]

    def devices_of(self, push_id: str) -> set[int]:
        rows = self.connection.execute(
            "SELECT d.device_no FROM whole_delivery AS d JOIN push AS p ON p.no = d.push_no WHERE p.id = ?", (push_id,)
        )
        return {number for (number,) in rows}

    def sent_to(self, campaign_id: str) -> list[int]:
        """Every device that was sent a part, as often as it was."""
        return sorted(
            number
            for group in self.show(campaign_id)["group_results"]
            for part in group["parts"]
            for number in self.devices_of(part["push_id"])
        )

    def answer(self, push_id: str, device_no: int, result: Any = None) -> None:
        """A device carries out a command and says how that went."""
        receipt = {"push_id": push_id, "event": "acted", "action": "x"} | ({} if result is None else {"result": result})
        assert self.says("receipts", receipt, device_no) == 0

    def campaign_events(self) -> list[str]:
        return [event["type"] for event in self.events() if event["type"].startswith("campaign.")]
