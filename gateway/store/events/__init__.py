"""Webhooks in the database: where events go, and how far each has come."""
