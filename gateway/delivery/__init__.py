"""The life of a delivery: accepted, stored, handed over, acknowledged, accounted for."""
