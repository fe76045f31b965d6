"""People at the console, as rows."""
