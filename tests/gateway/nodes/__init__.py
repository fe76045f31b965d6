"""Tests of pushes with a plan."""
