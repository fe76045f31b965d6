"""Ways by which devices come in by themselves, as rows."""
