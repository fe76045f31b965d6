"""Nodes in the store: several servers over one PostgreSQL. Their tables are there alone (`store/postgresql`)."""
