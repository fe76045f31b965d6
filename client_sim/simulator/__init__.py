"""The simulator: whole fleets of devices, a sender, and a comparison of what both saw with the server's ledger.

A device knows nothing of it; it uses the device client's `Device` for the share of its devices that are real ones.
"""
