"""The device client, and beside it the simulator of whole fleets.

A device imports `device` (`Device`), `async_device` (`AsyncDevice`), `push` (`Push`), `errors` and `backoff`; the tests
of its program import `testing` (`FakeServer`).

Nothing is imported here, so that a kiosk program with one device loads nothing else. Of the server this package imports
`broker.protocol` alone; it knows the gateway by HTTP and MQTT only.
"""
