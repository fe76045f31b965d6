"""Segments: conditions over devices that were checked, and the devices that have them."""
