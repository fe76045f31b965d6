from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.device_topics import client_id, device_topic, device_topics, split_topic

ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
apps = st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True)


@given(app=apps, device=ids)
def test_a_topic_says_whose_it_is(app: str, device: str) -> None:
    for leaf, topic in device_topics(app, device).items():
        assert split_topic(topic) == (app, device, leaf)
    assert split_topic(device_topic(app, device, "uplink/a/b")) == (app, device, "uplink/a/b")


@given(one=st.tuples(apps, ids), other=st.tuples(apps, ids))
def test_no_two_devices_share_a_topic_or_a_client_id(one: tuple[str, str], other: tuple[str, str]) -> None:
    if one != other:
        assert set(device_topics(*one).values()).isdisjoint(device_topics(*other).values())
        assert client_id(*one) != client_id(*other)


def test_the_default_app_goes_without_a_prefix() -> None:
    assert client_id("default", "kiosk-1") == "kiosk-1"
    assert client_id("shop", "kiosk-1") == "shop/kiosk-1"


def test_other_topics_are_nobodys() -> None:
    for topic in ("", "a", "default/devices", "default/devices/x", "default/other/x/push", "a/b/c/d"):
        assert split_topic(topic) is None
