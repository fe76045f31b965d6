"""What people want, by mosquitto's clients: said on `settings`, told on `notices`, obeyed at once and after a kill."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from tests.end_to_end.conftest import Name, StartServer
from tests.end_to_end.harness import Api, Server, wait_for
from tests.end_to_end.mosquitto import Subscriber, publish

ALERT: dict[str, Any] = {"notification": {"title": "Hi"}}


def test_a_person_mutes_a_channel_and_withdraws_consent(server: Server, api: Api, name: Name) -> None:
    device = api.enrol(name())
    channel = name()
    with Subscriber(server.mqtt_port, device, "-t", device.topics["notices"]) as screen:
        api.wait_online(device.id)
        publish(
            server.mqtt_port, device, device.topics["settings"], {"consent": "granted", "channels": {channel: False}}
        )
        notice = screen.wait_received(1)[0]
        assert notice.topic == device.topics["notices"]
        assert (notice.push["type"], notice.push["consent"]) == ("preferences", "granted")
        assert notice.push["channels"][-1] == {"id": channel, "muted": True}
        muted = api.accept(device.id, channel=channel, **ALERT)
        assert muted["suppressed"] == 1
        assert api.delivery(muted["push_id"])["reason"] == "channel_muted"
        shown = api.push(device.id, **ALERT)
        assert screen.wait_received(2)[1].push["push_id"] == shown
        publish(server.mqtt_port, device, device.topics["settings"], {"consent": "denied"})
        assert screen.wait_received(3)[2].push["consent"] == "denied"
        assert api.accept(device.id, **ALERT)["suppressed"] == 1
        publish(server.mqtt_port, device, device.topics["settings"], {})
        assert screen.wait_received(4)[3].push["consent"] == "denied", "asked for, nothing changed"


def test_withdrawn_consent_survives_a_kill(start_server: StartServer) -> None:
    server = start_server()
    device = server.api.enrol("kiosk-1")
    waiting = server.api.push("kiosk-1", **ALERT)
    publish(server.mqtt_port, device, device.topics["settings"], {"consent": "denied", "text_version": "v3"})
    server.kill9()
    server.start()
    api = server.api
    wait_for(lambda: api.delivery(waiting)["state"] == "suppressed", what="what waited to end")
    assert api.delivery(waiting)["reason"] == "no_consent"
    assert api.accept("kiosk-1", **ALERT)["suppressed"] == 1
    (record,) = api.call("GET", "/v1/devices/kiosk-1/consent", 200)["items"]
    assert (record["consent"], record["text_version"], record["source"]) == ("denied", "v3", "mqtt")


def test_an_alert_too_many_waits_for_its_time_and_its_device(start_server: StartServer) -> None:
    """An hour of the server's clock is three seconds; the device comes late, and is not given everything at once."""
    server = start_server("--clock-speed", "1200")
    api = server.api
    device = api.enrol("kiosk-1")
    api.call("PUT", "/v1/policy", 200, json={"caps": {"limits": [{"count": 1, "per": "hour"}], "excess": "defer"}})
    pushes = [api.push("kiosk-1", **ALERT, ttl=30 * 86_400) for _ in range(3)]
    data = api.push("kiosk-1", data=1, ttl=30 * 86_400)
    with Subscriber(server.mqtt_port, device) as screen:
        assert [printed.push["push_id"] for printed in screen.wait_received(2)] == [pushes[0], data]
        assert api.delivery(pushes[2])["not_before"] is not None
        screen.wait_received(4)
        assert screen.push_ids() == [pushes[0], data, *pushes[1:]]
    api.wait_counts(pushes[-1], delivered=1)  # an acknowledgement is recorded with others
    delivered = [api.delivery(push_id)["delivered_at"] for push_id in pushes]
    times = [datetime.fromisoformat(at) for at in delivered]
    # The hand-overs are an hour apart; the acknowledgement of one may have been 1.5 real seconds late.
    assert all(later - earlier >= timedelta(minutes=30) for earlier, later in pairwise(times))


def test_a_cap_holds_over_a_kill(start_server: StartServer) -> None:
    server = start_server()
    server.api.call("PUT", "/v1/policy", 200, json={"caps": {"limits": [{"count": 2, "per": "day"}]}})
    device = server.api.enrol("kiosk-1")
    with Subscriber(server.mqtt_port, device) as screen:
        first = server.api.push("kiosk-1", **ALERT)
        screen.wait_received(1)
        server.kill9()
        server.start()
        server.api.wait_online("kiosk-1")
        pushes = [server.api.push("kiosk-1", **ALERT) for _ in range(2)]
        server.api.wait_counts(pushes[1], suppressed=1)
        assert server.api.delivery(pushes[1])["reason"] == "capped"
        screen.wait_received(2)
        assert screen.push_ids() in ([first, pushes[0]], [first, first, pushes[0]])


def test_a_device_that_comes_back_is_told_what_it_missed(server: Server, api: Api, name: Name) -> None:
    device = api.enrol(name())
    missed = api.push(device.id, **ALERT, ttl=1)
    api.wait_counts(missed, expired=1)
    waiting = api.push(device.id, **ALERT)
    with Subscriber(server.mqtt_port, device, "-t", device.topics["notices"]) as screen:
        received = {printed.topic: printed.push for printed in screen.wait_received(2)}
    assert received[device.topics["push"]]["push_id"] == waiting
    gap = received[device.topics["notices"]]
    assert (gap["type"], gap["count"], gap["reasons"]) == ("gap", 1, {"expired": 1})
    assert gap["pushes"][0]["push_id"] == missed
    with Subscriber(server.mqtt_port, device, "-t", device.topics["notices"]) as screen:
        later = api.push(device.id, **ALERT)
        assert screen.wait_received(1)[0].push["push_id"] == later
