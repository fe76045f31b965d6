"""`fleetpush bridge`: devices on the operator's own MQTT broker, and its messages as pushes.

    Fleetpush ──events (SSE), devices──▶ bridge ──retained topics──▶ Mosquitto ──▶ Home Assistant
    Fleetpush ◀──────── pushes ───────── bridge ◀──── messages ───── Mosquitto ◀── a button, a `notify`

It is a client of the public HTTP interface like any other, so it may run anywhere, and the server knows nothing of it.
What it knows it can ask for again: after a restart of either side it reads the devices anew and publishes their topics.

Laws
1. Deny by default. Devices, commands and notifications are bridged that the options name, and no others.
2. Whatever is asked for becomes a push: it is in the ledger, and its outcome is what the ledger says.
3. A message from the broker counts now or never. What is retained, or has waited for longer than STALE_SECONDS, is
   refused; sessions on the broker are clean, so that nothing is kept for the bridge while it is away.
4. A bad message is refused by name and stops nothing. What a device may cause, and in what time, is bounded.

Four threads. The main one owns all state and handles one item of the inbox after the other; the others wait for the
network: events, the broker, and the pushes that are being sent.
"""
