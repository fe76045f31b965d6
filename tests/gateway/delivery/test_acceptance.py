from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pyroaring import BitMap

from gateway.delivery import acceptance as acceptance_module
from gateway.delivery.acceptance import (
    CONSIDERATE_MS,
    CONSIDERATE_PUSHES,
    PREPARATION_REST_FACTOR,
    PREPARED_PUSHES_OF_APP,
)
from gateway.delivery.acceptance_queue import BATCH_PUSHES
from gateway.delivery.submission import AcceptedPush, PendingPush
from gateway.errors import Problem, problem
from gateway.store.deliveries.ledger_statements import supersede_rows
from gateway.store.errors import StorageFull
from gateway.store.transaction import Transaction
from tests.gateway.delivery.machinery import counted_steps
from tests.gateway.delivery.world import APP, World


def test_a_push_is_on_disk_when_it_is_answered(world: World) -> None:
    task = world.loop.create_task(world.acceptance.accept(APP, world.request({"all": True})))
    world.loop.run_until_complete(asyncio.sleep(0))
    world.timers.turn()
    world.loop.run_until_complete(asyncio.sleep(0))
    assert not task.done()
    world.writer.commit_group()
    assert not task.done()
    assert world.row("SELECT count(*) FROM whole_delivery") == (3,)
    world.writer.call_back()
    world.loop.run_until_complete(asyncio.sleep(0))
    assert json.loads(f"{{{task.result().members()}}}") == {
        "push_id": task.result().push_id,
        "targeted": 3,
        "suppressed": 0,
        "unknown": [],
    }


def test_duplicates_count_once_and_unknown_ones_are_listed(world: World) -> None:
    accepted = world.push({"devices": ["d2", "d1", "d2", "nobody"]})
    assert (accepted.targeted, accepted.unknown) == (2, ("nobody",))


@pytest.mark.parametrize("target", [{"device": "nobody"}, {"devices": ["nobody", "noone"]}])
def test_nobody_known_is_404_and_leaves_nothing(world: World, target: dict[str, object]) -> None:
    with pytest.raises(Problem) as refusal:
        world.push(target)
    assert refusal.value.code == "device_not_found"
    assert world.row("SELECT count(*) FROM push") == (0,)


def test_a_tag_that_matches_nobody_is_accepted_with_nobody(world: World) -> None:
    assert world.push({"tag": "empty"}).targeted == 0


def test_a_payload_over_the_limit_is_refused(world: World) -> None:
    world.push(data="x" * 3800)
    with pytest.raises(Problem) as refusal:
        world.push(data="x" * 4096)
    assert refusal.value.code == "payload_too_large"


def test_a_full_disk_refuses_before_acceptance(world: World) -> None:
    world.storage_left = False
    with pytest.raises(Problem) as refusal:
        world.push()
    assert refusal.value.code == "storage_full"
    assert world.row("SELECT count(*) FROM push") == (0,)


def test_a_full_mailbox_evicts_the_oldest_of_the_lowest_priority(world: World) -> None:
    low_old = world.push(priority="low").push_id
    low_new = world.push(priority="low").push_id
    kept = [world.push().push_id for _ in range(3)]
    critical = world.push(priority="critical").push_id
    assert world.state(low_old) == ("overflowed", "mailbox_limit")
    normal = world.push().push_id
    assert world.state(low_new) == ("overflowed", "mailbox_limit")
    low_late = world.push(priority="low").push_id
    assert world.state(low_late) == ("overflowed", "mailbox_limit")  # the new one is the loser
    world.connect()
    world.acknowledge_all()
    assert world.received() == [critical, *kept, normal]


def test_mailboxes_are_bounded_by_bytes_too() -> None:
    world = World(mailbox_limit=100, mailbox_bytes=3000)
    pushes = [world.push(data="x" * 1000).push_id for _ in range(4)]
    states = [world.state(push_id) for push_id in pushes]
    assert states[:2] == [("overflowed", "mailbox_bytes")] * 2
    assert states[-1] == ("waiting", None)
    world.close()


def test_what_is_in_flight_counts_but_is_not_evicted(world: World) -> None:
    world.connect()
    flying = [world.push().push_id for _ in range(3)]
    waiting = [world.push().push_id for _ in range(4)]
    assert [world.state(push_id)[0] for push_id in flying] == ["sent"] * 3
    assert [world.state(push_id)[0] for push_id in waiting] == ["overflowed"] * 2 + ["waiting"] * 2


def test_a_collapse_key_supersedes_what_waits_on_the_devices_it_addresses(world: World) -> None:
    old = world.push({"devices": ["d1", "d2"]}, collapse_key="price").push_id
    other = world.push(collapse_key="menu").push_id
    new = world.push(collapse_key="price").push_id
    assert world.state(old, 1) == ("superseded", "collapse_key")
    assert world.state(old, 2) == ("waiting", None)
    world.connect()
    assert world.received() == [other, new]


def test_the_cost_of_a_collapse_key_does_not_grow_with_what_else_waits() -> None:
    """Steps of SQLite's machine, with one older push and with forty others, of other collapse keys and of none."""
    world = World(devices=50, mailbox_limit=100)

    def steps() -> int:
        older = world.push({"all": True}, collapse_key="price").push_id
        (older_no,) = world.row("SELECT max(no) FROM push")
        newer_no = older_no + 1
        world.connection.execute(
            "INSERT INTO delivery (push_no, device_no, priority, size, state) SELECT ?, no, 2, 1, 0 FROM device",
            (newer_no,),
        )
        with counted_steps(world.connection) as counted:
            ended = supersede_rows(world.connection, newer_no, 1, "price", range(1, 51), lambda push_no: [], world.now)
        assert sum(len(devices) for _, devices in ended) == 50
        assert world.state(older) == ("superseded", "collapse_key")
        world.connection.execute("DELETE FROM delivery WHERE push_no = ?", (newer_no,))
        return counted[0]

    alone = steps()
    for number in range(20):
        world.push({"all": True}, collapse_key=f"menu-{number}")
        world.push({"all": True})
    assert steps() <= 1.1 * alone
    world.close()


def test_a_batch_may_supersede_and_overflow_within_itself(world: World) -> None:
    submissions = [world.checked(collapse_key="k") for _ in range(3)]
    submissions += [world.checked() for _ in range(6)]
    answers = world.run(world.acceptance.accept_many(submissions))
    states = [world.state(a.push_id)[0] for a in answers if isinstance(a, AcceptedPush)]
    assert states == ["superseded"] * 2 + ["overflowed"] * 2 + ["waiting"] * 5


def test_in_a_batch_each_has_its_own_answer(world: World) -> None:
    answers = world.run(
        world.acceptance.accept_many(
            [
                world.checked(),
                world.checked({"device": "nobody"}),
                world.checked({"where": "trve"}),
                world.checked({"all": True}),
            ],
        )
    )
    assert [a.targeted if isinstance(a, AcceptedPush) else a.code for a in answers] == [
        1,
        "device_not_found",
        "invalid_expression",
        3,
    ]


def submit(world: World, key: str, body: bytes, **fields: Any) -> AcceptedPush:
    return world.run(world.accept(idempotency_key=key, body_hash=body, **fields))


def test_the_same_key_and_body_answers_the_first_result(world: World) -> None:
    first = submit(world, "k", b"1")
    assert submit(world, "k", b"1") == first
    world.crash()
    assert submit(world, "k", b"1") == first
    assert world.row("SELECT count(*) FROM push") == (1,)


def test_the_same_key_with_another_body_is_refused(world: World) -> None:
    submit(world, "k", b"1")
    with pytest.raises(Problem) as refusal:
        submit(world, "k", b"2")
    assert refusal.value.code == "idempotency_key_reused"


def test_the_first_result_is_answered_although_it_would_be_refused_now(world: World) -> None:
    first = submit(world, "k", b"1", data="x" * 1000)
    world.limits = replace(world.limits, pushes=replace(world.limits.pushes, max_payload=500))
    world.crash()
    assert submit(world, "k", b"1", data="x" * 1000) == first
    world.storage_left = False
    assert submit(world, "k", b"1", data="x" * 1000) == first
    with pytest.raises(Problem) as refusal:
        submit(world, "other", b"1", data="x" * 1000)
    assert refusal.value.code == "payload_too_large"


def test_a_refusal_is_not_remembered(world: World) -> None:
    with pytest.raises(Problem):
        submit(world, "k", b"1", target={"device": "d9"})
    assert submit(world, "k", b"2").targeted == 1


def test_a_key_is_forgotten_after_a_day(world: World) -> None:
    first = submit(world, "k", b"1")
    world.passes(86_401)
    assert submit(world, "k", b"1").push_id != first.push_id


def test_concurrent_twins_are_one_push(world: World) -> None:
    twins = [world.loop.create_task(world.accept(idempotency_key="k", body_hash=body)) for body in (b"1", b"1", b"2")]
    world.loop.run_until_complete(asyncio.sleep(0))
    world.settle()
    world.loop.run_until_complete(asyncio.wait(twins))
    assert twins[0].result() == twins[1].result()
    assert isinstance(twins[2].exception(), Problem)
    assert world.row("SELECT count(*) FROM push") == (1,)


def test_one_group_is_handed_over_by_priority(world: World) -> None:
    world.connect()
    answers = world.run(
        world.acceptance.accept_many([world.checked(priority=name) for name in ("low", "normal", "critical")])
    )
    low, normal, critical = [a.push_id for a in answers if isinstance(a, AcceptedPush)]
    assert world.received() == [critical, normal, low]


def test_a_forecast_counts_and_sends_nothing(world: World) -> None:
    world.connect(2)
    forecast = world.run(world.forecast.of(APP, world.request({"all": True})))
    assert (forecast["targeted"], forecast["online"]) == (3, 1)
    assert (forecast["suppressed"], forecast["unknown"]) == ({}, [])
    forecast = world.run(world.forecast.of(APP, world.request({"devices": ["d2", "nobody"]})))
    assert (forecast["targeted"], forecast["online"], forecast["unknown"]) == (1, 1, ["nobody"])
    assert world.row("SELECT count(*) FROM push") == (0,)
    assert world.received(2) == []


def test_on_a_full_disk_a_key_that_was_accepted_still_answers_its_first_result(world: World) -> None:
    first = submit(world, "k", b"1")
    world.storage_left = False
    assert submit(world, "k", b"1") == first
    with pytest.raises(Problem) as refusal:
        submit(world, "other", b"1")
    assert refusal.value.code == "storage_full"


def test_what_is_sent_is_not_superseded_by_a_push_that_waited_meanwhile(world: World) -> None:
    world.connect()
    first = world.loop.create_task(world.acceptance.accept(APP, world.request(qos=0, collapse_key="k")))
    world.loop.run_until_complete(asyncio.sleep(0))
    world.writer.commit_group()
    second = world.loop.create_task(world.acceptance.accept(APP, world.request(qos=0, collapse_key="k")))
    world.loop.run_until_complete(asyncio.sleep(0))
    world.settle()
    world.loop.run_until_complete(asyncio.wait([first, second]))
    world.settle()
    assert world.received() == [first.result().push_id, second.result().push_id]
    assert world.state(first.result().push_id) == ("sent", None)


def stored_together(world: World, monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[int]:
    """How many pushes each operation stores, noted from now on; the operation of that number finds the disk full."""
    sizes: list[int] = []
    submit_operation = world.writer.submit

    def noting(operation: Any, on_commit: Any, on_error: Any, **options: Any) -> None:
        def noted(connection: Transaction) -> Any:
            before = connection.execute("SELECT count(*) FROM push").fetchone()[0]
            result = operation(connection)
            if added := connection.execute("SELECT count(*) FROM push").fetchone()[0] - before:
                sizes.append(added)
                if len(sizes) == fail_at:
                    raise StorageFull("no room")
            return result

        submit_operation(noted, on_commit, on_error, **options)

    monkeypatch.setattr(world.writer, "submit", noting)
    return sizes


def test_a_batch_is_stored_in_slices_and_answered_in_order(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = stored_together(world, monkeypatch)
    submissions = [world.checked(data=number) for number in range(2 * BATCH_PUSHES + 7)]
    answers = world.run(world.acceptance.accept_many(iter(submissions)))
    assert sizes == [BATCH_PUSHES, BATCH_PUSHES, 7]
    stored = [answer.push_id for answer in answers if isinstance(answer, AcceptedPush)]
    assert stored == [push_id for (push_id,) in world.connection.execute("SELECT id FROM push ORDER BY no")]


def test_a_batch_gives_way_while_others_send_one_by_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.push()
    sizes = stored_together(world, monkeypatch)
    submissions = [world.checked() for _ in range(2 * CONSIDERATE_PUSHES)]
    batch = world.loop.create_task(world.acceptance.accept_many(submissions))
    world.loop.run_until_complete(asyncio.sleep(0))
    single = world.loop.create_task(world.acceptance.accept(APP, world.request()))
    while not batch.done():
        world.loop.run_until_complete(asyncio.sleep(0))
        world.turn()
    assert single.done()
    assert sorted(sizes) == [1, CONSIDERATE_PUSHES, CONSIDERATE_PUSHES]
    assert sizes[-1] != 1, "the single push did not wait for the whole batch"
    world.now += CONSIDERATE_MS
    del sizes[:]
    world.run(world.acceptance.accept_many([world.checked() for _ in range(2 * CONSIDERATE_PUSHES)]))
    assert sizes == [2 * CONSIDERATE_PUSHES]


def test_a_batch_rests_after_what_it_prepares_while_others_send_one_by_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, sleeps = 0.0, []
    prepare, sleep = world.acceptance.prepare, asyncio.sleep

    async def prepare_long(pending: PendingPush) -> None:
        nonlocal now
        now += 0.004
        await prepare(pending)

    def note_sleep(seconds: float) -> Any:
        sleeps.append(round(seconds, 6))
        return sleep(0)

    monkeypatch.setattr(world.acceptance, "prepare", prepare_long)
    monkeypatch.setattr(acceptance_module, "time", SimpleNamespace(monotonic=lambda: now))
    expressions = [{"where": f"attributes.a == {number}"} for number in range(3)] + [{"where": "'nothing"}]
    for considerate in (True, False):
        pushes = [world.checked(target) for target in expressions]
        del sleeps[:]
        if considerate:
            world.push()
        else:
            world.now += CONSIDERATE_MS
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", note_sleep)
            task = world.loop.create_task(world.acceptance.accept_many(pushes))
            while not task.done():
                world.loop.run_until_complete(sleep(0))
                world.turn()
        codes = [answer.code for answer in task.result() if isinstance(answer, Problem)]
        assert codes == ["invalid_expression"], "the last one, which takes as long"
        assert sleeps == ([PREPARATION_REST_FACTOR * 0.004] * 4 if considerate else [])


def test_what_a_full_disk_leaves_of_a_batch_is_said_line_by_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_together(world, monkeypatch, fail_at=2)
    refused = problem("invalid_request", "not a push")
    before, behind = ([world.checked() for _ in range(2 * BATCH_PUSHES)] for _ in range(2))
    answers = world.run(world.acceptance.accept_many([*before, refused, *behind]))
    assert all(isinstance(answer, AcceptedPush) for answer in answers[:BATCH_PUSHES])
    rest = [answer.code for answer in answers[BATCH_PUSHES:] if isinstance(answer, Problem)]
    assert rest == ["storage_full"] * BATCH_PUSHES + ["invalid_request"] + ["storage_full"] * 2 * BATCH_PUSHES
    assert world.row("SELECT count(*) FROM push") == (BATCH_PUSHES,)


def test_a_batch_of_which_nothing_was_stored_raises(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_together(world, monkeypatch, fail_at=1)
    with pytest.raises(StorageFull):
        world.run(world.acceptance.accept_many([world.checked() for _ in range(BATCH_PUSHES + 1)]))


@pytest.mark.sqlite("which tells its statements")
def test_mailboxes_are_counted_only_when_they_may_be_full(world: World) -> None:
    statements: list[str] = []
    world.push({"all": True})
    assert isinstance(world.connection, sqlite3.Connection)
    world.connection.set_trace_callback(statements.append)
    world.run(world.acceptance.accept_many([world.checked({"all": True}) for _ in range(4)]))
    assert not any("count(*) AS count" in statement for statement in statements)
    world.run(world.acceptance.accept_many([world.checked({"all": True}) for _ in range(3)]))
    assert sum("count(*) AS count" in statement for statement in statements) == 1
    world.connection.set_trace_callback(None)
    # Each of the three mailboxes takes five.
    assert world.row("SELECT count(*) FROM whole_delivery WHERE state = 0") == (15,)
    assert world.row("SELECT count(*) FROM whole_delivery WHERE state = 23") == (9,)


def test_what_is_stored_of_a_batch_is_said_whatever_fails_behind_it(world: World) -> None:
    def lines() -> Iterator[PendingPush | Problem]:
        for _ in range(BATCH_PUSHES):
            yield world.checked()
        raise ZeroDivisionError("ours")

    answers = world.run(world.acceptance.accept_many(lines()))
    assert [type(answer) for answer in answers] == [AcceptedPush] * BATCH_PUSHES
    assert world.row("SELECT count(*) FROM push") == (BATCH_PUSHES,)


def test_what_goes_wrong_with_one_push_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(accepted: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(world.hand_over, "fan_out", fail)
        with pytest.raises(ZeroDivisionError):  # the database tells the log
            world.push()
    assert world.push().targeted == 1
    assert world.ledger.accepting_since is None


def start(world: World, target: dict[str, Any] | None = None, **fields: Any) -> asyncio.Task[AcceptedPush]:
    """A push that has been handed to the acceptance; what the writer does with it is still to come."""
    task = world.loop.create_task(world.acceptance.accept(APP, world.request(target, **fields)))
    world.loop.run_until_complete(asyncio.sleep(0))
    return task


def test_an_operation_stores_what_comes_before_the_writer_begins_with_it(world: World) -> None:
    tasks = [start(world) for _ in range(3)]
    assert len(world.writer.queue) == 1
    world.writer.commit_group()
    assert world.row("SELECT count(*) FROM push") == (3,)
    world.writer.call_back()
    world.loop.run_until_complete(asyncio.wait(tasks))
    assert len({task.result().push_id for task in tasks}) == 3


def test_the_next_operation_waits_for_no_callback_and_its_pushes_come_later(world: World) -> None:
    world.connect()
    first = start(world)
    world.writer.commit_group()
    world.now += 7
    second = start(world)
    world.writer.commit_group()
    assert world.row("SELECT count(*) FROM push") == (2,)
    assert world.ledger.accepting_since == world.now - 7
    assert world.received() == []
    world.writer.call_back()
    world.loop.run_until_complete(asyncio.wait([first, second]))
    assert world.received() == [first.result().push_id, second.result().push_id]
    assert world.ledger.accepting_since is None


def test_what_is_now_or_never_is_not_swept_before_its_operation_is_called_back(world: World) -> None:
    world.connect()
    started = [start(world, ttl=0)]
    for _ in range(2):  # one is stored and not called back, one begins after the sweep
        world.writer.commit_group()
        world.now += 1
        world.ledger.sweep()
        started.append(start(world, ttl=0))
    world.settle()
    world.loop.run_until_complete(asyncio.wait(started))
    assert world.received() == [task.result().push_id for task in started]


@pytest.mark.parametrize("form", ["rows"], indirect=True)  # sets are a part of a mailbox, and made fewer afterwards
def test_a_mailbox_keeps_its_limit_when_the_next_pushes_are_stored_before_the_first_are_called_back(
    world: World,
) -> None:
    """It takes five: what has been stored meanwhile counts, whatever the operation before found in it."""
    started = []
    for _ in range(9):
        started.append(start(world))
        world.writer.commit_group()
        assert world.row("SELECT count(*) <= 5 FROM whole_delivery WHERE state = 0") == (1,)
        if len(started) > 1:
            world.writer.callbacks.pop(0)()
    world.settle()
    world.loop.run_until_complete(asyncio.wait(started))
    assert world.row("SELECT count(*) FROM whole_delivery WHERE state = 0") == (5,)
    assert world.row("SELECT count(*) FROM whole_delivery WHERE state = 23") == (4,)


def test_pushes_whose_operation_could_not_even_begin_are_told_so(world: World) -> None:
    started = [start(world), start(world)]
    refused = world.writer.queue.pop()
    refused.on_error(StorageFull("no room"))
    world.loop.run_until_complete(asyncio.wait(started))
    assert [type(task.exception()) for task in started] == [StorageFull] * 2
    assert world.push().targeted == 1
    assert world.ledger.accepting_since is None


def test_an_operation_that_runs_again_stores_the_same_pushes(world: World) -> None:
    task = start(world)
    (queued,) = world.writer.queue
    world.connection.execute("BEGIN")
    queued.operation(world.connection)
    world.connection.execute("ROLLBACK")
    later = start(world)
    world.settle()
    world.loop.run_until_complete(asyncio.wait([task, later]))
    stored = [push_id for (push_id,) in world.connection.execute("SELECT id FROM push ORDER BY no")]
    assert stored == [task.result().push_id, later.result().push_id]


def test_a_prepared_push_leaves_out_who_was_removed_meanwhile(world: World) -> None:
    pending = world.checked({"all": True})
    assert isinstance(pending, PendingPush)
    pending.is_prepared = False
    world.run(world.acceptance.prepare(pending))
    assert pending.selection == BitMap([1, 2, 3])
    world.remove(2)
    accepted = world.run(world.acceptance.accept_pending(pending))
    assert accepted.targeted == 2


def test_a_line_that_cannot_be_prepared_keeps_no_other_from_being_accepted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = world.checked({"all": True})
    assert isinstance(wrong, PendingPush)
    wrong.is_prepared = False

    async def resolve(app_no: int, target: object) -> BitMap:
        raise problem("invalid_request", "no such thing")

    monkeypatch.setattr(world.acceptance._targets, "resolve", resolve)
    answers = world.run(world.acceptance.accept_many([world.checked(), wrong, world.checked()]))
    assert [a.targeted if isinstance(a, AcceptedPush) else a.code for a in answers] == [1, "invalid_request", 1]


def test_an_app_has_a_few_pushes_in_preparation_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until they are stored, since each has a set in memory; pushes that need none do not wait for them."""
    begun = 0

    async def resolve(app_no: int, target: object) -> BitMap:
        nonlocal begun
        begun += 1
        return BitMap([1, 2])

    monkeypatch.setattr(world.acceptance._targets, "resolve", resolve)
    request = world.request({"where": "'hall' in tags"})
    tasks = [world.loop.create_task(world.acceptance.accept(APP, request)) for _ in range(PREPARED_PUSHES_OF_APP + 3)]
    plain = start(world)
    for _ in range(10):
        world.loop.run_until_complete(asyncio.sleep(0))
    assert begun == PREPARED_PUSHES_OF_APP
    world.settle()
    world.loop.run_until_complete(asyncio.wait([plain]))
    while not all(task.done() for task in tasks):
        world.settle()
        world.loop.run_until_complete(asyncio.sleep(0))
    assert [task.result().targeted for task in tasks] == [2] * len(tasks)
