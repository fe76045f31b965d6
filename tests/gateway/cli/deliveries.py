"""A push and its deliveries, for commands that follow one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from gateway.cli.server_client import RequestRefused
from gateway.cli.terminal import ENDED_UNDELIVERED


class Deliveries:
    """As much of a server as what it says of one push."""

    def __init__(self, *deliveries: tuple[str, str | None, str | None], may_read: bool = True) -> None:
        """(state, reason, not_before) of each."""
        names = ("state", "reason", "not_before")
        self.deliveries: list[dict[str, Any]] = [
            dict(zip(names, delivery, strict=True)) | {"qos": 1, "device_id": f"kiosk-{number}"}
            for number, delivery in enumerate(deliveries)
        ]
        self.may_read = may_read

    def call(self, method: str, path: str, **_: Any) -> Any:
        counts = Counter(dict.fromkeys(("targeted", "waiting", "sent", *ENDED_UNDELIVERED), 0))
        counts.update(str(delivery["state"]) for delivery in self.deliveries)
        return {"counts": counts | {"targeted": len(self.deliveries)}}

    def items(self, path: str, limit: int | None = None, *, state: str) -> Iterator[dict[str, Any]]:
        if not self.may_read:
            raise RequestRefused("no", "forbidden")
        return islice((delivery for delivery in self.deliveries if delivery["state"] == state), limit)
