"""A push of the simulator: how it is sent, how it must arrive, and what a device answers to it.

Everything that a device must find is derived from the push's number and from `data.as`, so that a device can say by
itself whether something has changed on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.protocol.packets import V5, Publish
from client_sim.simulator.human_behaviour import SHOWN

ACTION = "play"
"""The action that people choose; a command is answered with its result, too."""


BUILD_ERROR = {"error": "no room"}
"""The answer of a device that a build fails on."""


def push_body(
    number: int,
    kind: str,
    priority: str,
    qos: int,
    ttl: int,
    size: int,
    collapse_key: str | None,
    channel: str | None = None,
) -> dict[str, Any]:
    """The request, but for its target. `ttl` in seconds, `size` in bytes of padding."""
    body: dict[str, Any] = {
        "kind": kind,
        "data": {
            "sim": number,
            "as": [kind, priority, qos, ttl, size, collapse_key],
            **({"padding": "x" * size} if size else {}),
        },
        "priority": priority,
        "qos": qos,
        "ttl": ttl,
    }
    if kind in SHOWN:
        body["notification"] = notification_of(number)
    if collapse_key is not None:
        body["collapse_key"] = collapse_key
    if channel is not None:
        body["channel"] = channel
        body["data"]["on"] = channel
    return body


def notification_of(number: int) -> dict[str, Any]:
    """The notification of a simulated push."""
    actions = [{"id": ACTION, "title": "Play"}, {"id": "next", "title": "Next"}]
    return {"title": f"Push {number}", "body": "From the simulator", "actions": actions}


def result_of(push_id: str, device_id: str) -> dict[str, str]:
    """The device's answer to a push; it fits no other push and no other device."""
    return {"state": "playing", "push_id": push_id, "device_id": device_id}


def changes_in_transit(
    packet: Publish, message: Mapping[str, Any], number: int, topic: str, version: int, clock_slack: float
) -> str:
    """The differences between a push as it was sent and as it arrived, in words; empty when there are none.

    `clock_slack`: seconds by which two readings of the server's clock for one packet may differ. On a clock that runs
    288 times faster, the 7 ms between a body and the properties beside it are 2 s.
    """
    sent_as = message["data"].get("as")
    if sent_as is None:
        return ""  # of another sender
    kind, priority, qos, ttl, size, collapse_key = sent_as
    if message["kind"] != kind or message.get("priority") != priority:
        return f"kind {message['kind']} and priority {message.get('priority')}, sent as {kind} and {priority}"
    if not 0 <= message.get("expires_in", -1) <= ttl:
        return f"expires_in {message.get('expires_in')}, sent with a ttl of {ttl}"
    if packet.qos != qos or packet.retain or packet.topic != topic:
        return f"QoS {packet.qos}, retain {packet.retain}, topic {packet.topic}, sent with QoS {qos}"
    if len(message["data"].get("padding", "")) != size:
        return f"{len(message['data'].get('padding', ''))} bytes of padding, sent with {size}"
    if message.get("collapse_key") != collapse_key:
        return f"collapse key {message.get('collapse_key')}, sent with {collapse_key}"
    if message.get("channel") != message["data"].get("on"):
        return f"channel {message.get('channel')}, sent with {message['data'].get('on')}"
    if kind in SHOWN and message.get("notification") != notification_of(number):
        return f"another notification than it was sent with: {message.get('notification')}"
    return _changed_properties(packet, message, clock_slack) if version == V5 else ""


def _changed_properties(packet: Publish, message: Mapping[str, Any], clock_slack: float) -> str:
    """The properties of MQTT 5.0 must say the same as the payload."""
    properties = packet.properties
    if properties is None:
        return "no properties"
    interval, expires_in = properties.message_expiry_interval, message["expires_in"]
    # Between the two the clock may have passed a whole second.
    if (interval is None) != (expires_in == 0) or abs((interval or 0) - expires_in) > 1 + clock_slack:
        return f"a message expiry interval of {interval} and expires_in {expires_in}"
    names = ("push_id", "kind", "priority", "collapse_key")
    expected = {name: message[name] for name in names if name in message}
    said = {name: value for name, value in properties.user_properties if name in names}
    if properties.content_type != "application/json" or said != expected:
        return f"content type {properties.content_type} and user properties {said}"
    return ""
