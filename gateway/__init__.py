"""The gateway: takes pushes over HTTP, stores them in a ledger, hands them to the broker, and says what became of them.

Rooms, from the ground up: `store` (tables, the writer), `delivery` (the life of a delivery), `api` (doors), `app` (the
composition root), `cli`. Imports nothing here, so that one room does not load the others.
"""
