"""Devices, their tags and topics, and the sets of both, as rows."""
