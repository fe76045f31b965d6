"""A wrong credential changes nobody's state, a device reaches its own topics only, and secrets stay secret."""

from __future__ import annotations

import itertools

import pytest

from tests.end_to_end import mosquitto
from tests.end_to_end.conftest import Name, StartServer, Wire
from tests.end_to_end.harness import Api, Device, Server, expect_problem, wait_for
from tests.end_to_end.wire_device import V4, V5, Disconnected, WireDevice

VERSIONS = pytest.mark.parametrize("version", [V4, V5], ids=["3.1.1", "5.0"])
BAD_CREDENTIALS = {V4: {4, 5}, V5: {0x86, 0x87}}
"""3.1.1: bad user name or password, not authorised; 5.0 the same."""


def test_connects_with_a_wrong_token_change_nothing_for_the_device(
    server: Server, api: Api, wire: Wire, name: Name, full: int
) -> None:
    """100 of them, 1,000 with --full: both versions, clean session on and off."""
    connected, absent = api.enrol(name()), api.enrol(name())
    device: WireDevice = wire(server, connected).start()
    away: WireDevice = wire(server, absent).start()
    away.disconnect()
    waiting = [api.push(absent.id, data=number) for number in range(3)]
    device.answer = lambda publish: None
    unacknowledged = api.push(connected.id)
    held = device.wait_push(unacknowledged)

    tokens = itertools.cycle(["", "wrong", connected.token[:-1], absent.token, connected.token + "x"])
    for number in range(100 * full):
        victim, other = (connected, absent) if number % 2 else (absent, connected)
        token = next(tokens)
        token = other.token if token == victim.token else token
        version, clean = (V4, V5)[number // 2 % 2], bool(number // 4 % 2)
        topic, will = victim.topics["push"], (victim.topics["presence"], b"0", 1, True)
        intruder = WireDevice(
            server.mqtt_port, victim.client_id, token, topic=topic, version=version, clean=clean, will=will
        )
        connack = intruder.try_connect()
        assert connack.code in BAD_CREDENTIALS[version], connack
        assert not connack.session_present
        intruder.drop()

    device.ping()
    assert device.connections == 1
    assert api.device(connected.id)["online"] is True
    assert api.only(unacknowledged) == {"sent": 1}
    device.answer = lambda publish: 0
    device.acknowledge(held)
    api.wait_counts(unacknowledged, delivered=1)
    after = api.push(connected.id)
    device.wait_push(after)
    assert len(device.received) == 2

    assert api.mailbox(absent.id) == waiting
    assert away.connect().session_present
    away.wait_received(3)
    assert away.push_ids() == waiting
    device.drop()
    assert device.connect().session_present


@VERSIONS
def test_client_id_must_be_the_user_name(server: Server, api: Api, name: Name, version: int) -> None:
    mine, other = api.enrol(name()), api.enrol(name())
    for client_id in (other.client_id, "", "anything", f"{other.client_id}:r", f"{mine.client_id}:"):
        impostor = WireDevice(server.mqtt_port, client_id, mine.token, username=mine.client_id, version=version)
        connack = impostor.try_connect()
        assert connack.code == (2 if version == V4 else 0x85), f"client id {client_id!r}: {connack}"
        assert not connack.session_present
    # After authentication: a wrong token hears about the token only.
    impostor = WireDevice(server.mqtt_port, other.client_id, "wrong", username=mine.client_id, version=version)
    assert impostor.try_connect().code in BAD_CREDENTIALS[version]


@VERSIONS
def test_a_device_publishes_to_its_own_topics_only(
    server: Server, api: Api, wire: Wire, name: Name, version: int
) -> None:
    mine, other = api.enrol(name()), api.enrol(name())
    victim: WireDevice = wire(server, other).start()
    client: WireDevice = wire(server, mine, version=version).start()
    victims_push = api.push(other.id, notification={"title": "for the other"})
    victim.wait_push(victims_push)
    api.wait_counts(victims_push, delivered=1)
    denied = [
        other.topics["push"],
        mine.topics["push"],
        mine.topics["notices"],
        other.topics["receipts"],
        f"default/devices/{other.id}/uplink/x",
        f"default/devices/{mine.id}",
        f"default/devices/{mine.id}/other",
        "anything",
        "$SYS/broker/clients",
    ]
    forged = {"push_id": victims_push, "event": "acted"}
    for topic in denied:
        code = client.publish(topic, forged)
        assert code == (0x87 if version == V5 else 0), f"{topic}: {code:#x}"
    assert client.publish(mine.topics["receipts"], forged, retain=True) == (0x87 if version == V5 else 0)
    assert api.wait_last_error(mine.id)
    victim.ping()
    client.ping()
    assert len(victim.received) == 1
    assert client.received == []
    assert api.only(victims_push) == {"delivered": 1}
    assert list(api.items(f"/v1/devices/{other.id}/uplink")) == []


@VERSIONS
def test_a_device_subscribes_to_its_own_push_topic_only(
    server: Server, api: Api, wire: Wire, name: Name, version: int
) -> None:
    mine, other = api.enrol(name()), api.enrol(name())
    client: WireDevice = wire(server, mine, version=version).start()
    filters = [
        other.topics["push"],
        "#",
        "+/devices/+/push",
        f"default/devices/{mine.id}/+",
        f"default/devices/{mine.id}/#",
        f"default/devices/{mine.id}/receipts",
        f"$share/group/{mine.topics['push']}",
        "$SYS/#",
    ]
    for topic_filter in filters:
        code = client.subscribe(topic_filter)
        assert code == (0x80 if version == V4 else 0x87), f"{topic_filter}: {code:#x}"
    assert client.subscribe(mine.topics["notices"]) == 1
    api.push(other.id)
    push_id = api.push(mine.id)
    client.wait_push(push_id)
    client.ping()
    assert client.push_ids() == [push_id]


@VERSIONS
def test_a_will_may_speak_for_its_own_device_only(
    server: Server, api: Api, wire: Wire, name: Name, version: int
) -> None:
    mine, other = api.enrol(name()), api.enrol(name())
    victim: WireDevice = wire(server, other).start()
    push_id = api.push(other.id)
    victim.wait_push(push_id)
    api.wait_counts(push_id, delivered=1)
    forged = f'{{"push_id": "{push_id}", "event": "acted"}}'.encode()
    client: WireDevice = wire(server, mine, version=version, will=(other.topics["receipts"], forged, 1, False))
    try:
        # Refused at CONNECT, or dropped when it is due: the ledger does not move either way.
        client.connect()
        client.drop()
    except (AssertionError, Disconnected):
        pass
    api.wait_online(mine.id, online=False)
    victim.ping()
    assert api.only(push_id) == {"delivered": 1}


def test_side_connections_publish_and_do_nothing_else(server: Server, api: Api, wire: Wire, name: Name) -> None:
    device = api.enrol(name())
    main: WireDevice = wire(server, device).start()
    side = WireDevice(server.mqtt_port, f"{device.client_id}:r", device.token, username=device.client_id)
    assert not side.connect().session_present
    assert side.subscribe(device.topics["push"]) == 0x80
    push_id = api.push(device.id)
    main.wait_push(push_id)
    assert side.publish(device.topics["receipts"], {"push_id": push_id, "event": "opened"}) == 0
    api.wait_counts(push_id, opened=1)
    assert side.publish("default/devices/somebody/receipts", push_id) == 0  # acknowledged and dropped in 3.1.1
    side.drop()
    main.ping()
    assert api.device(device.id)["online"] is True
    assert main.connections == 1
    side = WireDevice(server.mqtt_port, f"{device.client_id}:r", device.token, username=device.client_id)
    assert not side.connect().session_present, "a side connection leaves no session"
    side.drop()


def test_another_app_is_another_world(start_server: StartServer, wire: Wire) -> None:
    server = start_server()
    api = server.api
    api.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    key = api.call(
        "POST", "/v1/keys", 201, json={"app": "hotel", "name": "desk", "scopes": ["send", "read", "devices"]}
    )
    hotel = Api(server.url, key["key"])
    ours, theirs = api.enrol("kiosk-1"), hotel.enrol("kiosk-1")
    assert theirs.client_id == theirs.mqtt["username"] == "hotel/kiosk-1"
    assert theirs.topics["push"] == "hotel/devices/kiosk-1/push"
    clients = [wire(server, ours).start(), wire(server, theirs).start()]
    pushes = [api.push({"all": True}), hotel.push({"all": True})]
    for client, push_id in zip(clients, pushes, strict=True):
        client.wait_push(push_id)
        client.ping()
        assert client.push_ids() == [push_id]
    expect_problem(hotel.request("GET", f"/v1/pushes/{pushes[0]}"), 404)
    expect_problem(hotel.request("DELETE", f"/v1/pushes/{pushes[0]}"), 404)
    expect_problem(hotel.request("POST", "/v1/keys", json={"name": "x", "scopes": ["send"]}), 403)
    crossing = WireDevice(server.mqtt_port, "hotel/kiosk-1", ours.token)
    assert crossing.try_connect().code in BAD_CREDENTIALS[V4]
    hotel.close()


def test_secrets_are_nowhere_but_in_the_answer_that_gave_them(start_server: StartServer, wire: Wire) -> None:
    server = start_server(env={"FLEETPUSH_LOG_LEVEL": "debug"})
    api = server.api
    first = api.enrol("kiosk-1")
    rotated = api.call("POST", "/v1/devices/kiosk-1/token", 200)["token"]
    key = api.call("POST", "/v1/keys", 201, json={"name": "sender", "scopes": ["send"]})
    client: WireDevice = wire(server, Device({"device_id": "kiosk-1", "token": rotated, "mqtt": first.mqtt})).start()
    WireDevice(server.mqtt_port, "kiosk-1", first.token).try_connect()
    api.request("GET", f"/v1/devices/{rotated}")
    sender = Api(server.url, key["key"])
    expect_problem(sender.request("GET", "/v1/devices"), 403)
    sender.close()
    answers = [
        api.request("GET", "/v1/keys").text,
        api.request("GET", "/v1/devices/kiosk-1").text,
        api.request("GET", "/v1/devices").text,
        api.request("GET", "/metrics").text,
    ]
    client.drop()
    assert server.stop() == 0
    secrets = [first.token, rotated, key["key"], server.admin_key]
    assert all(
        secret.startswith(prefix) for secret, prefix in zip(secrets, ("dev_", "dev_", "key_", "key_"), strict=True)
    )
    for secret in secrets:
        assert secret not in server.output
        assert not any(secret in answer for answer in answers)
    for path in server.data_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in secrets[:3]:
                assert secret.encode() not in content, f"{path.name} holds a secret"
            if path.name != "admin.key":
                assert secrets[3].encode() not in content, f"{path.name} holds the admin key"
    assert (server.data_dir / "admin.key").stat().st_mode & 0o777 == 0o600


def test_keys_have_scopes_and_can_be_revoked(server: Server, api: Api, name: Name) -> None:
    device = api.enrol(name())
    made = {
        scope: api.call("POST", "/v1/keys", 201, json={"name": scope, "scopes": [scope]})
        for scope in ("send", "read", "devices")
    }
    calls = {
        "send": ("POST", "/v1/pushes", {"target": {"device": device.id}}),
        "read": ("GET", "/v1/pushes", None),
        "devices": ("POST", "/v1/devices", {}),
    }
    for holder, key in made.items():
        client = Api(server.url, key["key"])
        for scope, (method, path, body) in calls.items():
            answer = client.request(method, path, json=body)
            if scope == holder:
                assert answer.status_code in (200, 201, 202), answer.text
            else:
                expect_problem(answer, 403)
        expect_problem(client.request("POST", "/v1/apps", json={"id": "x"}), 403)
        api.call("DELETE", f"/v1/keys/{key['id']}", 204)
        expect_problem(client.request(*calls[holder][:2], json=calls[holder][2]), 401)
        client.close()


def test_a_rotated_token_is_void_at_once(server: Server, api: Api, wire: Wire, name: Name) -> None:
    old = api.enrol(name())
    client: WireDevice = wire(server, old, version=V5).start()
    client.answer = lambda publish: None
    held = api.push(old.id)
    client.wait_push(held)
    new = api.call("POST", f"/v1/devices/{old.id}/token", 200)
    client.wait_closed(1.0)
    assert client.try_connect().code in BAD_CREDENTIALS[V5]
    client.token = new["token"]
    client.answer = lambda publish: 0
    assert client.connect().session_present, "the session is the device's, not the token's"
    api.wait_counts(held, delivered=1)


def test_mosquitto_pub_with_a_wrong_token_does_not_disturb_mosquitto_sub(server: Server, api: Api, name: Name) -> None:
    device = api.enrol(name())
    with mosquitto.Subscriber(server.mqtt_port, device) as subscriber:
        api.wait_online(device.id)
        wrong = Device({"device_id": device.id, "token": "dev_wrong", "mqtt": device.mqtt})
        with pytest.raises(mosquitto.Failed):
            mosquitto.publish(server.mqtt_port, wrong, device.topics["receipts"], "x")
        push_id = api.push(device.id)
        subscriber.wait_received(1)
        wait_for(lambda: api.only(push_id) == {"delivered": 1}, what="delivery")
