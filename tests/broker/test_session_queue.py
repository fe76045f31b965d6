"""The queue of one session: order, both bounds, expiry."""

from __future__ import annotations

from broker.message import Body, Message
from broker.metrics import BrokerMetrics
from broker.session_queue import MessageCopy, SessionQueue, SharedMessage
from broker.settings import BrokerSettings


def copy(payload: bytes, qos: int = 1, expires_at: float | None = None) -> MessageCopy:
    return MessageCopy(SharedMessage(Message("a", Body(payload, expires_at=expires_at))), qos, False, (), 0)


def payloads(queue: SessionQueue) -> list[bytes]:
    return [each.shared.message.body.payload for each in queue]


def test_first_in_first_out_and_bytes_are_counted() -> None:
    queue = SessionQueue(BrokerMetrics())
    for payload in (b"1", b"22", b"333"):
        queue.append(copy(payload))
    assert (len(queue), queue.payload_bytes) == (3, 6)
    assert queue.first().shared.message.body.payload == b"1"
    assert queue.pop_first().shared.message.body.payload == b"1"
    assert (len(queue), queue.payload_bytes) == (2, 5)
    assert payloads(queue) == [b"22", b"333"]


def test_the_limits_are_messages_and_bytes() -> None:
    queue = SessionQueue(BrokerMetrics())
    queue.append(copy(b"12345"))
    assert queue.has_room(copy(b"12345").shared, BrokerSettings(max_queued_messages=2, max_queued_bytes=10))
    assert not queue.has_room(copy(b"123456").shared, BrokerSettings(max_queued_messages=2, max_queued_bytes=10))
    assert not queue.has_room(copy(b"").shared, BrokerSettings(max_queued_messages=1, max_queued_bytes=10))


def test_all_queues_together_have_bounds_and_a_shared_payload_counts_once() -> None:
    totals = BrokerMetrics()
    first, second = SessionQueue(totals), SessionQueue(totals)
    waiting = copy(b"12345")
    for queue in (first, second):
        queue.append(waiting)
    assert (totals.queued_messages, totals.queued_bytes) == (2, 5)
    bytes_full = BrokerSettings(max_queued_bytes_total=7)
    assert not first.has_room(copy(b"123").shared, bytes_full)
    assert first.has_room(waiting.shared, bytes_full)  # costs nothing more
    assert not first.has_room(copy(b"").shared, BrokerSettings(max_queued_messages_total=2))

    first.pop_first()
    assert (totals.queued_messages, totals.queued_bytes) == (1, 5)
    second.clear()
    assert (totals.queued_messages, totals.queued_bytes) == (0, 0)


def test_expired_and_qos_0_can_be_taken_out() -> None:
    queue = SessionQueue(BrokerMetrics())
    queue.append(copy(b"old", expires_at=10.0))
    queue.append(copy(b"zero", qos=0))
    queue.append(copy(b"stays", expires_at=11.0))
    assert not queue.remove_expired(9.0)
    assert [each.shared.message.body.payload for each in queue.remove_expired(10.0)] == [b"old"]
    assert [each.shared.message.body.payload for each in queue.remove_qos_0()] == [b"zero"]
    assert payloads(queue) == [b"stays"]
    assert queue.payload_bytes == 5
