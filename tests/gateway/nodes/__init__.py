"""Tests of `gateway.nodes`."""
