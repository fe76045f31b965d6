from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.store.write_queue import WriteOperation, WriteQueue


def operation(app_no: int | None) -> WriteOperation:
    return WriteOperation(lambda connection: None, lambda result: None, lambda error: None, app_no)


def filled(*apps: int | None) -> WriteQueue:
    queue = WriteQueue()
    for app_no in apps:
        queue.put(operation(app_no))
    return queue


def order(queue: WriteQueue, most: int = 100) -> list[tuple[int | None, int]]:
    return [(taken.app_no, taken.number) for taken in queue.next_group(most)]


def test_apps_take_turns() -> None:
    queue = filled(*[1] * 5, 2, 3)
    assert [app_no for app_no, _ in order(queue)] == [1, 2, 3, 1, 1, 1, 1]


def test_the_server_s_own_come_in_between() -> None:
    queue = filled(*[1] * 6, None, None)
    assert [app_no for app_no, _ in order(queue)][:4] == [None, 1, None, 1]


def test_an_app_s_operation_waits_for_what_was_the_server_s_before() -> None:
    queue = filled(None, None, 1, None)
    assert order(queue) == [(None, 1), (None, 2), (1, 3), (None, 4)]


def test_a_closed_queue_is_emptied_and_then_answers_nothing() -> None:
    queue = filled(None, 1)
    queue.close()
    assert len(queue.next_group(1)) == 1
    assert len(queue.next_group(1)) == 1
    assert queue.next_group(1) == []


def test_what_there_was_no_time_for_comes_next() -> None:
    queue = filled(None, None, 1, 1, None)
    taken = queue.next_group(5)
    queue.put_back(taken[2:])
    assert {one.number for one in queue.next_group(5)} == {one.number for one in taken[2:]}
    assert queue.waiting(1) == 0


@given(st.lists(st.sampled_from([None, 1, 2, 3]), max_size=30), st.integers(1, 7), st.integers(0, 7))
def test_every_queue_keeps_its_order(apps: list[int | None], most: int, kept: int) -> None:
    queue = filled(*apps)
    ran: list[tuple[int | None, int]] = []
    queue.close()
    while taken := queue.next_group(most):
        queue.put_back(taken[kept + 1 :])
        ran += [(one.app_no, one.number) for one in taken[: kept + 1]]
    assert sorted(number for _, number in ran) == list(range(1, len(apps) + 1))
    for app_no in (None, 1, 2, 3):
        numbers = [number for of, number in ran if of == app_no]
        assert all(before < after for before, after in pairwise(numbers))
    for place, (app_no, number) in enumerate(ran):
        if app_no is not None:  # after all of the server's own that came before it
            assert {n for of, n in ran[:place] if of is None} >= {
                n + 1 for n, of in enumerate(apps) if of is None and n + 1 < number
            }


def test_the_backlog_is_as_old_as_its_oldest_operation() -> None:
    queue = WriteQueue()
    assert queue.backlog() == (0, None)
    waiting = [operation(app_no) for app_no in (1, None, 1, 2)]
    for one in waiting:
        queue.put(one)
    assert queue.backlog() == (4, waiting[0].put_at)
    taken = queue.next_group(2)
    assert queue.backlog() == (2, min(one.put_at for one in waiting if one not in taken))
    queue.put_back(taken)
    assert queue.backlog() == (4, waiting[0].put_at)
