"""Sign-ins of people that nodes share: one key for their cookies, and which of them are used. PostgreSQL only."""

from __future__ import annotations

from gateway.store.transaction import Transaction


def sign_in_key(transaction: Transaction, made: bytes) -> bytes:
    """Return the key that all nodes have: the first that one of them has made. Writer thread."""
    transaction.execute("INSERT INTO sign_in_key (only_row, key) VALUES (1, ?) ON CONFLICT DO NOTHING", (made,))
    (key,) = transaction.execute("SELECT key FROM sign_in_key").fetchone()
    return bytes(key)


def use_sign_in(transaction: Transaction, state: str, ends: int, unix_s: int) -> bool:
    """Note that a sign-in is used, until its cookie `ends`; False if it was before. Writer thread.

    `unix_s` is the present; both in Unix seconds.
    """
    transaction.execute("DELETE FROM used_sign_in WHERE ends < ?", (unix_s,))
    return (
        transaction.execute(
            "INSERT INTO used_sign_in (state, ends) VALUES (?, ?) ON CONFLICT DO NOTHING", (state, ends)
        ).rowcount
        == 1
    )
