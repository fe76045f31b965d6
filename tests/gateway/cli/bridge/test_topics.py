"""Topics of a bridge: nobody else's are read as ours."""

from __future__ import annotations

import pytest

from gateway.cli.bridge.topics import BridgeTopics

TOPICS = BridgeTopics("shop-1")


def test_topics_are_read_as_they_are_made() -> None:
    assert TOPICS.status == "shop-1/status"
    assert TOPICS.split(TOPICS.of_device("kiosk_1", "command/re:boot")) == ("kiosk_1", "command/re:boot")
    assert TOPICS.of_all_devices("notify") == "shop-1/devices/+/notify"


@pytest.mark.parametrize(
    "topic",
    [
        "shop-1/status",
        "shop-1/devices/kiosk",
        "shop-1/devices//notify",
        "shop-1/devices/ä/notify",
        "shop-10/devices/k/n",
    ],
)
def test_other_topics_are_not_ours(topic: str) -> None:
    assert TOPICS.split(topic) is None
