from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.delivery.push import IDLE_PUSHES, PUSH_ID_CHARACTERS, ActivePush, ActivePushes, PushRequest, wire_size
from gateway.delivery_states import PRIORITIES
from gateway.errors import Problem


def request(**fields: Any) -> PushRequest:
    return PushRequest.model_validate({"target": {"all": True}, **fields})


def active(no: int = 1, **fields: Any) -> ActivePush:
    facts: dict[str, Any] = {
        "push_id": "abc",
        "kind": "alert",
        "priority": 2,
        "qos": 1,
        "ttl": 60,
        "collapse_key": None,
        "channel": None,
        "content": "{}",
        "accepted_at": 1_800_000_000_000,
        "expires_at": 1_800_000_060_000,
        **fields,
    }
    return ActivePush(no=no, app_no=1, **facts)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"target": {}},
        {"target": {"device": "a", "all": True}},
        {"target": {"all": False}},
        {"target": {"device": "a/b"}},
        {"target": {"device": "a\n"}},
        {"target": {"device": ""}},
        {"target": {"device": "x" * 65}},
        {"target": {"device": None}},
        {"target": {"devices": []}},
        {"target": {"devices": ["a"] * 10_001}},
        {"ttl": -1},
        {"ttl": 31_536_001},
        {"ttl": 1.5},
        {"ttl": "60"},
        {"ttl": True},
        {"qos": 3},
        {"priority": "urgent"},
        {"kind": "alert"},
        {"kind": "in_app"},
        {"kind": "letter"},
        {"notification": {}},
        {"notification": {"title": "a", "colour": "red"}},
        {"notification": {"title": "a", "actions": [{"id": "x", "title": "1"}, {"id": "x", "title": "2"}]}},
        {"notification": {"title": "a", "actions": [{"id": "two words", "title": "1"}]}},
        {"notification": {"title": "a", "actions": "video"}},
        {"deadline": 5},
        {"kind": "command", "deadline": 0},
        {"kind": "command", "deadline": 86_401},
        {"kind": "alert", "notification": {"title": "x"}, "signed": "a.b.c"},
        {"kind": "in_app", "notification": {"title": "x"}, "encrypted": "a.b.c.d.e"},
        {"kind": "command", "signed": "a.b.c", "encrypted": "a.b.c.d.e"},
        {"kind": "command", "signed": "a.b"},
        {"kind": "command", "signed": "a.b.c.d"},
        {"kind": "command", "signed": 'a.b."'},
        {"kind": "command", "signed": ""},
        {"kind": "command", "encrypted": "a.b.c"},
        {"kind": "command", "signed": {"payload": "x"}},
        {"collapse_key": ""},
        {"collapse_key": "a\x00b"},
        {"send_at": "2026-12-01T09:00:00"},
        {"send_at": "tomorrow"},
        {"colour": "red"},
    ],
)
def test_bad_requests_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PushRequest.model_validate_json(
            json.dumps(body if "target" in body or not body else {"target": {"all": True}, **body})
        )


def test_kind_defaults_to_what_it_carries() -> None:
    assert request().kind == "silent"
    assert request(notification={"title": "Hello"}).kind == "alert"
    assert request(kind="command", data={"do": "reboot"}).kind == "command"


@pytest.mark.parametrize("data", [float("nan"), float("inf"), "\ud800", {"a": [float("nan")]}])
def test_what_cannot_be_json_in_utf8_is_refused(data: Any) -> None:
    with pytest.raises(Problem) as refusal:
        request(data=data).content()
    assert refusal.value.code == "invalid_request"


def test_the_wire_body_is_the_contract_and_leaves_absent_fields_out() -> None:
    push = active(content='{"notification":{"title":"Grüße"},"data":[1]}', channel="offers", collapse_key='k"ü')
    assert json.loads(push.body(1_800_000_000_001).payload) == {
        "v": 1,
        "push_id": "abc",
        "kind": "alert",
        "sent_at": "2027-01-15T08:00:00.000Z",
        "expires_in": 60,
        "priority": "normal",
        "notification": {"title": "Grüße"},
        "data": [1],
        "channel": "offers",
        "collapse_key": 'k"ü',
    }
    assert json.loads(active().body(1_800_000_000_000).payload).keys() == {
        "v",
        "push_id",
        "kind",
        "sent_at",
        "expires_in",
        "priority",
    }


def test_mqtt5_properties_say_the_same() -> None:
    body = active(channel="offers").body(1_800_000_000_000)
    assert body.properties is not None
    assert body.properties.content_type == "application/json"
    assert ("push_id", "abc") in body.properties.user_properties
    assert ("channel", "offers") in body.properties.user_properties
    assert body.expires_at == 1_800_000_060.0


def test_a_body_is_shared_within_a_second_and_never_says_zero_for_a_living_push() -> None:
    push = active()
    assert push.body(1_800_000_000_100) is push.body(1_800_000_000_900)
    assert json.loads(push.body(1_800_000_059_999).payload)["expires_in"] == 1
    assert json.loads(push.body(1_799_999_999_500).payload)["expires_in"] == 60, "accepted by a clock that is ahead"
    now_or_never = active(ttl=0, expires_at=1_800_000_000_000)
    body = now_or_never.body(1_800_000_000_005)
    assert json.loads(body.payload)["expires_in"] == 0
    assert body.expires_at is None


@given(
    ttl=st.integers(0, 31_536_000),
    elapsed=st.integers(0, 31_536_000_000),
    kind=st.sampled_from(["silent", "command"]),
    priority=st.sampled_from(PRIORITIES),
    channel=st.none() | st.just("offers"),
    collapse_key=st.none() | st.sampled_from(["k", 'k"ü\\']),
    data=st.none() | st.text(max_size=20),
    title=st.none() | st.text(min_size=1, max_size=20),
)
def test_no_body_is_larger_than_what_was_counted(
    ttl: int, elapsed: int, title: str | None, data: str | None, priority: str, **fields: Any
) -> None:
    if title is not None:
        fields["notification"] = {"title": title}
    if data is not None:
        fields["data"] = data
    asked = request(ttl=ttl, priority=priority, **fields)
    content = asked.content()
    start = 1_800_000_000_000
    push = ActivePush(
        no=1,
        app_no=1,
        push_id="x" * PUSH_ID_CHARACTERS,
        kind=asked.kind or "",
        priority=PRIORITIES.index(asked.priority),
        qos=1,
        ttl=ttl,
        collapse_key=asked.collapse_key,
        channel=asked.channel,
        content=content,
        accepted_at=start,
        expires_at=start + ttl * 1000,
    )
    counted = wire_size(asked, content)
    assert len(push.body(start).payload) == counted
    assert len(push.body(start + elapsed).payload) <= counted


def test_pushes_at_rest_are_bounded_and_those_in_flight_are_kept() -> None:
    pushes = ActivePushes()
    flying = pushes.add(active(1))
    flying.sent.add(7)
    for no in range(2, IDLE_PUSHES + 100):
        pushes.add(active(no))
    assert pushes.get(1) is flying
    assert pushes.get(2) is None
    assert len(pushes) <= IDLE_PUSHES + 1
    pushes.clear_sent(flying, [7])
    assert pushes.get(1) is flying
    assert pushes.in_flight() == 0


@pytest.mark.parametrize(
    ("name", "ids"),
    [("media", ["play", "pause", "next"]), ("consent", ["consent.granted", "consent.denied"])],
)
def test_a_ready_set_of_actions(name: str, ids: list[str]) -> None:
    sent = request(notification={"title": "a", "actions": name})
    actions = json.loads(sent.content())["notification"]["actions"]
    assert [action["id"] for action in actions] == ids
    assert all(set(action) == {"id", "title"} for action in actions)


def test_an_action_with_everything() -> None:
    action = {"id": "later", "title": "Later", "icon": "https://x/i.png", "url": "https://x", "command": "snooze"}
    action["input"] = "How long?"
    sent = request(notification={"title": "a", "actions": [action]})
    assert json.loads(sent.content())["notification"]["actions"] == [action]


def test_what_is_signed_and_encrypted_is_passed_on_as_it_is() -> None:
    assert json.loads(request(kind="command", signed="a.b-_.c", data=1).content()) == {"data": 1, "signed": "a.b-_.c"}
    assert json.loads(request(kind="silent", encrypted="a.b.c.d.e").content()) == {"encrypted": "a.b.c.d.e"}
    both = request(kind="command", signed="a.b.c", deadline=5)
    assert json.loads(both.content()) == {"deadline": 5, "signed": "a.b.c"}


def test_a_deadline_is_for_commands() -> None:
    assert json.loads(request(kind="command", deadline=5).content()) == {"deadline": 5}
    assert json.loads(request(kind="command", deadline=5, data=1).content()) == {"data": 1, "deadline": 5}


@pytest.mark.parametrize("where", ["image", "attachment"])
def test_what_a_device_fetches_has_a_whole_address(where: str) -> None:
    def parse(url: str) -> PushRequest:
        found = url if where == "image" else {"url": url}
        return PushRequest.model_validate({"target": {"device": "d"}, "notification": {"title": "T", where: found}})

    for url in ("https://example.org/menu.png", "attachment:" + "0" * 64, "data:image/png;base64,AA=="):
        parse(url)
    for url in ("menu.png", "/menu.png", "", "example.org/menu.png", "://x"):
        with pytest.raises(ValidationError, match="must be a whole address"):
            parse(url)
