"""Wills that are published: routed like any message, and kept in the store until the embedder has them.

Law: a will of QoS 1 or 2 is stored as published in the group in which its session loses it, and deleted when the
embedder has stored it. What an earlier run, or another broker over the store, has died with is published to the
embedder once more, under the same number: it recognises what it has.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.handshake import published_will
from broker.message import Message
from broker.reception import PACKET_ID_BITS
from broker.session import Session
from broker.shared_state import SharedState
from broker.store import PublishedWill, StoredWill


class Wills:
    """The wills of one broker, from the moment that they are due. Runs on the *loop*."""

    def __init__(
        self, shared_state: SharedState, route: Callable[[Message, Session | None], bool], embedded: bool
    ) -> None:
        self._shared_state = shared_state
        self._route = route
        self._embedded = embedded
        self.unconfirmed: list[PublishedWill] = []
        """Wills that others have published before: the embedder is told of them once more, with `publish_again`."""

    def publish(self, client_id: str, will: StoredWill) -> None:
        """Publish the will of a client."""
        shared_state = self._shared_state
        message = published_will(will, shared_state.now)
        self._route(message, None)
        if not self._embedded or not message.qos:
            shared_state.events.published(client_id, message, _no_acknowledgement)
            return
        # In the group in which the session loses it: it is stored nowhere else, and the embedder has its own disk.
        published = PublishedWill(will.number or shared_state.new_number(), client_id, message)
        shared_state.store.save_published_will(published)
        self._publish_to_embedder(published)

    def publish_again(self) -> None:
        """Tell the embedder of the unconfirmed wills."""
        wills, self.unconfirmed = self.unconfirmed, []
        for will in wills:
            self._publish_to_embedder(will)

    def _publish_to_embedder(self, will: PublishedWill) -> None:
        shared_state = self._shared_state
        identifier = will.number << PACKET_ID_BITS

        def stored(_: int) -> None:
            shared_state.store.delete_published_will(will.number)
            shared_state.store.barrier(lambda: shared_state.events.released(will.client_id, [identifier], lambda: None))

        shared_state.events.published(will.client_id, will.message, stored, identifier)


def _no_acknowledgement(_: int) -> None:
    """Stand in for the acknowledgement of a will, which nobody waits for."""
