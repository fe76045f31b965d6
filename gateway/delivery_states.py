"""The life of a delivery, as one enumeration.

`waiting -> sent -> delivered -> displayed -> dismissed | opened -> acted`, and the ends without delivery. The numbers
are what the database holds; within the receipts the larger number is the further state, so "the furthest wins" is
`max`. A `sent` delivery of QoS 1 or 2 is `WAITING` on disk and known to be sent in memory only (`ledger.py`); `SENT`
on disk is the final state of a QoS 0 delivery that nothing has proved yet.
"""

from __future__ import annotations

from enum import IntEnum


class DeliveryState(IntEnum):
    """States of a delivery, by their numbers on disk."""

    WAITING = 0  #: in the mailbox (or in flight, see above)
    SENT = 1  #: effective QoS 0, handed to a connection; final until a receipt proves more
    DELIVERED = 10  #: the broker's acknowledgement, or a receipt of the device
    DISPLAYED = 11  #: shown to the person
    DISMISSED = 12  #: the person put it away, or the device did and says why
    OPENED = 13  #: the person opened it
    ACTED = 14  #: an action was executed
    EXPIRED = 20  #: its ttl was over
    SUPERSEDED = 21  #: a newer push with its collapse key came
    CANCELLED = 22  #: recalled, or the mailbox was emptied
    OVERFLOWED = 23  #: the mailbox was full
    REFUSED = 24  #: by the device's reason code, or larger than its maximum packet size
    SUPPRESSED = 30  #: policy or the person's choice
    REVOKED = 31  #: the device was removed; never moves

    @property
    def label(self) -> str:
        return self.name.lower()


RECEIPT_STATES = {
    "delivered": DeliveryState.DELIVERED,
    "displayed": DeliveryState.DISPLAYED,
    "dismissed": DeliveryState.DISMISSED,
    "opened": DeliveryState.OPENED,
    "acted": DeliveryState.ACTED,
}

ENDS_A_RECEIPT_REVIVES = (
    DeliveryState.EXPIRED,
    DeliveryState.SUPERSEDED,
    DeliveryState.CANCELLED,
    DeliveryState.OVERFLOWED,
    DeliveryState.REFUSED,
    DeliveryState.SUPPRESSED,
)
"""A receipt for one of these proves that it arrived after all; the reason becomes `after_<end>`."""

MISSED = (DeliveryState.EXPIRED, DeliveryState.CANCELLED, DeliveryState.OVERFLOWED)
"""Ends that a device is told of when it comes back. The index `delivery_missed` holds these rows alone."""

PRIORITIES = ("critical", "high", "normal", "low")
"""Priorities in mailbox order; the index is what the database holds."""
SHOWN = ("alert", "in_app")
"""Kinds of pushes that a person sees; only those belong to a channel that can be muted."""
