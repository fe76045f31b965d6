"""People at the console: sessions that are begun with a key or by an identity provider, and what limits guesses."""
