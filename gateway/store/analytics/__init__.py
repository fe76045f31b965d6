"""Figures of pushes and people in the store: funnels, days of alerts, hours of presence, forecasts, and counts."""
