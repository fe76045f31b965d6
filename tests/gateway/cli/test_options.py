"""How times, values and changes are said on the command line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer

from gateway.cli.options import (
    changes,
    hours_of,
    json_of,
    name_and_value,
    name_and_version,
    seconds_of,
    time_ahead,
    time_of,
    value_of,
)


def test_durations() -> None:
    assert [seconds_of(text) for text in ("0", "90", "90s", "10m", "8h", "2d")] == [0, 90, 90, 600, 28_800, 172_800]


def test_times_are_ago_or_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    two_days_ago = datetime.now(UTC) - timedelta(days=2)
    assert abs(datetime.fromisoformat(time_of("2d", "--since")) - two_days_ago) < timedelta(minutes=1)
    for text in ("2026-12-01T08:00:00Z", "2026-12-01T09:00+01:00"):
        assert datetime.fromisoformat(time_of(text, "--since")) == datetime(2026, 12, 1, 8, tzinfo=UTC)
    local = datetime.fromisoformat(time_of("2026-12-01", "--since"))
    assert local == datetime(2026, 12, 1).astimezone()
    assert local.tzinfo is not None, "the API wants an offset"


def test_values_are_json_where_nothing_is_lost() -> None:
    values = {"81": 81, "-1.5": -1.5, "true": True, "null": None, '["a"]': ["a"], '"81"': "81", '{"a": 1}': {"a": 1}}
    assert {text: value_of(text) for text in values} == values
    as_they_are = ("1.10", "007", "+49", "NaN", "Infinity", "1e5", "2.3.1", "[", "", "[" * 100_000)
    assert [value_of(text) for text in as_they_are] == list(as_they_are)
    assert name_and_value("note=a=b") == ("note", "a=b")


def test_a_version_is_a_text_whatever_it_looks_like() -> None:
    versions = {"version=2.3": "2.3", "version=2": "2", "app_Version=2.2.9": "2.2.9", "version=null": None}
    assert {text: name_and_value(text)[1] for text in versions} == versions
    assert name_and_value("versions=2.3") == ("versions", 2.3)


def test_a_time_ahead_is_a_distance_or_a_time() -> None:
    in_two_days = datetime.now(UTC) + timedelta(days=2)
    assert abs(datetime.fromisoformat(time_ahead("2d", "--at")) - in_two_days) < timedelta(minutes=1)
    assert datetime.fromisoformat(time_ahead("2026-12-01T08:00Z", "--at")) == datetime(2026, 12, 1, 8, tzinfo=UTC)


def test_a_template_may_have_its_version() -> None:
    assert name_and_version("lunch", "--template") == ("lunch", None)
    assert name_and_version("lunch@3", "--template") == ("lunch", 3)


def test_changes_are_a_merge_patch() -> None:
    assert changes({"name": "Till", "tags": None}, ["locale"], ("name", "locale")) == {"name": "Till", "locale": None}
    assert hours_of("22:00-07:00") == {"start": "22:00", "end": "07:00"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: seconds_of("soon"), "--ttl 'soon': seconds, or"),
        (lambda: time_of("yesterday", "--from"), "--from 'yesterday': "),
        (lambda: time_of("99999999d", "--from"), "--from '99999999d': "),
        (lambda: time_ahead("09:00", "--at"), "--at '09:00': in 90s, 10m, 8h or 2d, or a time such as 2026-"),
        (lambda: name_and_version("lunch@new", "TEMPLATE"), "TEMPLATE 'lunch@new': write NAME or NAME@VERSION"),
        (lambda: time_of("7", "--from"), "--from '7': "),
        (lambda: json_of("{", "--data"), "--data is not JSON"),
        (lambda: json_of("NaN", "--data"), "--data is not JSON"),
        (lambda: json_of("[" * 100_000, "--data"), "--data is not JSON"),
        (lambda: name_and_value("battery"), "--attribute 'battery': write NAME=VALUE"),
        (lambda: hours_of("10pm"), "--quiet-hours '10pm': write it as 22:00-07:00"),
        (lambda: changes({"name": None}, None, ("name",)), "nothing to change"),
        (lambda: changes({"name": "x"}, ["name"], ("name",)), "name is given and cleared"),
        (lambda: changes({}, ["id"], ("name", "tags")), "--clear 'id': one of name, tags"),
    ],
)
def test_what_cannot_be_meant_is_wrong_use(
    wrong: Callable[[], Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        wrong()
    assert ended.value.exit_code == 2
    assert says in capsys.readouterr().err
