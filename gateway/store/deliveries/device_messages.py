"""Messages of devices, as rows: what receipts are about, reported attributes, and which QoS 2 messages are known.

The identifier of a QoS 2 message is stored with its content (`delivery/receipts`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence

from gateway.store.transaction import Transaction

# -- QoS 2 -------------------------------------------------------------------------------------------------------------


def is_known(transaction: Transaction, identifier: int) -> bool:
    """Whether the content of a message is stored."""
    row = transaction.execute("SELECT 1 FROM received_message WHERE identifier = ?", (identifier,)).fetchone()
    return row is not None


def note_message(transaction: Transaction, identifier: int) -> None:
    """Note that the content of a message is stored. Writer thread."""
    transaction.execute("INSERT OR IGNORE INTO received_message VALUES (?)", (identifier,))


def forget_messages(transaction: Transaction, identifiers: Iterable[int]) -> None:
    """Forget messages that cannot come again. Writer thread."""
    transaction.executemany("DELETE FROM received_message WHERE identifier = ?", [(no,) for no in identifiers])


def forget_other_sessions(transaction: Transaction, numbers: Collection[int], packet_id_bits: int) -> None:
    """Forget the messages of all sessions and wills but these. Writer thread.

    An identifier is the number of its session, and `packet_id_bits` bits for the message.
    """
    found = {no >> packet_id_bits for (no,) in transaction.execute("SELECT identifier FROM received_message")}
    for number in found.difference(numbers):
        transaction.execute("DELETE FROM received_message WHERE identifier >> ? = ?", (packet_id_bits, number))


# -- receipts ----------------------------------------------------------------------------------------------------------


def deliveries_in_sets(transaction: Transaction, wanted: Sequence[Sequence[str | int | None]]) -> list[tuple[int, int]]:
    """Find the deliveries whose push was stored as sets: (push number, device number) each.

    `wanted`: [push id, device number] each.
    """
    return transaction.execute(
        "SELECT p.no, wanted.value ->> 1 FROM json_each(?) AS wanted JOIN push AS p ON p.id = wanted.value ->> 0"
        " WHERE p.in_sets",
        (json.dumps(wanted),),
    ).fetchall()


def delivery_rows(
    transaction: Transaction, wanted: Sequence[Sequence[str | int | None]]
) -> dict[int, tuple[int, bool]]:
    """Find the deliveries that are rows: place in `wanted` -> push number, and whether it was acted on.

    `wanted`: [push id, device number] each.
    """
    return {
        index: (push_no, acted)
        for index, push_no, acted in transaction.execute(
            "SELECT wanted.key, p.no, d.acted_at IS NOT NULL FROM json_each(?) AS wanted"
            " JOIN push AS p ON p.id = wanted.value ->> 0"
            " JOIN delivery AS d ON d.push_no = p.no AND d.device_no = wanted.value ->> 1",
            (json.dumps(wanted),),
        ).fetchall()
    }


# -- reports -----------------------------------------------------------------------------------------------------------


def attributes_of(transaction: Transaction, device_no: int) -> str | None:
    """The attributes of a device, as JSON; None if there is no such device."""
    row = transaction.execute("SELECT attributes FROM device WHERE no = ?", (device_no,)).fetchone()
    return None if row is None else str(row[0])


def store_attributes(
    transaction: Transaction, device_no: int, attributes: str, timezone: str | None, now_ms: int
) -> None:
    """Store the attributes of a device, as JSON, and its time zone; None: as before. Writer thread."""
    transaction.execute(
        "UPDATE device SET attributes = ?, timezone = coalesce(?, timezone), updated_at = ? WHERE no = ?",
        (attributes, timezone, now_ms, device_no),
    )
