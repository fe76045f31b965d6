"""The components of pushes with a plan, made and wired: for the server, and for the tests' world."""

from __future__ import annotations

from collections.abc import Callable

from gateway.delivery_components import DeliveryComponents
from gateway.plans.schedule_runner import ScheduleRunner
from gateway.plans.schedules import ScheduleStore
from gateway.store.database import Database


class PlanComponents:
    """Components of pushes with a plan, wired with each other and with those of delivery.

    `answer_remembered` is called for each answer that is kept with its idempotency key: of this app, and its bytes.
    """

    def __init__(
        self,
        *,
        database: Database,
        delivery: DeliveryComponents,
        clock_ms: Callable[[], int],
        storage_left: Callable[[], bool],
        idempotency_ms: int,
        answer_remembered: Callable[[int, int], None],
    ) -> None:
        self.schedule_runner = ScheduleRunner(
            database=database,
            acceptance=delivery.acceptance,
            targets=delivery.targets,
            policies=delivery.policies,
            clock_ms=clock_ms,
            storage_left=storage_left,
        )
        self.schedules = ScheduleStore(
            database=database,
            acceptance=delivery.acceptance,
            escalations=delivery.escalations,
            in_flight=delivery.in_flight,
            runner=self.schedule_runner,
            clock_ms=clock_ms,
            storage_left=storage_left,
            idempotency_ms=idempotency_ms,
            answer_remembered=answer_remembered,
        )
