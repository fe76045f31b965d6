from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.network.proxies import TrustedProxies
from broker.network.websocket_handshake import WebSocketRules, may_become_request, respond
from tests.websocket_stream import ACCEPT, request

PEER = "192.0.2.7:4711"


def refused(head: bytes, rules: WebSocketRules | None = None) -> tuple[int, str]:
    """The status and the metric's reason. What was wrong is in the body, as it is in the log."""
    given_answer = respond(head, PEER, rules or WebSocketRules())
    assert given_answer.refusal is not None
    said, _, body = given_answer.response.partition(b"\r\n\r\n")
    first, *headers = said.decode().split("\r\n")
    assert body.decode() == given_answer.refusal.detail + "\n"
    assert f"Content-Length: {len(body)}" in headers
    assert "Connection: close" in headers
    return int(first.split()[1]), given_answer.refusal.reason


def accepted(head: bytes, rules: WebSocketRules | None = None) -> bool:
    return respond(head, PEER, rules or WebSocketRules()).refusal is None


def test_the_answer_is_that_of_the_standard_and_selects_mqtt() -> None:
    """RFC 6455, 1.3, with the subprotocol and without any extension that the client offers."""
    head = request("x", "/mqtt", "Sec-WebSocket-Extensions: permessage-deflate", protocol="chat, mqtt")
    assert respond(head, PEER, WebSocketRules()) == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n"
        b"Sec-WebSocket-Protocol: mqtt\r\n\r\n",
        PEER,
        None,
    )


def test_a_head_may_have_been_read_by_another_server_before() -> None:
    """The other server lowers the headers' names, and may change their order."""
    head = (
        b"GET /mqtt?token=x HTTP/1.1\r\nsec-websocket-protocol: mqtt\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n"
        b"host: broker.example\r\n\r\n"
    )
    assert accepted(head)


def test_the_path_is_the_listeners() -> None:
    assert refused(request(path="/")) == (404, "websocket path unknown")
    assert refused(request(path="/mqtt/")) == (404, "websocket path unknown")
    assert accepted(request(path="/mqtt?a=b"))
    assert accepted(request(path="/"), WebSocketRules(path="/"))


@pytest.mark.parametrize("offer", [None, "", "mqttv3.1", "MQTT", "chat"])
def test_mqtt_has_to_be_offered(offer: str | None) -> None:
    status, reason = refused(request(protocol=offer))
    assert status == 400
    assert reason == ("not a websocket request" if offer == "" else "websocket subprotocol missing")


def test_mqtt_may_be_offered_among_others() -> None:
    assert accepted(request(protocol="mqttv3.1, mqtt"))
    assert accepted(request("x", "/mqtt", "Sec-WebSocket-Protocol: mqttv3.1"))


# -- origins -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://push.example", "push.example", True),
        ("http://push.example", "push.example", True),
        ("https://push.example", "push.example:443", True),
        ("http://push.example:80", "push.example", True),
        ("http://push.example:8080", "push.example:8080", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("https://PUSH.example", "push.EXAMPLE", True),
        ("https://push.example", "push.example:80", False),
        ("http://push.example:8081", "push.example:8080", False),
        ("https://evil.example", "push.example", False),
        ("https://push.example.evil.example", "push.example", False),
        ("https://push.example@evil.example", "push.example", False),
        ("https://push.example/", "push.example", False),
        ("null", "push.example", False),
        ("", "push.example", False),
        ("https://", "", False),
        ("push.example", "push.example", False),
        ("file://", "push.example", False),
    ],
)
def test_a_page_may_ask_the_server_it_came_from(origin: str, host: str, allowed: bool) -> None:
    head = request(host, "/mqtt", f"Origin: {origin}")
    if allowed:
        assert accepted(head)
    else:
        assert refused(head) == (403, "websocket origin refused")
        assert accepted(head, WebSocketRules(origins=frozenset(["*"])))


def test_other_pages_have_to_be_on_the_list() -> None:
    rules = WebSocketRules(origins=frozenset(["https://Kiosk.example:443", "http://kiosk.example:3000"]))
    assert accepted(request("push.example", "/mqtt", "Origin: https://kiosk.example"), rules)
    assert accepted(request("push.example", "/mqtt", "Origin: http://kiosk.example:3000"), rules)
    assert accepted(request("push.example", "/mqtt", "Origin: https://push.example"), rules)
    for other in ("http://kiosk.example", "https://kiosk.example:3000", "https://a.kiosk.example", "null"):
        assert refused(request("push.example", "/mqtt", f"Origin: {other}"), rules) == (403, "websocket origin refused")


def test_a_client_that_is_no_browser_has_no_origin() -> None:
    assert accepted(request())


def test_a_client_certificate_may_be_a_condition() -> None:
    rules = WebSocketRules(certificate=True)
    assert refused(request(), rules) == (403, "websocket certificate missing")
    assert respond(request(), PEER, rules, certified=True).refusal is None


def test_headers_that_must_not_be_repeated() -> None:
    twice = ("Origin: https://push.example", "Origin: https://push.example")
    assert refused(request("push.example", "/mqtt", *twice)) == (403, "websocket origin refused")
    hosts = ("Host: push.example", "Origin: https://push.example")
    assert refused(request("push.example", "/mqtt", *hosts)) == (403, "websocket origin refused")


@pytest.mark.parametrize("bad", ["kiosk.example", "https://kiosk.example/", "https://", "", "https://kiosk.example/a"])
def test_what_is_no_origin_is_named(bad: str) -> None:
    with pytest.raises(ValueError, match="is not an origin") as refusal:
        WebSocketRules(origins=frozenset([bad]))
    assert repr(bad) in str(refusal.value)


@pytest.mark.parametrize("bad", ["", "mqtt", "/mqtt?a=b"])
def test_what_is_no_path_is_named(bad: str) -> None:
    with pytest.raises(ValueError, match="is not a path") as refusal:
        WebSocketRules(path=bad)
    assert repr(bad) in str(refusal.value)


# -- what is no upgrade ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (request().replace(b"Upgrade: websocket", b"Upgrade: h2c"), 426),
        (request().replace(b"Connection: Upgrade", b"Connection: close"), 426),
        (request().replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
        (request().replace(b"GET", b"POST"), 400),
        (request(key="short"), 400),
        (request(key="äöü"), 400),
        (request().replace(b"Sec-WebSocket-Key", b"Something-Else"), 400),
        (request("x", "/mqtt", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        (request().replace(b"Version: 13", b"Version: 8"), 400),
        (request("x", "/mqtt", "Content-Length: 5"), 400),
        (request("x", "/mqtt", "Transfer-Encoding: chunked"), 400),
        (request("x", "/mqtt", "no colon"), 400),
        (request("x", "/mqtt", "X: " + "x" * 9_000), 400),
        (request("x", "/mqtt", *("X: x" for _ in range(200))), 400),
        (b"GET \r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
    ],
)
def test_what_is_no_upgrade_is_told_so(head: bytes, status: int) -> None:
    assert refused(head) == (status, "not a websocket request")


def test_a_browser_that_looks_in_learns_how_to_ask() -> None:
    """RFC 9110, 15.5.22: 426 names the protocol."""
    response = respond(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n", PEER, WebSocketRules()).response
    assert b"\r\nUpgrade: websocket\r\n" in response


def test_what_a_stranger_says_is_one_short_line_of_ascii() -> None:
    for head in (
        request(path="/\x1b[2J\xff" + "x" * 5_000),
        request("x", "/mqtt", "Origin: https://\xff.example" + "y" * 5_000),
        request(key="\xff" * 3_000),
    ):
        refusal = respond(head, PEER, WebSocketRules()).refusal
        assert refusal is not None
        assert refusal.detail.isascii()
        assert refusal.detail.isprintable()
        assert len(refusal.detail) < 300


@pytest.mark.parametrize(("first", "plausible"), [(b"", True), (b"G", True), (b"GET ", True), (b"GET /mqtt", True),
                                                  (b"POST", False), (b"\x10\x0e", False), (b"get", False)])  # fmt: skip
def test_another_protocol_shows_in_its_first_bytes(first: bytes, plausible: bool) -> None:
    assert may_become_request(first) == plausible


# -- behind a proxy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        (PEER, ["X-Forwarded-For: 198.51.100.1"], PEER),
        ("10.0.0.1:80", [], "10.0.0.1:80"),
        ("10.0.0.1:80", ["X-Forwarded-For: 198.51.100.1"], "198.51.100.1:0"),
        ("10.0.0.1:80", ["X-Forwarded-For: 198.51.100.9, 198.51.100.1", "X-Forwarded-For: 10.0.0.2"], "198.51.100.1:0"),
        ("10.0.0.1:80", ["X-Forwarded-For: 2001:db8::1"], "[2001:db8::1]:0"),
        ("[::ffff:10.0.0.1]:80", ["X-Forwarded-For: 198.51.100.1"], "198.51.100.1:0"),
        ("10.0.0.1:80", ["X-Forwarded-For: nobody"], "10.0.0.1:80"),
        ("unix", ["X-Forwarded-For: 198.51.100.1"], "198.51.100.1:0"),
    ],
)
def test_a_trusted_proxy_says_who_asks(peer: str, headers: list[str], client: str) -> None:
    rules = WebSocketRules(proxies=TrustedProxies(["10.0.0.0/8"]))
    assert respond(request("x", "/mqtt", *headers), peer, rules).peer == client
    assert respond(request("x", "/nothing", *headers), peer, rules).peer == client


# -- anything ----------------------------------------------------------------------------------------------------------


@given(
    st.binary(max_size=400)
    | st.tuples(st.integers(0, 200), st.binary(max_size=5)).map(
        lambda drawn: request()[: drawn[0]] + drawn[1] + request()[drawn[0] + len(drawn[1]) :]
    )
)
def test_any_head_gets_one_answer(head: bytes) -> None:
    given_answer = respond(head + b"\r\n\r\n", PEER, WebSocketRules())
    assert given_answer.response.startswith(b"HTTP/1.1 101 " if given_answer.refusal is None else b"HTTP/1.1 4")
    assert given_answer.response.count(b"\r\n\r\n") == 1


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "head", [request(), request(path="/"), request(protocol=None), request(key="short"), request(key="ä"), b"x\r\n\r\n"]
)
def test_a_handshake_leaves_nothing_behind(head: bytes) -> None:
    """The collector comes seldom to a server, and strangers are many."""
    respond(head, PEER, WebSocketRules())
    gc.collect()
    respond(head, PEER, WebSocketRules())
    assert gc.collect() == 0
