"""MQTT on the wire, for either side of a connection: no I/O, no clock, nothing else of the broker.

`packets` (control packets as data), `codec` (bytes to packets and back), `errors` (what the peer did wrong),
`topic_filters` (the grammar of topics).
"""
