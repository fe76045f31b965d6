"""The components of a node, made and wired: a part of the composition root.

Everything that this node and its peers ask each other; and MQTT sessions, which go from one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from pyroaring import BitMap

from broker.broker import Broker
from gateway.nodes import (
    connected_sets,
    lease_witnesses,
    nudges,
    peer_connections,
    peer_messages,
    sent_deliveries,
)
from gateway.nodes.connected_sets import ConnectedSets
from gateway.nodes.lease_witnesses import LeaseWitnesses
from gateway.nodes.membership import Membership, Node
from gateway.nodes.nudges import Nudges
from gateway.nodes.peer_client import PeerClient
from gateway.nodes.peer_connections import ConnectionsHere, PeerConnections
from gateway.nodes.peer_messages import PeerMessages, Publish
from gateway.nodes.peer_routes import PeerVerbs
from gateway.nodes.sent_deliveries import SentDeliveries
from gateway.nodes.session_duty import SessionDuty
from gateway.nodes.takeover import DeliveryCalls, RevocationCounter, Takeover
from gateway.store.database import Database
from gateway.store.nodes.broker_sessions import SharedSessionStore


class SessionComponents:
    """Sessions of devices that any node may go on with. Runs on the *loop*."""

    def __init__(
        self, *, sessions: SharedSessionStore, database: Database, membership: Membership, clock_ms: Callable[[], int]
    ) -> None:
        self.takeover = Takeover(sessions=sessions, database=database, membership=membership)
        self.duty = SessionDuty(
            sessions=sessions, database=database, membership=membership, takeover=self.takeover, clock_ms=clock_ms
        )

    def connect(
        self, broker: Broker, delivery: DeliveryCalls, authenticator: RevocationCounter, peers: PeerComponents
    ) -> None:
        """Connect to the components that are made later; once, before the first connection."""
        self.takeover.connect(broker, delivery, authenticator, peers.client, peers.verbs)
        self.duty.connect(broker)


class OwnParts(NamedTuple):
    """The components of this node that answer its peers."""

    connected: BitMap
    """The devices that are connected here; it changes under way."""
    sent_of: Callable[[int], Collection[int]]
    """Gives the devices to which a push is in flight from here."""
    connections: ConnectionsHere
    publish: Publish


class PeerComponents:
    """The client and the answers of this node, and what they are for. `clock` gives seconds that only grow. Runs on the
    *loop*; `connect` comes before the first question."""

    def __init__(self, *, membership: Membership, clock: Callable[[], float]) -> None:
        self._own: OwnParts
        self.client = PeerClient(clock)
        self.verbs = PeerVerbs(lambda: membership.own.secret)
        self.connected_sets = ConnectedSets(
            own=membership.own,
            connected=lambda: self._own.connected,
            peers=membership.peers,
            is_live=membership.is_live,
            ask=self.client.ask,
        )
        self.nudges = Nudges(holders=self.connected_sets.holders, ask=self.client.ask)
        self.sent_deliveries = SentDeliveries(
            sent_of=lambda push_no: self._own.sent_of(push_no),
            peers=membership.peers,
            holders=self.connected_sets.holders,
            ask=self.client.ask,
        )
        self.connections = PeerConnections(
            here=lambda: self._own.connections, sets=self.connected_sets, peers=membership.peers, ask=self.client.ask
        )
        self.messages = PeerMessages(
            publish=lambda topic, payload: self._own.publish(topic, payload),
            peers=membership.peers,
            ask=self.client.ask,
        )
        witnesses = LeaseWitnesses(membership, self.client.ask)
        membership.wait_while(witnesses.is_database_away)
        self.verbs.add(lease_witnesses.VERB, witnesses.answer)
        self.verbs.add(connected_sets.VERB, self.connected_sets.answer)
        self.verbs.add(nudges.VERB, self.nudges.answer)
        self.verbs.add(sent_deliveries.VERB, self.sent_deliveries.answer)
        self.verbs.add(peer_connections.VERB, self.connections.answer)
        self.verbs.add(peer_messages.VERB, self.messages.answer)
        membership.follow(lambda joined: None, self._ended)

    def connect(self, own: OwnParts) -> None:
        """Connect to the components that are made later."""
        self._own = own

    async def run(self) -> None:
        """Tell the peers what they have to know, until cancelled."""
        await self.connected_sets.run()

    async def end(self) -> None:
        """Ask nobody anything more, and close the connections."""
        await self.connected_sets.end()
        await self.nudges.end()
        await self.messages.end()
        await self.client.close()

    def _ended(self, node: Node) -> None:
        self.connected_sets.ended(node)
        self.nudges.ended(node)
        self.messages.ended(node)
        self.client.end(node)
