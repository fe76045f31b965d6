from __future__ import annotations

from typing import Any

import pytest

from gateway.content import documents
from gateway.content.documents import NOTHING, Document, DocumentFault, MissingText, compile_document


def rendered(document: Document, *texts: str, **device: Any) -> tuple[Any, Any, list[MissingText]]:
    steps = document.render(texts, device)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: tuple[Any, Any, list[MissingText]] = end.value
            return found


async def test_only_strings_are_templates_and_their_results_are_values() -> None:
    hostile = '", "admin": true, "x": "\n\x00 {{ device.id }} {% raw %}'
    document = await compile_document(
        notification={"title": "{{ device.name }}", "actions": [{"id": "a", "title": "{{ device.name }}"}]},
        data={"{{ device.name }}": ["{{ device.name }}", 7, None, {"deep": "{{ data.n }}"}], "n": 1},
        is_liquid=True,
    )
    notification, data, missing = rendered(document, name=hostile)
    assert notification == {"title": hostile, "actions": [{"id": "a", "title": hostile}]}
    assert data == {"{{ device.name }}": [hostile, 7, None, {"deep": "1"}], "n": 1}
    assert not missing


async def test_what_is_no_template_stays_as_it_is() -> None:
    document = await compile_document(notification={"title": "{{ device.name }} {%"}, data="{{", is_liquid=False)
    assert rendered(document) == ({"title": "{{ device.name }} {%"}, "{{", [])


async def test_a_document_is_put_over_another() -> None:
    below = await compile_document(
        notification={"title": "{{ values.a }}", "body": "below"},
        texts={"de": {"title": "unten"}, "fr": {"title": "dessous"}},
        data={"from": "below"},
        values={"a": 1, "b": 1},
        is_liquid=True,
    )
    own = await compile_document(
        notification={"body": "{{ as it is }}"}, texts={"de": {"title": "oben"}}, values={"a": 2}, is_liquid=False
    )
    merged = own.over(below)
    assert rendered(merged) == ({"title": "2", "body": "{{ as it is }}"}, {"from": "below"}, [])
    assert rendered(merged, "de")[0] == {"title": "oben", "body": "{{ as it is }}"}
    assert rendered(merged, "fr")[0] == {"title": "dessous", "body": "{{ as it is }}"}
    nothing = await compile_document(data=None, is_liquid=False)
    assert rendered(nothing.over(below))[1] is None
    assert (await compile_document(is_liquid=False)).data is NOTHING


async def test_texts_by_locale_replace_member_by_member() -> None:
    document = await compile_document(
        notification={"title": "Hello", "url": "https://x", "actions": [{"id": "a", "title": "Yes"}]},
        texts={"de": {"title": "Hallo", "actions": {"a": "Ja"}}, "de-AT": {"title": "Servus"}},
        is_liquid=False,
    )
    assert rendered(document, "de-AT", "de")[0] == {
        "title": "Servus",
        "url": "https://x",
        "actions": [{"id": "a", "title": "Ja"}],
    }
    assert rendered(document)[0]["actions"] == [{"id": "a", "title": "Yes"}]


async def test_everything_that_is_missing_is_said_with_its_place() -> None:
    document = await compile_document(
        notification={"title": "{{ device.name }}", "body": "{{ values.dish }} {{ device.attributes.floor }}"},
        data=["{{ data.x }}"],
        values={"dish": None},  # null is as good as nothing
        is_liquid=True,
    )
    assert rendered(document, attributes={})[2] == [
        ("device.name", "notification.title"),
        ("values.dish", "notification.body"),
        ("data.x", "data.0"),
    ]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ user.name }}", "notification.title: there is no variable 'user'; there are device, data, values"),
        ("{{ device.nmae }}", "notification.title: device.nmae cannot be read; there are device.id"),
        ("{{ device }}", "notification.title: device cannot be read"),
        ("{% for x in device %}{% endfor %}", "device cannot be read"),
        ("{{ device.name | shout }}", "notification.title: there is no filter"),
    ],
)
async def test_a_template_that_reads_what_never_is_is_refused_when_it_is_saved(source: str, why: str) -> None:
    with pytest.raises(DocumentFault, match=why):
        await compile_document(notification={"title": source}, is_liquid=True)


async def test_all_templates_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SOURCE_CHARACTERS", 30)
    await compile_document(data=["{{ device.name }}", "x" * 100], is_liquid=True)
    with pytest.raises(DocumentFault, match="more than 30 characters"):
        await compile_document(data=["{{ device.name }}", "{{ device.id }}"], is_liquid=True)


async def test_parsed_templates_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = documents._ParsedTemplates()
    monkeypatch.setattr(documents, "PARSED_CHARACTERS", 40)
    first = kept.get("{{ device.name }}")
    assert kept.get("{{ device.name }}") is first
    kept.get("{{ device.id }}")
    kept.get("{{ device.locale }}")
    assert kept.get("{{ device.name }}") is not first
    assert kept._characters == sum(map(len, kept._kept)) <= 40


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("{{ device.attributes.floor }}{{ device.attributes.floor.x }}", {("attributes", "floor")}),
        ("{{ device.attributes.a[0].b }}", {("attributes", "a", 0, "b")}),
        ("{{ device.attributes.list.size }}", {("attributes", "list")}),
        ("{{ device.attributes[data.key] }}{{ device.attributes.x }}", {("attributes",)}),
        ("{{ device.attributes.a[-1] }}", {("attributes", "a")}),
        ("{{ device.attributes['a\"b'] }}", {("attributes",)}),
        ("{{ device.tags[0] }}{{ device.name.size }}", {("tags",), ("name",)}),
        ("{{ data.x }}{{ values.y }}", set()),
    ],
)
async def test_a_device_is_read_as_far_as_its_templates_do(source: str, read: set[tuple[Any, ...]]) -> None:
    document = await compile_document(data=source, is_liquid=True)
    assert set(document.device_variables()) == read
