"""Behind HAProxy a device keeps its address, and nobody takes another's: PROXY protocol and X-Forwarded-For.

Two servers, one with TLS and one without, both of which trust 127.0.0.9 alone. So a front that connects from there
(`source`) is a trusted proxy, and one that connects from 127.0.0.1 is anybody. Clients come from other addresses of the
loopback network, to tell them from the proxy.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.certificates import Authority, Pair
from tests.end_to_end.conftest import Name
from tests.end_to_end.haproxy import Front, HaProxy
from tests.end_to_end.harness import Api, Device, Server, wait_for
from tests.websocket_stream import WebSocketStream
from tests.wire import RawClient, Stream, connect

PROXY, CLIENT = "127.0.0.9", "127.0.0.7"
CHECK_MS = 100
"""Between two health checks."""
FROM_PROXY = f"source {PROXY}"
BY_PROXY = f"{FROM_PROXY} send-proxy-v2"
LOCAL_HEADER = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
"""Of a proxy that speaks for itself (proxy-protocol.txt, 2.2)."""


@dataclass(frozen=True)
class Site:
    """Both servers and the proxy in front of them."""

    plain: Server
    secure: Server
    proxy: HaProxy
    authority: Authority
    device_certificate: Pair
    """Of the device `kiosk`, made by the company's own authority."""

    def client(
        self,
        front: str,
        *,
        host: str = "127.0.0.1",
        source: str = CLIENT,
        tls: bool = False,
        websocket: bool = False,
        certificate: Pair | None = None,
    ) -> RawClient:
        """A connection through a front."""

        def wrap(connected: socket.socket) -> Stream:
            if tls or certificate is not None:
                connected = self.authority.client(certificate).wrap_socket(connected, server_hostname="localhost")
            return WebSocketStream(connected) if websocket else connected

        return RawClient(self.proxy.ports[front], host, wrap, source)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("haproxy")
    authority = Authority.in_folder(folder / "certificates")
    pair = authority.issue("server", "localhost", "127.0.0.1", "::1")
    at_the_proxy = folder / "proxy.pem"
    at_the_proxy.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    unix = folder / "fleetpush.sock"
    behind = ["--listen", "mqtt://127.0.0.1:0?proxy=v2", "--listen", f"unix:{unix}?proxy=v2"]
    behind += ["--listen", "ws://127.0.0.1:0/mqtt"]
    tls = [f"--tls-cert={pair.certificate}", f"--tls-key={pair.key}", f"--tls-ca={authority.certificate}"]
    tls += ["--listen", "mqtts://127.0.0.1:0?proxy=v2"]
    trust = ["--trusted-proxies", PROXY]
    with (
        Server(folder / "plain", *trust, *behind) as plain,
        Server(folder / "secure", *trust, *tls, ca=authority.certificate) as secure,
    ):
        mqtt, _, ws = plain.listening
        (mqtts,) = secure.listening
        http = f"127.0.0.1:{plain.http_port}"
        https = f"127.0.0.1:{secure.http_port} ssl verify required ca-file {authority.certificate}"
        ended = f"ssl crt {at_the_proxy}"
        web = ("mode http", "option forwardfor")
        fronts = [
            Front("ended", f"{mqtt} {BY_PROXY}", ended),
            Front("ended6", f"{mqtt} {BY_PROXY}", ended, host="::1"),
            Front("socket", f"unix@{unix} send-proxy-v2", ended),
            Front("passed", f"{mqtts} {BY_PROXY}"),
            Front("checked", f"{mqtt} {BY_PROXY} check inter {CHECK_MS} check-send-proxy"),
            Front("checked_tls", f"{mqtts} {BY_PROXY} check inter {CHECK_MS} check-send-proxy"),
            Front("checked_bare", f"127.0.0.1:{secure.mqtt_port} check inter {CHECK_MS}"),
            Front("untrusted", f"{mqtt} send-proxy-v2"),
            Front("untrusted_tls", f"{mqtts} send-proxy-v2"),
            Front("unexpected", f"127.0.0.1:{plain.mqtt_port} {BY_PROXY}"),
            Front("unexpected_tls", f"127.0.0.1:{secure.mqtt_port} {BY_PROXY}"),
            Front("version_1", f"{mqtt} {FROM_PROXY} send-proxy"),
            Front("silent", f"{mqtt} {FROM_PROXY}"),
            Front("web", f"{http} {FROM_PROXY}", ended, web),
            Front("web_socket", f"{ws} {FROM_PROXY}", ended, web),
            Front("web_encrypted", f"{https} {FROM_PROXY}", ended, web),
            Front("web_untrusted", http, ended, web),
            Front("web_socket_untrusted", ws, ended, web),
        ]
        with HaProxy(folder, *fronts) as proxy:
            yield Site(plain, secure, proxy, authority, authority.issue("kiosk"))


def device_packet(device: Device) -> bytes:
    return connect(device.client_id, username=device.client_id, password=device.token)


def address(api: Api, device_id: str) -> str:
    """As presence has it; the device is connected."""
    return str(wait_for(lambda: api.device(device_id)["address"], what=f"an address of {device_id}"))


# -- the PROXY protocol ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "host", "source", "shown"),
    [
        ("ended", "127.0.0.1", CLIENT, CLIENT),
        ("ended6", "::1", "::1", "[::1]"),
        ("socket", "127.0.0.1", CLIENT, CLIENT),
    ],
)
def test_behind_a_proxy_that_ends_tls_a_device_has_its_own_address(
    site: Site, name: Name, front: str, host: str, source: str, shown: str
) -> None:
    device = site.plain.api.enrol(name())
    with site.client(front, host=host, source=source, tls=True) as client:
        client.enter(device_packet(device))
        assert address(site.plain.api, device.id) == f"{shown}:{client.local_port}"
    with site.client(front, host=host, source=source, tls=True) as client:
        client.send(connect(device.client_id, username=device.client_id, password="wrong"))
        client.read()
        site.plain.wait_log(re.escape(f" {shown}:{client.local_port}: CONNECT of '{device.id}'"))


def test_through_a_proxy_that_passes_tls_on_the_certificate_reaches_us(site: Site) -> None:
    api = site.secure.api
    api.enrol("kiosk")
    with site.client("passed", certificate=site.device_certificate) as client:
        client.enter(connect("kiosk"))
        assert address(api, "kiosk") == f"{CLIENT}:{client.local_port}"


@pytest.mark.parametrize("front", ["checked", "checked_tls", "checked_bare"])
def test_health_checks_leave_no_trace_in_the_log(site: Site, name: Name, front: str) -> None:
    server = site.plain if front == "checked" else site.secure
    site.proxy.wait_checked(front)
    before = len(server.errors)  # other tests of this server are refused by name
    time.sleep(3 * CHECK_MS / 1_000)  # nothing is said of an absence
    device = server.api.enrol(name())
    with site.client(front, tls=server is site.secure) as client:
        client.enter(device_packet(device))  # after the checks have been dealt with
    said = server.errors[before:]
    assert PROXY not in "".join(line for line in said.splitlines() if "WARNING" in line)
    assert "hung up" not in said


def test_a_proxy_that_speaks_for_itself_has_its_own_address(site: Site, name: Name) -> None:
    device = site.plain.api.enrol(name())
    with RawClient(int(site.plain.listening[0].rpartition(":")[2]), source=PROXY) as client:
        client.send(LOCAL_HEADER)
        client.enter(device_packet(device))
        assert address(site.plain.api, device.id) == f"{PROXY}:{client.local_port}"


@pytest.mark.parametrize("front", ["untrusted", "untrusted_tls"])
def test_a_header_from_anybody_else_is_refused(site: Site, front: str) -> None:
    server = site.plain if front == "untrusted" else site.secure
    with site.client(front) as client:
        client.expect_end()
    line = server.wait_log("no trusted proxy")
    assert re.search(r"WARNING .* 127\.0\.0\.1:\d+: ", line), line


@pytest.mark.parametrize(
    ("front", "named"),
    [
        ("unexpected", "malformed"),
        ("unexpected_tls", "does not speak TLS"),
        ("version_1", "use send-proxy-v2"),
        ("silent", "not a PROXY v2 header"),
    ],
)
def test_a_header_where_none_belongs_or_none_where_one_belongs(site: Site, name: Name, front: str, named: str) -> None:
    server = site.secure if front == "unexpected_tls" else site.plain
    with site.client(front) as client:
        client.send(device_packet(server.api.enrol(name())))
        client.read()
    line = server.wait_log(named)
    assert f" {PROXY}:" in line, line


# -- X-Forwarded-For ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front", ["web", "web_socket", "web_encrypted"])
def test_over_a_websocket_a_device_has_the_address_that_the_proxy_forwards(site: Site, name: Name, front: str) -> None:
    api = (site.secure if front == "web_encrypted" else site.plain).api
    device = api.enrol(name())
    with site.client(front, tls=True, websocket=True) as client:
        client.enter(device_packet(device))
        assert address(api, device.id) == f"{CLIENT}:0", "its port at the proxy nobody says"


@pytest.mark.parametrize("front", ["web_untrusted", "web_socket_untrusted"])
def test_what_anybody_else_forwards_does_not_count(site: Site, name: Name, front: str) -> None:
    device = site.plain.api.enrol(name())
    with site.client(front, tls=True, websocket=True) as client:
        client.enter(device_packet(device))
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", address(site.plain.api, device.id))


@pytest.mark.parametrize("front", ["web", "web_encrypted", "web_untrusted"])
def test_who_has_a_wrong_key_is_named_in_the_log(site: Site, front: str) -> None:
    server = site.secure if front == "web_encrypted" else site.plain
    before = len(server.errors)
    request = b"GET /v1/pushes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key_wrong\r\n"
    with site.client(front, tls=True) as client:
        client.send(request, b"X-Forwarded-For: 192.0.2.1\r\n\r\n")  # what the client itself claims, before the proxy
        assert client.receive(12) == b"HTTP/1.1 401"
    named = CLIENT if front != "web_untrusted" else "127.0.0.1"
    wait_for(lambda: f" {named}: this key is wrong" in server.errors[before:], what="the line in the log")
