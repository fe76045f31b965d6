"""The row of an inflight message in the store."""

from __future__ import annotations

from broker.inflight import PUBACK_DUE, PUBCOMP_DUE, PUBREC_DUE, Inflight
from broker.message import Body, Message
from broker.session_queue import MessageCopy, SharedMessage
from broker.store import StoredOutbound


def test_a_delivery_has_its_handle_and_no_message() -> None:
    entry = Inflight(7, PUBREC_DUE, 3, 0.0, 12, None)
    assert entry.row() == StoredOutbound(12, None, 7, 2, 3, released=False)
    entry.phase = PUBCOMP_DUE
    assert entry.row() == StoredOutbound(12, None, 7, 2, 3, released=True)


def test_an_ordinary_message_has_its_key_and_how_it_goes_to_this_client() -> None:
    copy = MessageCopy(SharedMessage(Message("a", Body(b"x")), key=5), 1, True, (8,), 13)
    entry = Inflight(None, PUBACK_DUE, 4, 0.0, 13, copy)
    assert entry.row() == StoredOutbound(13, 5, None, 1, 4, False, True, (8,))
