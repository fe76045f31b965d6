"""The range of packet identifiers that a run of the server gives to its messages.

A client may acknowledge late: after its connection was lost, when the server has been killed and started again. The
server knows nothing of a QoS 1 delivery of an earlier run; were its identifier given to another message, the late
PUBACK would acknowledge a message that nobody has read. So every run has a range of its own, and stays in it: its
messages cannot be confused with those of any of the last runs, however they ended and whatever was in flight.

Law: a run sends nothing before the store has on disk where the range of the next one starts
(`SessionStore.claim_packet_ids`).

Price: an identifier is used again after some thousand messages to a client instead of 65,535, which matters to nobody
as long as it is free; and after `65,535 / size` starts, 31 by default, a range is used again.
"""

from __future__ import annotations

from collections.abc import Container

LAST_PACKET_ID = 65_535
MIN_RANGE_IDS = 2_048
"""Identifiers of a run: 31 ranges. Enough for four of the usual windows, the rest being for those that are reserved
although they take no place in the window."""


class PacketIds:
    """The range of one run, `first` to `last`, for windows of at most `window` messages."""

    __slots__ = ("first", "last", "most_abandoned", "most_inflight", "window")

    def __init__(self, first: int, size: int) -> None:
        self.first = first
        self.last = first + size - 1
        self.most_inflight = size - 1
        """Entries of one session, those included that have kept an identifier without a place in the window."""
        self.window = size // 2
        self.most_abandoned = size // 4
        """Then the session ends when its client comes the next time and loses nothing by it: the client alone could
        free these identifiers, and clients do not."""

    def find_free(self, start: int, used: Container[int]) -> tuple[int, int]:
        """Return the first unused identifier from `start` on, round the range, and the one to start from next."""
        packet_id = start
        while packet_id in used:
            packet_id = packet_id + 1 if packet_id < self.last else self.first
        return packet_id, packet_id + 1 if packet_id < self.last else self.first


def range_size(max_inflight: int) -> int:
    """Return the size of a range: the window fits in twice, and at least two runs have ranges of their own."""
    return min(max(2 * max_inflight, MIN_RANGE_IDS), LAST_PACKET_ID // 2)
