"""The gateway: takes pushes over HTTP, stores them in a ledger, hands them to the broker, and says what became of them.

Packages, from the lowest layer up: `store` (tables, the writer), `delivery` (the life of a delivery), `api` (HTTP),
`app` (the composition root), `cli`. Nothing is imported here, so that one package does not load the others.
"""
