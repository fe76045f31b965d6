"""The device client (`client_sim.device`, `client_sim.async_device`), and beside it the simulator of whole fleets.

Imports nothing, so that a kiosk program that needs one device loads nothing else. What it borrows of the server is
`broker.protocol` alone; the gateway it knows by HTTP and MQTT only.
"""
