"""What senders do with what has happened: follow it, and be told."""
