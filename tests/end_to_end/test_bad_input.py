"""What is wrong is said clearly, at once, and nothing that was accepted suffers from it.

HTTP answers a problem document, MQTT a reason code and the device's `last_error`, a start that cannot be one line on
stderr with the remedy.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Name, StartServer, Wire
from tests.end_to_end.harness import Api, Server, expect_problem, fleetpush, wait_for
from tests.end_to_end.wire_device import V4, V5, WireDevice

VERSIONS = pytest.mark.parametrize("version", [V4, V5], ids=["3.1.1", "5.0"])
KIOSK = {"target": {"device": "nobody-yet"}}


# HTTP


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b"{", 400, "malformed_json", id="cut off"),
        pytest.param(b"", 400, "malformed_json", id="empty"),
        pytest.param(b"\xff\xfe", 400, "malformed_json", id="not UTF-8"),
        pytest.param(b'{"target": {"device": "x"}} x', 400, "malformed_json", id="something behind it"),
        pytest.param(b"[]", 422, None, id="a list"),
        pytest.param(b"null", 422, None, id="null"),
        pytest.param({}, 422, None, id="no target"),
        pytest.param({"target": {}}, 422, None, id="empty target"),
        pytest.param({"target": {"device": "a", "all": True}}, 422, None, id="two targets"),
        pytest.param({"target": {"all": False}}, 422, None, id="all: false"),
        pytest.param({"target": {"devices": []}}, 422, None, id="no devices"),
        pytest.param({"target": {"devices": [f"d{n}" for n in range(10_001)]}}, 422, None, id="too many devices"),
        pytest.param({"target": {"device": "a/b"}}, 422, None, id="a device id that is a topic"),
        pytest.param({"target": {"device": "+"}}, 422, None, id="a device id that is a wildcard"),
        pytest.param({"target": {"device": "nobody-here"}}, 404, None, id="unknown device"),
        pytest.param({"target": {"devices": ["nobody-1", "nobody-2"]}}, 404, None, id="none known"),
        pytest.param({"target": {"where": "x == 1"}}, 422, "invalid_expression", id="an expression with a mistake"),
        pytest.param(KIOSK | {"send_at": "2099-01-01T00:00:00"}, 422, None, id="a time without offset"),
        pytest.param(KIOSK | {"ttl": -1}, 422, None, id="ttl below 0"),
        pytest.param(KIOSK | {"ttl": 31_536_001}, 422, None, id="ttl over a year"),
        pytest.param(KIOSK | {"ttl": "60"}, 422, None, id="ttl as text"),
        pytest.param(KIOSK | {"ttl": 1.5}, 422, None, id="ttl with a fraction"),
        pytest.param(KIOSK | {"qos": 3}, 422, None, id="QoS 3"),
        pytest.param(KIOSK | {"priority": "urgent"}, 422, None, id="unknown priority"),
        pytest.param(KIOSK | {"kind": "postcard"}, 422, None, id="unknown kind"),
        pytest.param(KIOSK | {"kind": "alert"}, 422, None, id="an alert that says nothing"),
        pytest.param(KIOSK | {"notification": {}}, 422, None, id="an empty notification"),
        pytest.param(KIOSK | {"colour": "red"}, 422, None, id="unknown field"),
        pytest.param(KIOSK | {"notification": {"title": "x", "colour": "red"}}, 422, None, id="unknown inner field"),
        pytest.param(KIOSK | {"collapse_key": "\u0000"}, 422, None, id="a control character"),
        pytest.param(b'{"target": {"all": true}, "data": "\\ud800"}', 422, None, id="an unpaired surrogate"),
        pytest.param(b'{"target": {"all": true}, "data": NaN}', (400, 422), None, id="NaN"),
        pytest.param(
            b'{"target": {"all": true}, "data": ' + b"[" * 5000 + b"]" * 5000 + b"}",
            (400, 413, 422),
            None,
            id="nested deeply",
        ),
    ],
)
def test_a_wrong_push_is_refused_by_name(api: Api, body: Any, status: Any, code: str | None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    answer = api.request("POST", "/v1/pushes", content=content, headers=headers)
    expected = status if isinstance(status, tuple) else (status,)
    assert answer.status_code in expected, f"{answer.status_code} {answer.text}"
    document = expect_problem(answer, answer.status_code, code)
    assert document["retryable"] is False


def test_a_payload_over_the_limit_is_413_and_the_limit_is_exact_enough(api: Api, name: Name) -> None:
    device = api.enrol(name())
    api.push(device.id, data="x" * 3_500)
    too_large = {"target": {"device": device.id}, "data": "x" * 4_096}
    expect_problem(api.request("POST", "/v1/pushes", json=too_large), 413)
    enormous = b'{"target": {"all": true}, "data": "' + b"x" * 20_000_000 + b'"}'
    answer = api.request("POST", "/v1/pushes", content=enormous, headers={"Content-Type": "application/json"})
    expect_problem(answer, 413)
    assert len(api.mailbox(device.id)) == 1


def test_other_mistakes_of_http(api: Api, server: Server) -> None:
    expect_problem(api.request("GET", "/v1/nothing"), 404)
    expect_problem(api.request("PUT", "/v1/pushes"), 405)
    form = api.request("POST", "/v1/pushes", content=b"target=x", headers={"Content-Type": "text/plain"})
    expect_problem(form, 415)
    expect_problem(api.request("GET", "/v1/pushes/no-such-push"), 404)
    expect_problem(api.request("GET", "/v1/pushes?limit=0"), 422)
    expect_problem(api.request("GET", "/v1/pushes?limit=1001"), 422)
    expect_problem(api.request("GET", "/v1/pushes?cursor=rubbish"), 422)
    for key in (None, "key_wrong", "dev_x", "Grüße"):
        headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
        stranger = Api(server.url, None)
        expect_problem(stranger.request("GET", "/v1/pushes", headers=headers), 401)
        stranger.close()


def test_devices_are_enrolled_carefully(api: Api, name: Name) -> None:
    device = api.enrol(name())
    expect_problem(api.request("POST", "/v1/devices", json={"device_id": device.id}), 409, "device_exists")
    for wrong in (
        {"device_id": "a b"},
        {"device_id": ""},
        {"device_id": "x" * 65},
        {"device_id": "a/b"},
        {"device_id": "dé"},
        {"timezone": "Mars/Olympus"},
        {"timezone": "../../etc/passwd"},
        {"tags": "not a list"},
        {"colour": "red"},
    ):
        expect_problem(api.request("POST", "/v1/devices", json=wrong), 422)
    expect_problem(api.request("PATCH", f"/v1/devices/{device.id}", json={"timezone": "Mars/Olympus"}), 422)
    for call in ("GET ", "PATCH ", "DELETE ", "POST /token", "GET /mailbox", "DELETE /mailbox", "GET /uplink"):
        method, path = call.split(" ")
        answer = api.request(method, f"/v1/devices/nobody-here{path}", json={} if method == "PATCH" else None)
        expect_problem(answer, 404)
    fresh = name()
    listed = api.call(
        "POST",
        "/v1/devices/bulk",
        201,
        json={"devices": [{"device_id": fresh}, {"device_id": device.id}, {"device_id": "a b"}, {"device_id": fresh}]},
    )["devices"]
    assert ["token" in item for item in listed] == [True, False, False, False]
    assert ["error" in item for item in listed] == [False, True, True, True]


def test_a_batch_answers_each_line_in_order(api: Api, name: Name) -> None:
    device = api.enrol(name())
    good = json.dumps({"target": {"device": device.id}})
    lines = [good, "{", '{"target": {"device": "nobody-here"}}', '{"target": {"all": true}, "colour": 1}', good]
    headers = {"Content-Type": "application/x-ndjson"}
    answer = api.request("POST", "/v1/pushes/batch", content="\n".join(lines).encode(), headers=headers)
    assert answer.status_code == 200
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [result["status"] for result in results] == [202, 400, 404, 422, 202]
    assert all({"code", "detail"} <= set(result) for result in results[1:4])
    assert api.mailbox(device.id) == [results[0]["push_id"], results[4]["push_id"]]
    too_long = (good + "\n").encode() * 10_001
    expect_problem(api.request("POST", "/v1/pushes/batch", content=too_long, headers=headers), 413)
    expect_problem(api.request("POST", "/v1/pushes/batch", json=[], headers={"Content-Type": "application/json"}), 415)


# MQTT


@VERSIONS
def test_what_a_device_says_must_be_json(server: Server, api: Api, wire: Wire, name: Name, version: int) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device, version=version).start()
    push_id = api.push(device.id)
    client.wait_push(push_id)
    api.wait_counts(push_id, delivered=1)
    for leaf, payload in (
        ("receipts", b"{"),
        ("receipts", b""),
        ("receipts", b"\xff\xfe"),
        ("receipts", {"push_id": push_id, "event": "eaten"}),
        ("receipts", {"event": "opened"}),
        ("receipts", {"push_id": 7, "event": "opened"}),
        ("settings", b"[1]"),
        ("settings", {"consent": "perhaps"}),
        ("report", b"81"),
        ("report", {"timezone": "Mars/Olympus"}),
    ):
        code = client.publish(client.leaf(leaf), payload)
        assert code == (0x99 if version == V5 else 0), f"{leaf} {payload!r}: {code:#x}"
        wait_for(lambda: api.device(device.id)["last_error"], what="last_error")
    client.ping()
    assert api.only(push_id) == {"delivered": 1}
    assert "timezone" not in api.device(device.id)["attributes"]


GARBAGE = {
    "text": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "zeros": b"\x00" * 64,
    "ones": b"\xff" * 64,
    "a remaining length of five bytes": b"\x10\xff\xff\xff\xff\x01",
    "a claim of 256 MiB before authentication": b"\x10\xff\xff\xff\x7f" + b"\x00" * 1024,
    "PUBLISH before CONNECT": b"\x30\x05\x00\x01a12",
    "PINGREQ before CONNECT": b"\xc0\x00",
    "a server's packet": b"\x20\x02\x00\x00",
    "another protocol": b"\x10\x10\x00\x04MQXX\x04\x02\x00\x3c\x00\x04abcd",
    "an unknown version": b"\x10\x10\x00\x04MQTT\x09\x02\x00\x3c\x00\x04abcd",
    "CONNECT with its reserved flag": b"\x10\x10\x00\x04MQTT\x04\x03\x00\x3c\x00\x04abcd",
    "CONNECT with bytes left over": b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x04abcdXX",
    "CONNECT with a cut-off client id": b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x40abcd",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_on_the_mqtt_port_is_hung_up_on(server: Server, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.mqtt_port), timeout=5) as connection:
        connection.sendall(garbage)
        answered = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(4096):
                answered += data
        assert len(answered) < 64, answered
    assert server.running


@VERSIONS
@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\x36\x06\x00\x01a\x00\x01x", id="QoS 3"),
        pytest.param(b"\x30\x04\x00\x01#x", id="a wildcard in a topic name"),
        pytest.param(b"\x30\x05\x00\x02\xff\xfex", id="a topic that is not UTF-8"),
        pytest.param(b"\x80\x02\x00\x01", id="SUBSCRIBE with wrong flags"),
        pytest.param(b"\x82\x02\x00\x01", id="SUBSCRIBE to nothing"),
        pytest.param(b"\x32\x07\x00\x01a\x00\x00\x00x", id="packet identifier 0"),
        pytest.param(b"\xf0\x00\x00", id="a packet of no kind"),
        pytest.param(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04abcd", id="a second CONNECT"),
    ],
)
def test_a_device_that_breaks_the_protocol_loses_its_connection_and_nothing_else(
    server: Server, api: Api, wire: Wire, name: Name, version: int, garbage: bytes
) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device, version=version).start()
    client.send(garbage)
    client.wait_closed()
    if version == V5:
        assert client.disconnect_code in (0x81, 0x82, 0x90, None), f"{client.disconnect_code:#x}"
    push_id = api.push(device.id)
    assert client.connect().session_present
    client.wait_push(push_id)
    api.wait_counts(push_id, delivered=1)


# The disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB of our own."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "fleetpush-test", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leave not one page of the disk; the file to remove again."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    return ballast


def push_until_refused(api: Api, device_id: str) -> list[str]:
    """What was accepted all the same: the write-ahead log may have some room left that is its own."""
    accepted: list[str] = []
    for _ in range(2000):
        answer = api.request("POST", "/v1/pushes", json={"target": {"device": device_id}, "data": "x" * 3000})
        if answer.status_code != 202:
            assert expect_problem(answer, 507, "storage_full")["retryable"] is True
            return accepted
        accepted.append(answer.json()["push_id"])
    raise AssertionError("the disk should be full by now")


def accepts_again(api: Api, device_id: str) -> str:
    def try_once() -> str | None:
        answer = api.request("POST", "/v1/pushes", json={"target": {"device": device_id}})
        return answer.json()["push_id"] if answer.status_code == 202 else None

    return str(wait_for(try_once, what="pushes to be accepted again"))


def test_a_full_disk_refuses_before_acceptance_and_deliveries_go_on(
    start_server: StartServer, wire: Wire, small_disk: Path
) -> None:
    server = start_server(data_dir=small_disk / "data")
    api = server.api
    device = api.enrol("kiosk-1")
    client: WireDevice = wire(server, device, version=V5, receive_maximum=10)
    client.answer = lambda publish: None
    client.start()
    accepted = [api.push(device.id, data=number) for number in range(30)]
    client.wait_received(10)

    ballast = fill(small_disk)
    accepted += push_until_refused(api, device.id)
    assert server.running
    assert api.request("GET", "/healthz").status_code == 200
    client.answer = lambda publish: 0
    for publish in client.wait_received(10):
        client.acknowledge(publish)
    client.wait_received(len(accepted))
    for push_id in accepted:
        counts = api.counts(push_id)
        assert counts["sent"] + counts["delivered"] == 1, counts

    ballast.unlink()
    accepted.append(accepts_again(api, device.id))
    for push_id in accepted:
        api.wait_counts(push_id, delivered=1)
    assert client.push_ids() == accepted
    assert server.stop() == 0


def test_a_device_that_returns_while_the_disk_is_full_is_served(
    start_server: StartServer, wire: Wire, small_disk: Path
) -> None:
    """Its session is stored already: nothing of what it needs has to be written."""
    server = start_server(data_dir=small_disk / "data")
    api = server.api
    device = api.enrol("kiosk-1")
    client: WireDevice = wire(server, device).start()
    client.drop()
    api.wait_online(device.id, online=False)
    accepted = [api.push(device.id, data=number) for number in range(20)]

    ballast = fill(small_disk)
    accepted += push_until_refused(api, device.id)
    assert client.connect().session_present
    client.wait_received(len(accepted))
    client.ping()
    assert client.push_ids() == accepted

    ballast.unlink()
    accepted.append(accepts_again(api, device.id))
    for push_id in accepted:
        api.wait_counts(push_id, delivered=1)
    assert client.push_ids() == accepted


def test_what_was_accepted_survives_a_kill_on_a_full_disk(
    start_server: StartServer, wire: Wire, small_disk: Path
) -> None:
    server = start_server(data_dir=small_disk / "data")
    api = server.api
    device = api.enrol("kiosk-1")
    accepted = [api.push(device.id, data=number) for number in range(20)]
    ballast = fill(small_disk)
    accepted += push_until_refused(api, device.id)
    server.kill9()
    ballast.unlink()
    server.start()
    assert api.mailbox(device.id) == accepted
    client: WireDevice = wire(server, device).start()
    client.wait_received(len(accepted))
    assert client.push_ids() == accepted


# Starting. What keeps a server with proper options from it: tests/gateway/test_app.py.


@pytest.mark.parametrize(
    ("options", "env", "word"),
    [
        (["--bind", "0.0.0.0"], {}, "--insecure"),
        (["--mqtt-port", "99999"], {}, "99999"),
        ([], {"FLEETPUSH_HTTP_PORT": "many"}, "many"),
        (["--no-such-option"], {}, "--no-such-option"),
        (["--config", "/nonexistent/fleetpush.toml"], {}, "/nonexistent/fleetpush.toml"),
        (["--clock-speed", "0"], {}, "clock"),
    ],
    ids=["public bind", "port", "variable", "option", "config file", "clock"],
)
def test_wrong_options_name_themselves(tmp_path: Path, options: list[str], env: dict[str, str], word: str) -> None:
    result = fleetpush("serve", "--data-dir", str(tmp_path / "data"), *options, env=env, cwd=tmp_path, timeout=30)
    assert result.returncode in (1, 2), result
    assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout
