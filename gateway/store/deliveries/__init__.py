"""Deliveries in the store: their rows and sets, the ledger's statements about them, the event log, and pushes."""
