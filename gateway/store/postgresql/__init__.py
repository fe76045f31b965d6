"""The store in PostgreSQL: the statements of the store, in the words of another database."""
