from __future__ import annotations

import pytest

from broker.network.listen_address import BadAddress, ListenAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("mqtt://127.0.0.1:1884", ListenAddress("mqtt", "127.0.0.1", 1884)),
        ("mqtt://localhost", ListenAddress("mqtt", "127.0.0.1", 1883)),
        ("mqtts://0.0.0.0:8883", ListenAddress("mqtts", "0.0.0.0", 8883)),
        ("mqtts://:8883", ListenAddress("mqtts", "0.0.0.0", 8883)),
        ("ws://[::1]:9001/mqtt", ListenAddress("ws", "::1", 9001, "/mqtt")),
        ("wss://192.0.2.1/", ListenAddress("wss", "192.0.2.1", 443, "/mqtt")),
        ("ws://127.0.0.1:0/push", ListenAddress("ws", "127.0.0.1", 0, "/push")),
        ("wss://:8084?certificates=ask", ListenAddress("wss", "0.0.0.0", 8084, "/mqtt", certificates=True)),
        ("mqtts://10.0.0.1:8883?proxy=v2", ListenAddress("mqtts", "10.0.0.1", 8883, proxy=True)),
        ("unix:/run/f.sock", ListenAddress("unix", path="/run/f.sock")),
        ("unix:/run/f.sock?mode=660&proxy=v2", ListenAddress("unix", path="/run/f.sock", proxy=True, mode=0o660)),
    ],
)
def test_addresses_are_written_as_urls(text: str, address: ListenAddress) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)).place == address.place


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("127.0.0.1:1883", "mqtt://"),
        ("http://127.0.0.1", "mqtt://"),
        ("mqtt://kiosk.example:1883", "kiosk.example"),
        ("mqtt://127.0.0.1:65536", "65536|range"),
        ("mqtt://127.0.0.1:1883/mqtt", "path"),
        ("mqtt://me@127.0.0.1", "user"),
        ("mqtt://127.0.0.1?proxy=v1", "proxy=v2"),
        ("mqtt://127.0.0.1?mode=660", "mode"),
        ("mqtt://127.0.0.1?proxy", "query|proxy"),
        ("mqtts://127.0.0.1?certificates=ask", "proxy=v2"),
        ("wss://127.0.0.1?certificates=no", "certificates=ask"),
        ("unix:run/f.sock", "whole path"),
        ("unix://run/f.sock", "whole path"),
        ("unix:/run/f.sock?mode=888", "mode=888"),
        ("unix:/" + "x" * 107, "107"),
    ],
)
def test_what_is_no_address_is_named(text: str, named: str) -> None:
    with pytest.raises(BadAddress, match=named):
        parse_address(text)


def test_what_crosses_networks() -> None:
    for text in ("mqtt://0.0.0.0", "mqtt://[::]", "ws://192.0.2.1", "mqtts://:1"):
        assert parse_address(text).crosses_networks, text
    for text in ("mqtt://127.0.0.9", "ws://[::1]:1", "unix:/run/f.sock"):
        assert not parse_address(text).crosses_networks, text
