"""A delivery as the API shows it."""

from __future__ import annotations

import json
from typing import Any

from gateway.delivery_states import DeliveryState
from gateway.store.deliveries.whole_deliveries import WholeDelivery
from gateway.timestamps import rfc3339_or_none


def describe_delivery(
    delivery: WholeDelivery, in_flight: bool, *, replaced_by: str | None, attempts: int
) -> dict[str, Any]:
    """A delivery as the API shows it, but for its device. What waits on the disk and is in flight is `sent`.

    `replaced_by`: the id of that push; `attempts`: those that have failed.
    """
    state = DeliveryState(delivery.state)
    if state is DeliveryState.WAITING and in_flight:
        state = DeliveryState.SENT
    return {
        "state": state.label,
        "reason": delivery.reason,
        "qos": delivery.qos,
        "delivered_at": rfc3339_or_none(delivery.delivered_at),
        "displayed_at": rfc3339_or_none(delivery.displayed_at),
        "dismissed_at": rfc3339_or_none(delivery.dismissed_at),
        "opened_at": rfc3339_or_none(delivery.opened_at),
        "acted_at": rfc3339_or_none(delivery.acted_at),
        "ended_at": rfc3339_or_none(delivery.ended_at),
        "not_before": rfc3339_or_none(delivery.not_before or None) if state is DeliveryState.WAITING else None,
        "replaced_by": replaced_by,
        "attempts": attempts,
        "action": delivery.action,
        "result": json.loads(delivery.result) if delivery.result is not None else None,
    }
