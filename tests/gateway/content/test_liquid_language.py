from __future__ import annotations

from typing import Any

import pytest

from gateway.content import liquid_language
from gateway.content.liquid_language import LiquidText, MissingVariable, TemplateFault

DEVICE = {
    "name": "Entrance",
    "attributes": {"floor": 3, "long": "x" * 16_000, "words": ["a", "b"]},
    "tags": ["lobby", "vip"],
}


def render(source: str) -> str:
    return LiquidText(source).render(
        {"device": DEVICE, "data": {"at": 1_700_000_000, "lists": [[1] * 100] * 100}, "values": {}}
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Hello {{ device.name }}", "Hello Entrance"),
        ("{{ device.attributes.floor | plus: 1 }}", "4"),
        ("{{ device.tags | join: ', ' }}", "lobby, vip"),
        ("{% for tag in device.tags %}{{ forloop.index }}:{{ tag }} {% endfor %}", "1:lobby 2:vip "),
        ("{% if device.tags contains 'vip' %}yes{% endif %}", "yes"),
        ("{% case device.attributes.floor %}{% when 3 %}third{% else %}other{% endcase %}", "third"),
        ("{% raw %}{{ device.name }}{% endraw %}", "{{ device.name }}"),
        ("{{ data.at | date: '%Y-%m-%d %H:%M' }}", "2023-11-14 22:13"),
        ("{{ '2 March 2026 12:00' | date: '%F' }}{{ 'soon' | date: '%F' }}", "2026-03-02soon"),
        ("{{ device['name'] }} {{ device.tags.size }} {{ device.tags.first }}", "Entrance 2 lobby"),
        # What is missing may be asked about, and given another value; nothing else.
        ("{% if device.room %}{{ device.room }}{% else %}no room{% endif %}", "no room"),
        ("{% unless device.room %}no room{% endunless %}", "no room"),
        ("{% if device.room == nil %}nil{% endif %}{% if device.room != 'a' %} not a{% endif %}", "nil not a"),
        ("{{ device.room | default: 'no room' }}", "no room"),
        ("{% assign room = device.room | default: 'none' %}{{ room }}", "none"),
    ],
)
def test_a_template_is_rendered(source: str, text: str) -> None:
    assert render(source) == text


@pytest.mark.parametrize(
    ("source", "variable"),
    [
        ("{{ device.room }}", "device.room"),
        ("{{ device.attributes.a.b }}", "device.attributes.a.b"),
        ("{{ device.attributes.words[7] }}", "device.attributes.words[7]"),
        ("{{ device.room | upcase }}", "device.room"),
        ("{% for a in device.room %}{% endfor %}", "device.room"),
        ("{% assign room = device.room %}{{ room }}", "device.room"),
    ],
)
def test_what_is_missing_is_never_blank(source: str, variable: str) -> None:
    with pytest.raises(MissingVariable) as missing:
        render(source)
    assert missing.value.variable == variable


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ device.name", "expected '}}'"),
        ("{% if device.name %}", "expected tag endif"),
        ("{{ device.name | shout }}", "no filter 'shout'; there are abs"),
        ("{% include 'secret' %}", "unexpected tag"),
        ("{% render 'secret' %}", "unexpected tag"),
        ("{{ 'now' | date: '%Y' }}", "does not know the time"),
        ("{{ '12:00' | date: '%Y' }}", "which day it is"),
        ("{{ 'Monday' | date: '%F' }}", "which day it is"),
        ("{{ 'March 2026' | date: '%F' }}", "which day it is"),
        ("{{ 1 | divided_by: 0 }}", "divide by 0"),
        ("{{" + "a[" * 1_000 + "a" + "]" * 1_000 + "}}", "parsing error"),
        ("x" * 4_097, "at most 4096"),
        # What could make much of little.
        ("{% for i in (1..1000000000) reversed %}{% endfor %}", "ranges"),
        ("{{ (1..1000000000) | join }}", "ranges"),
        ("{{ device.attributes.long | replace: 'x', device.attributes.long }}", "too much"),
        ("{{ 'a'" + " | replace: 'a', 'aaaaaaaaaa'" * 30 + " }}", "too much"),
        ("{{ device.attributes.long | split: '' | uniq | size }}", "more than 1000 items"),
        ("{{ 5 | round: 1000000000 }}", "up to 15"),
        ("{% assign n = 99 %}" + "{% assign n = n | times: n %}" * 20, "too large"),
        ("{% for a in device.attributes.words %}" * 12 + "{% endfor %}" * 12, "loop iteration limit"),
        ("{% for a in device.attributes.words %}" * 9 + "x" * 900 + "{% endfor %}" * 9, "too much"),
        ("{% capture c %}{{ device.attributes.long }}{% endcapture %}" * 20, "too much"),
        ("{{ device.attributes.long }}" * 20, "output stream limit"),
        # Comparing is work, too.
        ("{% if device.attributes.long contains 'y' %}{% endif %}" * 60, "too much"),
        ("{% if data.lists == data.lists %}{% endif %}" * 60, "too much"),
    ],
)
def test_a_template_that_cannot_be_rendered_says_why(source: str, why: str) -> None:
    with pytest.raises(TemplateFault, match=why.replace("(", r"\(")):
        render(source)


def test_no_filter_is_without_a_bound() -> None:
    """Each is counted; a new version of python-liquid with a new filter is looked at first."""
    known = {
        "abs", "append", "at_least", "at_most", "base64_decode", "base64_encode", "base64_url_safe_decode",
        "base64_url_safe_encode", "capitalize", "ceil", "compact", "concat", "date", "default", "divided_by",
        "downcase", "escape", "escape_once", "find", "find_index", "first", "floor", "has", "join", "last", "lstrip",
        "map", "minus", "modulo", "newline_to_br", "plus", "prepend", "reject", "remove", "remove_first",
        "remove_last", "replace", "replace_first", "replace_last", "reverse", "round", "rstrip", "size", "slice",
        "sort", "sort_natural", "split", "squish", "strip", "strip_newlines", "sum", "times", "truncate",
        "truncatewords", "uniq", "upcase", "url_decode", "url_encode", "where",
    }  # fmt: skip
    assert known == liquid_language.FILTER_NAMES
    assert {
        *("#", "assign", "break", "capture", "case", "comment", "continue", "cycle", "echo", "for", "if", "unless"),
        *("content", "illegal", "output"),
    } == liquid_language.TAG_NAMES


def test_a_rendering_starts_with_all_of_its_work() -> None:
    text = LiquidText("{{ device.attributes.long | upcase | size }}")
    for _ in range(20):
        assert text.render({"device": DEVICE}) == "16000"


@pytest.mark.parametrize(
    ("source", "variables"),
    [
        ("plain", ()),
        ("{{ device.name }} {{ device.name }}", (("device", "name"),)),
        ("{{ device.attributes[data.key].a }}", (("device", "attributes", None, "a"), ("data", "key"))),
        ("{% assign d = device %}{{ d.name }}", (("device",),)),
        ("{% for tag in device.tags %}{{ tag }}{{ forloop.index }}{% endfor %}", (("device", "tags"),)),
    ],
)
def test_what_a_template_reads_is_known_before(source: str, variables: tuple[Any, ...]) -> None:
    assert LiquidText(source).variables == variables


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("{% if device.tags contains 'vip' or device.tags contains 'b' %}x{% endif %}", {"vip", "b"}),
        ("{% unless device.name %}{% if device['tags'] contains 'vip' %}x{% endif %}{% endunless %}", {"vip"}),
        ("{{ device.name }}", set()),
        ("{% if device.tags contains data.tag %}x{% endif %}", None),
        ("{% if device.tags contains 'vip' %}{{ device.tags | join: ' ' }}{% endif %}", None),
        ("{% assign t = device.tags %}{% if t contains 'vip' %}x{% endif %}", None),
        ("{% if device.tags.first contains 'vip' %}x{% endif %}", None),
    ],
)
def test_tags_that_are_asked_for_are_known_one_by_one(source: str, asked: set[str] | None) -> None:
    assert LiquidText(source).asked_tags == asked
