"""SQL functions over sets of device numbers, for the statements that join them with tables."""

from __future__ import annotations

import sqlite3

from pyroaring import BitMap

DEVICES_JSON = "devices_json"
"""Name of the function that makes a JSON array of a set, which is a serialized roaring bitmap."""
IN_SET = "in_set"
"""Name of the function that says whether a device is in a set."""


def add_set_functions(connection: sqlite3.Connection) -> None:
    """Give a connection the functions; every connection to the ledger has them."""
    connection.create_function(DEVICES_JSON, 1, _devices_json, deterministic=True)
    connection.create_function(IN_SET, 2, _in_set, deterministic=True)


def _devices_json(blob: bytes | None) -> str | None:
    return None if blob is None else str(BitMap.deserialize(blob).to_array().tolist())


def _in_set(blob: bytes, device_no: int) -> bool:
    return device_no in BitMap.deserialize(blob)
