"""An MQTT 3.1.1 and 5.0 server that can be embedded. It knows nothing of pushes, and imports nothing of ours.

Public: `broker.broker` (the broker), `broker.settings` (every limit), `broker.message` (what it carries),
`broker.events` (its reports), `broker.authorization` (authentication), `broker.store` and `broker.sqlite_store` (where
sessions survive), `broker.metrics`, `broker.clock`, `broker.network` (sockets), `broker.protocol` (the wire).

Nothing else is imported here, so that `import broker.protocol` stays light.
"""

from broker.compiled_modules import choose_form

choose_form()
