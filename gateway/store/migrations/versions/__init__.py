"""The schema revisions, oldest first by number."""
