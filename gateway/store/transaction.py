"""The type of what an operation on the store is given: a transaction of the writer, or a snapshot of a reader.

Code outside `gateway.store` hands it on to the named operations in `gateway.store`, and says no SQL itself
(`tests/test_architecture.py`): what an operation means is decided there, and how a database is asked for it here.
"""

from __future__ import annotations

import sqlite3
from typing import TypeAlias

Transaction: TypeAlias = sqlite3.Connection
"""An open transaction. It may not be kept, and is ended by who has begun it."""
