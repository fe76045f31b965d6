"""A node without a lease asks its peers whether the database is away, or only this node is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.nodes.lease_witnesses import VERB, LeaseWitnesses
from gateway.nodes.membership import Node
from gateway.nodes.peer_client import PeerUnavailable

RENEWS = {"renewed": 0.2, "held": 90.0}
WITHOUT = {"renewed": 2.8, "held": 0.0}
JUST_BACK = {"renewed": 0.1, "held": 0.4}


class Lease:
    """A lease that was renewed three seconds ago for the last time."""

    def __init__(self, peers: int) -> None:
        self._peers = [Node(no, 1, "", "") for no in range(peers)]

    def peers(self) -> list[Node]:
        return self._peers

    def renewed_ago(self) -> float:
        return 3.0

    def leased_for(self) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("answers", "is_away"),
    [
        ([], True),
        ([RENEWS], False),
        ([WITHOUT], True),
        ([JUST_BACK], True),
        ([WITHOUT, RENEWS], False),
        ([None], False),
        ([None, WITHOUT], True),
        ([[]], False),
        ([{"renewed": "x", "held": None}], False),
    ],
)
async def test_a_peer_that_goes_on_renewing_is_a_witness(answers: list[Any], is_away: bool) -> None:
    async def ask(node: Node, verb: str, body: bytes, timeout_s: float) -> bytes:
        assert verb == VERB
        if answers[node.no] is None:
            raise PeerUnavailable("away")
        return json.dumps(answers[node.no]).encode()

    lease: Any = Lease(len(answers))
    witnesses = LeaseWitnesses(lease, ask)
    assert await witnesses.is_database_away() is is_away
    assert json.loads(await witnesses.answer(b"")) == {"renewed": 3.0, "held": 0.0}
