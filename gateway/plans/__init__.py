"""Pushes with a plan: what is due when, and the parts that it is sent in."""
