from __future__ import annotations

import pytest

from broker.network.descriptor_shares import OWN_DESCRIPTORS, DescriptorShares, share_of, share_out


@pytest.mark.parametrize(
    ("descriptors", "shares"),
    [
        (1_048_576, DescriptorShares(OWN_DESCRIPTORS, 2_048, 1_048_576 - OWN_DESCRIPTORS - 2_048)),
        (1_000, DescriptorShares(250, 250, 500)),
        (256, DescriptorShares(64, 64, 128)),
    ],
)
def test_devices_keep_the_larger_part(descriptors: int, shares: DescriptorShares) -> None:
    assert share_out(descriptors, http=2_048) == shares
    assert shares.own + shares.http + shares.devices == descriptors


@pytest.mark.parametrize(
    ("host", "whose"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:ffff::9", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("not:an:address", "not:an:address"),
        ("", ""),
    ],
)
def test_a_customer_network_is_one(host: str, whose: str) -> None:
    assert share_of(host) == whose
