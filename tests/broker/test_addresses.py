"""Peers that count as one address."""

from __future__ import annotations

import pytest

from broker.addresses import address_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("192.0.2.1:4711", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8:1:2:3:4:5:6]:4711", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("[::ffff:192.0.2.1]:4711", "192.0.2.1"),
        ("[::1]:4711", "::/64"),
        ("unix", "unix"),
        ("unknown", "unknown"),
        ("[fe80::1%eth0]:1", "fe80::/64"),
    ],
)
def test_a_network_of_ipv6_is_one_address(peer: str, address: str) -> None:
    assert address_of(peer) == address
