"""Witnesses of a lapsed lease: whether other nodes reach the database that this one does not.

A node that cannot renew its lease is cut off, and then others serve its devices in a moment; or the database is away,
for a fail-over, and then nobody does, and to close the sockets of a whole fleet would help no device. So it asks: a
peer whose renewals have gone on all the while is a witness that this node is cut off. Nothing depends on the answers
but how long sockets stay open: without a lease nothing is handed over, and nothing is stored under an epoch that has
ended.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

from gateway.nodes.membership import ENDED_SECONDS, RENEWAL_SECONDS, Membership, Node
from gateway.nodes.peer_client import Ask, PeerUnavailable

VERB: Final = "lease"
ANSWER_SECONDS = 0.5
"""Time that peers have to answer; a question that they all miss ends this node."""


class LeaseWitnesses:
    """The peers of this node, asked about their leases, and its own answers. Loop."""

    def __init__(self, membership: Membership, ask: Ask) -> None:
        self._membership = membership
        self._ask = ask

    async def answer(self, question: bytes) -> bytes:
        """Answer a peer: seconds since the last renewal, and for how long the lease has been without a gap."""
        return json.dumps({"renewed": self._membership.renewed_ago(), "held": self._membership.leased_for()}).encode()

    async def is_database_away(self) -> bool:
        """Whether nobody renews, as far as peers answer. With peers of whom none answers, this node is cut off."""
        peers = self._membership.peers()
        answers = await asyncio.gather(*(self._renews(peer) for peer in peers))
        return not peers or (False in answers and True not in answers)

    async def _renews(self, peer: Node) -> bool | None:
        """Has this peer gone on renewing since this node has not? None: no answer that can be read."""
        try:
            found = json.loads(await self._ask(peer, VERB, b"", ANSWER_SECONDS))
            renewed, held = float(found["renewed"]), float(found["held"])
        except (PeerUnavailable, ValueError, TypeError, KeyError):
            return None
        # What ends for both ends within the time of a renewal; and who has just renewed after a gap says only that this
        # node may do so in a moment.
        return self._membership.renewed_ago() - renewed > 2 * RENEWAL_SECONDS and held > ENDED_SECONDS
