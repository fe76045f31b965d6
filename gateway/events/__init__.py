"""Events for the outside: the feed that streams follow, and webhooks."""
