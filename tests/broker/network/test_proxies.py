from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.network.proxies import (
    MAX_HEADER_BYTES,
    PREFIX_BYTES,
    UNIX,
    ProxyHeaderError,
    TrustedProxies,
    header_length,
    host_and_port,
    host_of,
    parse_header,
)

# Written by hand from HAProxy's proxy-protocol.txt, 2.2.
SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
IPV4 = SIGNATURE + bytes.fromhex("21 11 000c  c0000207 0a000001  1267 075b")
IPV6 = SIGNATURE + bytes.fromhex(
    "21 21 0024  20010db8000000000000000000000007 20010db8000000000000000000000001  1267 22b3"
)
MAPPED = SIGNATURE + bytes.fromhex(
    "21 21 0024  00000000000000000000ffffc0000207 00000000000000000000ffff0a000001  1267 22b3"
)
DATAGRAM = SIGNATURE + bytes.fromhex("21 12 000c  c0000207 0a000001  1267 075b")
UNIX_SOCKET = SIGNATURE + bytes.fromhex("21 31 00d8") + b"/run/kiosk.sock".ljust(108, b"\0") + bytes(108)
LOCAL = SIGNATURE + bytes.fromhex("20 00 0000")
LOCAL_WITH_ADDRESS = SIGNATURE + bytes.fromhex("20 11 000c  c0000207 0a000001  1267 075b")
UNSPECIFIED = SIGNATURE + bytes.fromhex("21 00 0000")
WITH_EXTENSIONS = SIGNATURE + bytes.fromhex(
    "21 11 0020  c0000207 0a000001  1267 075b"
    "  02 000d 6b696f736b2e6578616d706c65"  # PP2_TYPE_AUTHORITY: kiosk.example
    "  04 0001 00"  # PP2_TYPE_NOOP
)

WELL_FORMED = {
    IPV4: "192.0.2.7:4711",
    IPV6: "[2001:db8::7]:4711",
    MAPPED: "192.0.2.7:4711",
    DATAGRAM: "192.0.2.7:4711",
    UNIX_SOCKET: None,
    LOCAL: None,
    LOCAL_WITH_ADDRESS: None,
    UNSPECIFIED: None,
    WITH_EXTENSIONS: "192.0.2.7:4711",
}


# -- trusted proxies ---------------------------------------------------------------------------------------------------


def test_addresses_and_networks_are_trusted_and_nobody_else() -> None:
    proxies = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "2001:db8::/64", "::1"])
    assert all(map(proxies.trusts, ["10.1.2.3", "192.0.2.1", "2001:db8::99", "::1"]))
    assert not any(map(proxies.trusts, ["11.0.0.1", "192.0.2.2", "2001:db8:1::1", "127.0.0.1", "unknown", ""]))
    assert not TrustedProxies().trusts("127.0.0.1")


def test_an_ipv4_address_is_the_same_when_it_is_written_as_ipv6() -> None:
    proxies = TrustedProxies(["10.0.0.0/8", "::ffff:192.0.2.0/120"])
    assert proxies.trusts("::ffff:10.1.2.3")
    assert proxies.trusts("::ffff:192.0.2.9")
    assert proxies.trusts("192.0.2.9")
    assert not proxies.trusts("::ffff:192.0.3.1")


def test_a_unix_socket_is_opened_by_whom_its_file_lets() -> None:
    assert TrustedProxies().trusts(UNIX)
    assert not TrustedProxies(["0.0.0.0/0"], unix=False).trusts(UNIX)


@pytest.mark.parametrize("bad", ["proxy.example", "10.0.0.0/33", "10.0.0", "", "fe80::1%eth0/64", "10.0.0.1:80"])
def test_what_is_no_address_is_named(bad: str) -> None:
    with pytest.raises(ValueError, match="is neither an address nor a network") as refused:
        TrustedProxies(["10.0.0.1", bad])
    assert repr(bad) in str(refused.value)


def test_a_network_that_may_be_meant_as_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="host bits"):
        TrustedProxies(["10.0.0.1/8"])


# -- X-Forwarded-For ---------------------------------------------------------------------------------------------------

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8:aaaa::/48"])


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.0.0.2"], "192.0.2.7"),
        (["192.0.2.7, 10.0.0.2, 2001:db8:aaaa::5"], "192.0.2.7"),
        (["192.0.2.7", "10.0.0.2"], "192.0.2.7"),
        (["198.51.100.1", "192.0.2.7,10.0.0.2"], "192.0.2.7"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["[2001:db8::7]:4711"], "2001:db8::7"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (["[::ffff:192.0.2.7]:1, ::ffff:10.0.0.2"], "192.0.2.7"),
        ([" 192.0.2.7 ,, 10.0.0.2 , "], "192.0.2.7"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_proxy(values: list[str], client: str) -> None:
    assert PROXIES.client_of("10.0.0.1", values) == client
    assert PROXIES.client_of("2001:db8:aaaa::1", values) == client.replace("10.0.0.1", "2001:db8:aaaa::1")


def test_a_claim_of_the_client_itself_is_ignored() -> None:
    assert PROXIES.client_of("10.0.0.1", ["nonsense, 10.9.9.9, 192.0.2.7"]) == "192.0.2.7"


@pytest.mark.parametrize(
    "malformed",
    ["unknown", "_hidden", "192.0.2", "192.0.2.7:", "192.0.2.7:x", "[2001:db8::7", "2001:db8::7]", "[2001:db8::7]x",
     "[2001:db8::7]:", "[192.0.2.7", "fe80::1%eth0", "1::2::3", "unix", "\x00", "192.0.2.7 10.0.0.1", "１92.0.2.7"],
)  # fmt: skip
def test_a_malformed_list_leaves_the_peer(malformed: str) -> None:
    assert PROXIES.client_of("10.0.0.1", [malformed]) == "10.0.0.1"
    assert PROXIES.client_of("10.0.0.1", ["192.0.2.7, " + malformed]) == "10.0.0.1"
    assert PROXIES.client_of("10.0.0.1", ["192.0.2.7", malformed + ", 10.0.0.2"]) == "10.0.0.1"


def test_who_is_not_trusted_cannot_name_another() -> None:
    assert PROXIES.client_of("192.0.2.99", ["192.0.2.7"]) == "192.0.2.99"
    assert TrustedProxies(unix=False).client_of(UNIX, ["192.0.2.7"]) == UNIX
    assert TrustedProxies().client_of(UNIX, ["192.0.2.7"]) == "192.0.2.7"


@given(st.lists(st.text(max_size=40) | st.ip_addresses().map(str), max_size=5), st.ip_addresses())
def test_whatever_the_list_says_the_client_is_an_address_and_never_a_forged_one(
    claims: list[str], real: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    """The trusted proxy has appended the address it saw."""
    client = PROXIES.client_of("10.0.0.1", [*claims, str(real)])
    ipaddress.ip_address(client)
    if not PROXIES.trusts(str(real)):
        mapped = real.ipv4_mapped if isinstance(real, ipaddress.IPv6Address) else None
        assert client == str(mapped or real)


# -- HOST:PORT ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "kiosk.example"])
def test_host_and_port_are_put_together_and_taken_apart(host: str) -> None:
    assert host_of(host_and_port(host, 4711)) == host


def test_a_peer_without_a_port_is_a_host() -> None:
    assert host_of("unix") == "unix"


# -- the PROXY protocol ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "source"), WELL_FORMED.items())
def test_a_header_says_who_the_client_is(header: bytes, source: str | None) -> None:
    assert header_length(header[:PREFIX_BYTES]) == len(header)
    assert parse_header(header) == source


@pytest.mark.parametrize("length", range(PREFIX_BYTES))
def test_more_is_needed_until_the_length_is_there(length: int) -> None:
    assert header_length(IPV4[:length]) == PREFIX_BYTES


@pytest.mark.parametrize("header", [header for header in WELL_FORMED if len(header) > PREFIX_BYTES])
def test_a_header_is_taken_exactly(header: bytes) -> None:
    for wrong in (header[:-1], header + b"\x10", header[:PREFIX_BYTES]):
        with pytest.raises(ProxyHeaderError, match=r"PROXY header of \d+ bytes, \d+ came"):
            parse_header(wrong)


def test_version_1_is_told_the_remedy() -> None:
    line = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 1883\r\n"
    assert header_length(line[:5]) == PREFIX_BYTES
    for length in range(6, PREFIX_BYTES + 1):
        with pytest.raises(ProxyHeaderError, match="PROXY v1 is not spoken here; use send-proxy-v2"):
            header_length(line[:length])


@pytest.mark.parametrize("first", [b"\x10", b"\x16\x03\x01", b"GET /mqtt HTTP/1.1", b"\r\n\r\n\x00\r\nQUIT\r", b"POX"])
def test_another_protocol_is_noticed_at_the_first_byte_that_differs(first: bytes) -> None:
    with pytest.raises(ProxyHeaderError, match=r"^not a PROXY v2 header$"):
        header_length(first)


@pytest.mark.parametrize(
    ("fixed", "complaint"),
    [
        ("11 11 000c", "PROXY version 1 is not spoken here"),
        ("31 11 000c", "PROXY version 3 is not spoken here"),
        ("22 11 000c", "PROXY command 2 is not defined"),
        ("21 11 0ff1", "PROXY header of 4097 bytes; no more than 4096 are taken"),
        ("21 11 ffff", "PROXY header of 65551 bytes"),
    ],
)
def test_sixteen_bytes_can_be_wrong(fixed: str, complaint: str) -> None:
    with pytest.raises(ProxyHeaderError, match=complaint):
        header_length(SIGNATURE + bytes.fromhex(fixed))


@pytest.mark.parametrize(
    ("fixed", "complaint"),
    [
        ("21 41", "PROXY family and transport 0x41 are not defined"),
        ("21 13", "PROXY family and transport 0x13 are not defined"),
        ("21 ff", "PROXY family and transport 0xff are not defined"),
        ("21 21", "PROXY header too short for its addresses"),
        ("21 31", "PROXY header too short for its addresses"),
    ],
)
def test_the_addresses_can_be_wrong(fixed: str, complaint: str) -> None:
    with pytest.raises(ProxyHeaderError, match=complaint):
        parse_header(SIGNATURE + bytes.fromhex(fixed) + b"\x00\x0c" + bytes(12))


def test_a_health_check_may_say_anything_else() -> None:
    """LOCAL: the family is ignored (2.2)."""
    assert parse_header(SIGNATURE + bytes.fromhex("20 ff 0002 abcd")) is None


def test_the_longest_header_is_taken() -> None:
    extensions = bytes(MAX_HEADER_BYTES - PREFIX_BYTES - 12)
    assert parse_header(SIGNATURE + b"\x21\x11\x0f\xf0" + IPV4[PREFIX_BYTES:] + extensions) == "192.0.2.7:4711"


@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(lambda data: SIGNATURE + data)
    | st.tuples(st.sampled_from(list(WELL_FORMED)), st.integers(0, 300), st.integers(0, 255)).map(
        lambda drawn: drawn[0][: drawn[1]] + bytes([drawn[2]]) + drawn[0][drawn[1] + 1 :]
    )
)
def test_any_bytes_are_a_header_or_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(ProxyHeaderError):
        length = header_length(data[:PREFIX_BYTES])
        assert PREFIX_BYTES <= length <= MAX_HEADER_BYTES
        source = parse_header(data[:length])
        if source is not None:
            ipaddress.ip_address(host_of(source))
