"""The delivery tests' world with schedules, moved by hand: its wall clock, its devices' zones, its end at any write."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from gateway.plans.components import PlanComponents
from gateway.plans.schedules import ScheduleFields
from gateway.store.transaction import Transaction
from gateway.timestamps import wall_time
from tests.gateway.delivery.world import APP, World, items


class Killed(BaseException):
    """The server has died before this write."""


def instant(text: str) -> int:
    """Milliseconds of a time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


class PlanWorld(World):
    """A world with schedules. `kill_at`: the number of the write before which the server dies."""

    kill_at: int | None = None
    writes = 0

    def boot(self) -> None:
        super().boot()
        database: Any = self.writer
        self._count_writes()
        self.plans = PlanComponents(
            database=database,
            delivery=self.wired,
            clock_ms=self.clock,
            storage_left=lambda: self.storage_left,
            idempotency_ms=86_400_000,
            answer_remembered=lambda app_no, size: None,
        )
        self.runner, self.schedules = self.plans.schedule_runner, self.plans.schedules
        self.run(self.runner.load())

    crash = boot

    def _count_writes(self) -> None:
        write, commit = self.writer.write, self.writer.commit_group

        def dies() -> None:
            self.writes += 1
            if self.writes == self.kill_at:
                raise Killed

        async def counted_write(
            operation: Callable[[Transaction], Any], app_no: int | None = None, **declared: Any
        ) -> Any:
            dies()
            return await write(operation, app_no, **declared)

        def counted_commit(size: int | None = None) -> None:
            if self.writer.queue:
                dies()
            commit(size)

        self.writer.write, self.writer.commit_group = counted_write, counted_commit  # type: ignore[method-assign]

    # -- clocks

    def set_wall(self, text: str) -> None:
        """Set the clock on the wall; server time goes on."""
        wall_time.set_offsets([(0, instant(text) - self.now)])

    def wall(self) -> int:
        return wall_time.of(self.now)

    def passes_until(self, text: str, step_s: float = 600) -> None:
        """Let time pass, looking at what is due now and then."""
        while self.wall() < instant(text):
            self.now += int(min(step_s * 1000, instant(text) - self.wall()))
            self.due()

    def passes_for(self, seconds: float) -> None:
        """Let time pass in ten steps, or of two hours at most, looking at what is due after each."""
        step_ms = int(min(seconds / 10, 7_200) * 1000)
        for _ in range(int(seconds * 1000) // step_ms):
            self.now += step_ms
            self.due()

    def due(self) -> None:
        """Do what is due."""
        self.run(self.runner.run_due())
        self.settle()

    # -- schedules

    def zone(self, device_no: int, zone: str | None) -> None:
        self.connection.execute("UPDATE device SET timezone = ? WHERE no = ?", (zone, device_no))

    def schedule(self, target: dict[str, Any] | None = None, *, missed: str = "catch_up", **push: Any) -> str:
        """Make a schedule; its id."""
        body = {"missed": missed, "push": {"target": target or {"all": True}, "data": 1, **push}}
        answer = self.run(self.schedules.create(APP, ScheduleFields.model_validate_json(json.dumps(body))))
        self.due()
        return str(answer["schedule_id"])

    def show(self, schedule_id: str) -> dict[str, Any]:
        return self.run(self.schedules.get(APP.no, schedule_id))

    def history(self, schedule_id: str) -> list[dict[str, Any]]:
        """The runs of a schedule, the first first."""
        return items(self.run(self.schedules.runs(APP.no, schedule_id, 100, None)))[::-1]

    def sent(self, device_no: int) -> list[str]:
        """When a device was given pushes, by the clock on the wall."""
        rows = self.connection.execute(
            "SELECT p.accepted_at FROM whole_delivery AS d JOIN push AS p ON p.no = d.push_no WHERE d.device_no = ?"
            " ORDER BY p.no",
            (device_no,),
        )
        return [
            datetime.fromtimestamp(wall_time.of(at) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            for (at,) in rows.fetchall()
        ]
