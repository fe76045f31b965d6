"""One message on the wire to a client, and its phase.

Phases, by what is awaited:

    QoS 1   PUBACK_DUE ─────────────────────────────────────────────▶ gone
    QoS 2   BARRIER_DUE ─▶ PUBREC_DUE ─▶ PUBCOMP_DUE ─▶ FORGET_DUE ──▶ gone      (FORGET_DUE: deliveries only)
                              ├─ dropped at `resume` ────────▶ ABANDONED
                              └─ put off at `resume` ────────▶ POSTPONED ─ delivered again ─▶ PUBREC_DUE

Past PUBREC (from PUBCOMP_DUE on) a message belongs to the client and cannot be taken back. FORGET_DUE keeps the packet
identifier reserved, and the row in the store, until the embedder has stored the acknowledgement: a crash between the
two cannot deliver twice. ABANDONED keeps it reserved as well: the client may remember the identifier of a PUBLISH that
we will not finish, and would take a new message under it for a repetition. POSTPONED (deliveries only) does so as long
as the embedder has other deliveries to hand over first: handed over again, it is a repetition under its identifier.

Price: about 100 bytes, and a place in the window's dictionary.
"""

from __future__ import annotations

from broker.session_queue import MessageCopy
from broker.store import StoredOutbound

PUBACK_DUE = 1
BARRIER_DUE = 2
PUBREC_DUE = 3
PUBCOMP_DUE = 4
FORGET_DUE = 5
ABANDONED = 6
POSTPONED = 7


class Inflight:
    """One message on the wire, and its phase. Made on the hot path, hence no defaults."""

    __slots__ = ("copy", "handle", "packet_id", "phase", "sent_at", "sequence")

    def __init__(
        self, handle: int | None, phase: int, packet_id: int, sent_at: float, sequence: int, copy: MessageCopy | None
    ) -> None:
        self.handle = handle
        """The embedder's handle of a delivery; None for an ordinary message, and after `forget`."""
        self.phase = phase
        self.packet_id = packet_id
        self.sent_at = sent_at
        self.sequence = sequence
        """Number of its row in the store; 0: not stored."""
        self.copy = copy
        """The ordinary message. A delivery keeps none: `resume` asks the embedder for it."""

    def row(self) -> StoredOutbound:
        """Return the entry as a row of the store."""
        released = self.phase == PUBCOMP_DUE
        if self.copy is not None:
            return self.copy.row(self.packet_id, released)
        qos = 1 if self.phase == PUBACK_DUE else 2
        return StoredOutbound(self.sequence, None, self.handle, qos, self.packet_id, released)
