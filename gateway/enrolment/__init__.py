"""Enrolment without an operator's key: codes that a device trades for its token, and what a device may ask for."""
