"""Discovery messages, by what Home Assistant's documentation asks of them."""

from __future__ import annotations

import json
from typing import Any

from gateway.cli.bridge.home_assistant import discovery_message, discovery_topic, platforms
from gateway.cli.bridge.topics import BridgeTopics
from tests.gateway.cli.bridge.fakes import device

TOPICS = BridgeTopics("fleetpush")
REQUIRED = {
    "binary_sensor": {"state_topic", "payload_on", "payload_off", "device_class"},
    "sensor": {"state_topic", "value_template"},
    "notify": {"command_topic"},
    "button": {"command_topic", "payload_press", "availability", "availability_mode"},
}
"""What an entity of each platform has, besides its platform, name and unique id."""


def message(found: Any, announced: dict[str, str] | None = None) -> Any:
    return json.loads(discovery_message(TOPICS, found, announced or {}))


def test_a_device_is_announced_with_all_its_entities() -> None:
    told = message(device())
    assert discovery_topic("homeassistant", TOPICS, "kiosk-1") == "homeassistant/device/fleetpush_kiosk-1/config"
    assert told["dev"]["ids"] == ["fleetpush_kiosk-1"]
    assert (told["dev"]["name"], told["dev"]["sw"]) == ("Lobby", "2.3")
    assert told["o"]["name"]
    assert told["availability"] == [{"topic": "fleetpush/status"}]
    entities = told["cmps"]
    assert {*entities} == {"connectivity", "battery", "version", "result", "notify", "command_reboot"}
    for entity in entities.values():
        assert REQUIRED[entity["p"]] <= entity.keys()
        assert entity["name"]
    assert len({entity["unique_id"] for entity in entities.values()}) == len(entities)
    assert entities["battery"]["device_class"] == "battery"
    assert entities["battery"]["unit_of_measurement"] == "%"
    assert entities["connectivity"]["device_class"] == "connectivity"
    button = entities["command_reboot"]
    assert button["command_topic"] == "fleetpush/devices/kiosk-1/command/reboot"
    assert button["availability_mode"] == "all", "a device that is away cannot be told to do something now"
    assert [where["topic"] for where in button["availability"]] == [
        "fleetpush/status",
        "fleetpush/devices/kiosk-1/connectivity",
    ]
    assert "availability" not in entities["notify"], "the mailbox of a device that is away takes it"
    assert entities["notify"]["retain"] is False


def test_what_is_not_known_or_not_allowed_has_no_entity() -> None:
    assert platforms(device(battery=None, version=None, commands=(), notify=False)) == {"connectivity": "binary_sensor"}


def test_an_entity_that_is_gone_is_named_once_more_with_its_platform() -> None:
    before = platforms(device(commands=("reboot", "identify")))
    told = message(device(battery=None), before)
    assert told["cmps"]["command_identify"] == {"p": "button"}
    assert told["cmps"]["battery"] == {"p": "sensor"}
    assert "command_identify" not in message(device(), platforms(device()))["cmps"]


def test_texts_of_others_are_values_and_no_templates() -> None:
    hostile = device(name='{{ states("x") }}', version='"}{% raw')
    told = message(hostile)
    assert told["dev"]["name"] == '{{ states("x") }}'
    templates = [entity["value_template"] for entity in told["cmps"].values() if "value_template" in entity]
    assert {*templates} == {"{{ value_json.battery }}", "{{ value_json.version }}", "{{ value_json.state }}"}
