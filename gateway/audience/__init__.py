"""Who may get a push, and when."""
