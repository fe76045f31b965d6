"""The HTTP API: it translates, and decides nothing.

A request passes `admission` (key, scope, rate), then `bodies` (size, content type, JSON, model), then one route, which
calls one component behind it; a refusal from anywhere leaves through `problems`.
"""
