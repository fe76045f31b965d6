"""The broker's sockets: the only part of `broker` that knows asyncio, with `sqlite_store` beside it.

Public: `listeners.BrokerServer` (opens ports, drives the broker's clock, ends in order) and `password_file` (the
stand-alone broker's credentials). `transport` joins one socket to one `Connection`.
"""
