"""MQTT sessions of a server that was alone, brought to the database that it shares as a node.

Only what is whole without the memory of that server: sessions with nothing on its way in either direction, and without
a will. The others begin anew, and their devices subscribe again; what waits for them is in the ledger. A session that
the database has already is newer, and stays. PostgreSQL only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from broker.settings import NEVER_EXPIRES
from broker.store import StoredSession
from broker.stored_values import optional_microseconds
from gateway.store.nodes.broker_sessions import SUBSCRIPTION_COLUMNS, rows_of_json, subscription_row
from gateway.store.transaction import Transaction

SLICE_SESSIONS = 2_000
"""Sessions that one statement brings."""


def is_whole(session: StoredSession) -> bool:
    """Whether a session can go on elsewhere as it is stored."""
    return not session.outbound and not session.received and session.will is None


def bring_sessions(transaction: Transaction, sessions: Sequence[StoredSession]) -> int:
    """Store sessions that `is_whole`, SLICE_SESSIONS at most; how many the database had not.

    Those that were connected when their server died are marked as of a node that has ended, so that they expire.
    """
    rows, subscriptions = [], []
    for session in sessions:
        was_connected = session.expires_at is None and session.expiry_interval != NEVER_EXPIRES
        rows.append(
            {
                "client_id": session.client_id,
                "principal": session.principal,
                "expiry_interval": session.expiry_interval,
                "expires_at": optional_microseconds(session.expires_at),
                "number": session.number,
                "node": 0 if was_connected else None,
            }
        )
        subscriptions += [subscription_row(session.client_id, one) for one in session.subscriptions]
    columns = ", ".join(SUBSCRIPTION_COLUMNS)
    values = ", ".join(f"r.{name}" for name in SUBSCRIPTION_COLUMNS)
    (brought,) = transaction.execute(
        "WITH brought AS (INSERT INTO mqtt_session"
        " (client_id, principal, expiry_interval, expires_at, number, node_no, node_epoch)"
        " SELECT s.client_id, s.principal, s.expiry_interval, s.expires_at, s.number, s.node, s.node"
        " FROM json_to_recordset(?::json) AS s(client_id text, principal text, expiry_interval bigint,"
        " expires_at bigint, number bigint, node bigint) ORDER BY s.client_id"
        " ON CONFLICT (client_id) DO NOTHING RETURNING client_id),"
        f" subscribed AS (INSERT INTO mqtt_subscription ({columns}) SELECT {values}"
        f" FROM {rows_of_json(SUBSCRIPTION_COLUMNS)} JOIN brought AS b ON b.client_id = r.client_id)"
        " SELECT count(*) FROM brought",
        (json.dumps(rows), json.dumps(subscriptions)),
    ).fetchone()
    return int(brought)
