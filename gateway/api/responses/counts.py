"""The response that counts the deliveries of a push."""

from __future__ import annotations

from gateway.api.responses.common import Response


class CountsResponse(Response):
    """Deliveries of a push by their present state. Each is counted once, in one snapshot: the states sum to
    `targeted`."""

    targeted: int
    """All deliveries of the push, fixed when it was accepted."""
    waiting: int
    """In the mailbox of a device that is offline, busy, or held back by caps or quiet hours."""
    sent: int
    """Sent with MQTT and not acknowledged yet. With QoS 0, which has no acknowledgement, this is final until a receipt
    proves more."""
    delivered: int
    """Acknowledged by the device's MQTT client (PUBACK, or PUBCOMP for QoS 2), or by its receipt."""
    displayed: int
    """Shown to the person, by the device's receipt."""
    dismissed: int
    """Put away by the person, or by the device itself."""
    opened: int
    """Opened by the person."""
    acted: int
    """An action was chosen, or a command was carried out."""
    expired: int
    """Ended because the time to live was over."""
    superseded: int
    """Ended because a newer push has the same collapse key, or because it went into a digest."""
    cancelled: int
    """Ended because the push was recalled, or the mailbox emptied."""
    suppressed: int
    """Ended because of the person's consent, a muted channel, a cap or quiet hours."""
    overflowed: int
    """Ended because the mailbox was full: the oldest of the lowest priority makes room."""
    refused: int
    """Ended because the device refused it with an MQTT reason code, it is larger than the device's maximum packet size,
    or the device did not acknowledge it again and again."""
    revoked: int
    """Ended because the device was removed."""
