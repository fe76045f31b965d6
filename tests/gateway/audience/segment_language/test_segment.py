"""Segments beyond what they select: the pushes and the presence that they need, and what they cannot say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from gateway.audience.segment_language import grammar, names
from gateway.audience.segment_language.segment import compile_expression, resolve
from gateway.audience.segment_language.syntax_tree import MAX_EXPRESSION_CHARACTERS
from gateway.audience.segment_language.topic_conditions import compile_condition
from gateway.audience.segments import SegmentFields
from gateway.delivery.push import Target
from gateway.errors import InvalidExpression
from gateway.store.audience.device_sets import ALL_TAG, add_to_sets
from gateway.store.segments import evaluation
from gateway.store.segments.evaluation import matching_members
from gateway.store.segments.sql_compiler import compile_question
from gateway.store.transaction import Transaction
from gateway.timestamps import WallTime
from tests.gateway.audience.segment_language.fleet import NOW_MS
from tests.gateway.delivery.machinery import APP_NO, counted_steps, fresh_database
from tests.gateway.in_process import InProcessGateway

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def connection() -> Iterator[Transaction]:
    connection = fresh_database()
    yield connection
    connection.close()


def store_push(connection: Transaction, push_id: str, app_no: int = APP_NO, counts: str | None = None) -> None:
    connection.execute(
        "INSERT INTO push (id, app_no, kind, priority, qos, ttl, target, content, size, accepted_at, expires_at,"
        " targeted, suppressed, final_counts) VALUES (?, ?, 'alert', 2, 1, 60, '{}', '{}', 2, 0, 0, 0, 0, ?)",
        (push_id, app_no, counts),
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("!opened('other')", "there is no push 'other' in this app, or it is not kept any more"),
        ("online || acted('nobody-s')", "there is no push 'nobody-s' in this app, or it is not kept any more"),
        ("opened('mine') && opened('swept')", "the deliveries of this push were removed by retention"),
    ],
)
def test_a_push_of_which_nothing_is_known_is_refused(connection: Transaction, text: str, sentence: str) -> None:
    store_push(connection, "mine")
    store_push(connection, "swept", counts="{}")
    store_push(connection, "other", app_no=APP_NO + 1)
    segment = compile_expression(text)
    with pytest.raises(InvalidExpression) as refused:
        resolve(connection, APP_NO, segment, NOW_MS)
    assert sentence in refused.value.detail
    _, shown, underline = refused.value.detail.split("\n")
    assert shown[underline.index("^") : len(underline)] == f"'{segment.push_ids[-1]}'"


def test_what_a_segment_needs_is_known() -> None:
    assert compile_expression("opened('P1') && !acted('P2') || opened('P1')").push_ids == ("P1", "P2")
    assert not compile_expression("enrolled_at > now - duration('7d')").needs_online
    for text in ("!online", "last_seen > now - duration('7d')", "!has(last_seen) && 'a' in tags"):
        assert compile_expression(text).needs_online


def test_what_somebody_wrote_is_never_a_part_of_the_statement() -> None:
    word = "x'); DROP TABLE device; --"
    text = f'attributes["{word}"] == "{word}" || attributes.a.contains("{word}") || name in ["{word}"]'
    statement = compile_question([compile_expression(text).term])
    assert "DROP" not in statement.sql
    assert word in statement.parameters


@pytest.mark.parametrize("joined", [" || ", " && "])
def test_sixty_conditions_are_not_asked_of_every_device_of_a_small_fleet(connection: Transaction, joined: str) -> None:
    count = evaluation.FEW_DEVICES
    connection.execute(
        "WITH RECURSIVE n(no) AS (SELECT 1 UNION ALL SELECT no + 1 FROM n WHERE no < ?)"
        " INSERT INTO device (no, app_no, id, token_hash, created_at, updated_at)"
        " SELECT no, ?, 'kiosk-' || no, x'', 0, 0 FROM n",
        (count, APP_NO),
    )
    add_to_sets(connection, APP_NO, {ALL_TAG: range(1, count + 1)})
    sign = "==" if joined == " || " else "!="
    segment = compile_expression(joined.join(f"attributes.a{number} {sign} 1" for number in range(60)))
    with counted_steps(connection) as steps:
        found = resolve(connection, APP_NO, segment, NOW_MS)
    assert len(found) == (0 if joined == " || " else count)
    assert steps[0] < 50 * count, "of one condition at most, which takes that many"


async def test_devices_are_found_by_what_was_said_of_them_last(gateway: InProcessGateway) -> None:
    async def selected(text: str) -> set[str]:
        def read(connection: Transaction) -> set[str]:
            devices = resolve(connection, APP_NO, compile_expression(text), NOW_MS)
            return {
                device_id
                for no in devices
                for (device_id,) in connection.execute("SELECT id FROM device WHERE no = ?", (no,))
            }

        return await gateway.database.read(read, APP_NO)

    for device_id, model in (("a", "K1"), ("b", "K2"), ("c", "K2")):
        device = {"device_id": device_id, "attributes": {"model": model}}
        await gateway.call("POST", "/v1/devices", 201, json=device)
    assert await selected("attributes.model == 'K2'") == {"b", "c"}
    await gateway.call("PATCH", "/v1/devices/a", 200, json={"attributes": {"model": "K2", "floor": 3}})
    await gateway.call("PATCH", "/v1/devices/b", 200, json={"attributes": {"model": None}})
    assert await selected("attributes.model == 'K2'") == {"a", "c"}
    assert await selected("!has(attributes.model) || attributes.floor > 2") == {"a", "b"}
    await gateway.call("DELETE", "/v1/devices/c", 204)
    assert await selected("attributes.model == 'K2'") == {"a"}


def test_times_are_those_on_the_wall(connection: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger has server time, which a clock that was set later is an hour ahead of."""
    hour_ms = 3_600_000
    clock = WallTime()
    clock.set_offsets([(0, hour_ms)])
    monkeypatch.setattr(evaluation, "wall_time", clock)
    connection.executemany(
        "INSERT INTO device (no, app_no, id, token_hash, created_at, updated_at, last_seen)"
        f" VALUES (?1, {APP_NO}, ?1, x'', 0, 0, ?2)",
        [(1, NOW_MS - hour_ms - 1_000), (2, NOW_MS - 2 * hour_ms - 1_000)],
    )
    add_to_sets(connection, APP_NO, {ALL_TAG: [1, 2]})
    for text in ("last_seen > now - duration('1h')", "last_seen > timestamp('2027-01-15T07:00:00Z')"):
        assert list(resolve(connection, APP_NO, compile_expression(text), NOW_MS)) == [1]


def test_the_length_of_expressions_is_that_of_the_api() -> None:
    longest = "x" * MAX_EXPRESSION_CHARACTERS
    assert len(longest) == 4_096, "as the descriptions of the fields say"
    for model, field in ((Target, "where"), (Target, "condition"), (SegmentFields, "expression")):
        model.model_validate({field: longest})
        with pytest.raises(ValidationError, match="at most 4096 characters"):
            model.model_validate({field: longest + "x"})


def test_a_long_expression_is_parsed_in_parts_between_which_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(grammar, "time", SimpleNamespace(sleep=pauses.append))
    compile_expression("id in [" + ",".join(["'x'"] * 240) + "]")
    assert pauses == [0] * 4


def test_the_page_has_all_names() -> None:
    page = (ROOT / "docs" / "segments.md").read_text()
    examples = {**names.FIELDS, **names.FUNCTIONS, **names.METHODS}
    assert [name for name in examples if f"`{name}`" not in page and f"`{examples[name]}`" not in page] == []


# -- conditions --------------------------------------------------------------------------------------------------------


def test_a_condition_is_evaluated_with_sets(connection: Transaction) -> None:
    add_to_sets(
        connection, APP_NO, {ALL_TAG: range(1, 200_001), "/news": range(1, 200_001, 2), "/sport": [2, 3, 70_000]}
    )
    add_to_sets(connection, APP_NO, {"news": [4]})  # a tag
    add_to_sets(connection, APP_NO + 1, {ALL_TAG: [300_000], "/sport": [300_000]})

    def selected(text: str) -> list[int]:
        return list(matching_members(connection, APP_NO, compile_condition(text).term))

    assert selected("'sport' in topics") == [2, 3, 70_000]
    assert selected("'sport' in topics && !('news' in topics)") == [2, 70_000]
    assert selected("'news' in topics && 'sport' in topics || 'nothing' in topics") == [3]
    assert len(selected("!('news' in topics)")) == 100_000
    assert selected("'nothing' in topics") == []


def test_a_condition_costs_no_step_for_each_device(connection: Transaction) -> None:
    add_to_sets(connection, APP_NO, {ALL_TAG: range(1, 200_001), "/news": range(1, 200_001, 2)})
    condition = compile_condition("!('news' in topics && ('a' in topics || 'b' in topics))")
    with counted_steps(connection) as steps:
        assert len(matching_members(connection, APP_NO, condition.term)) == 200_000
    assert steps[0] < 1_000


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("'a' in tags", "a condition is about topics only"),
        ("'a' in topics && online", "a condition is about topics only"),
        (
            " || ".join(f"'t{number}' in topics" for number in range(6)),
            "a condition has at most 5 topics, and this has 6",
        ),
        ("'a' in topcs", "did you mean 'topics'"),
        ("'a' in topics &&", "something is missing at the end"),
    ],
)
def test_a_condition_has_topics_only(text: str, sentence: str) -> None:
    with pytest.raises(InvalidExpression, match=sentence):
        compile_condition(text)


def test_a_topic_counts_once() -> None:
    text = " || ".join(f"'t{number % 5}' in topics" for number in range(20))
    assert compile_condition(text).topics == ("t0", "t1", "t2", "t3", "t4")
