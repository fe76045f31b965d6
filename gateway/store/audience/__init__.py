"""Devices and their sets: who may get a push, as rows."""
