"""Nodes: several servers over one PostgreSQL, and what they agree on."""
