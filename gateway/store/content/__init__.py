"""Saved templates, and what templates read of devices, in the database."""
