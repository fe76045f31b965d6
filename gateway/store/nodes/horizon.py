"""The horizon of a database that several nodes write: numbers up to which nothing is on its way any more."""

from __future__ import annotations

from typing import NamedTuple

from gateway.store.numbers import last_number
from gateway.store.transaction import Transaction


class Horizon(NamedTuple):
    """Numbers of all apps up to which everything is stored, or never will be."""

    event_no: int
    push_no: int
    uplink_no: int


def newest_numbers(transaction: Transaction) -> Horizon:
    """The numbers that were drawn last.

    They are a horizon if this runs while nobody else may write (`EVERY_APP`): whoever drew one of them held the lock
    of its app until that was stored. Otherwise they only say whether there is anything new.
    """
    (uplink_no,) = transaction.execute("SELECT coalesce(max(no), 0) FROM uplink_message").fetchone()
    return Horizon(last_number(transaction, "event"), last_number(transaction, "push"), int(uplink_no))
