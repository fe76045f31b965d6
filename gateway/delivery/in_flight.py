"""The deliveries in flight, wherever they were handed over: here, where the ledger knows it, and at other nodes."""

from __future__ import annotations

from collections.abc import Sequence

from pyroaring import BitMap

from gateway.delivery.ledger import Ledger
from gateway.delivery.recalls import SentElsewhere


class InFlight:
    """Answers where deliveries are in flight. `elsewhere` asks the other nodes; None: there are none. Loop.

    What is answered is true for some moment of the call; read the disk afterwards, where what has been acknowledged
    since does not wait any more.
    """

    def __init__(self, ledger: Ledger, elsewhere: SentElsewhere | None) -> None:
        self._ledger = ledger
        self._elsewhere = elsewhere

    @property
    def is_shared(self) -> bool:
        """Whether there are other nodes."""
        return self._elsewhere is not None

    async def devices_of(self, push_nos: Sequence[int]) -> dict[int, list[int]]:
        """Return the devices to which each of these pushes is in flight, by push number."""
        if self._elsewhere is None:
            return {no: self._ledger.sent_of(no) for no in push_nos}
        elsewhere = await self._elsewhere(push_nos, None)
        return {no: _together(self._ledger.sent_of(no), elsewhere.get(no)) for no in push_nos}

    async def pushes_to(self, device_no: int, push_nos: Sequence[int]) -> set[int]:
        """Return those of these pushes that are in flight to a device."""
        elsewhere = {} if self._elsewhere is None else await self._elsewhere(push_nos, device_no)
        here = {no for no in push_nos if self._ledger.is_sent(no, device_no)}
        return here.union(no for no, devices in elsewhere.items() if device_no in devices)


def _together(here: list[int], elsewhere: BitMap | None) -> list[int]:
    return here if not elsewhere else list(BitMap(here) | elsewhere)
