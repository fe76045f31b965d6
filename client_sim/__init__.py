"""The device side: `device` is the reference device client; the simulator of whole fleets joins it here.

Imports nothing, so that a kiosk program that needs one device loads nothing else. What it borrows of the server is
`broker.protocol` alone; the gateway it knows by HTTP and MQTT only.
"""
