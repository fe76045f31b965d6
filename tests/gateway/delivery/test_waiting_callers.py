"""Places for callers that wait: an app has its share, and all together have an end."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from gateway.delivery import waiting_callers
from gateway.delivery.waiting_callers import WaitingCallers
from gateway.errors import Problem


def test_an_app_has_its_share_and_a_place_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_callers, "MAX_WAITING_CALLERS", 5)
    monkeypatch.setattr(waiting_callers, "MAX_WAITING_CALLERS_OF_APP", 2)
    callers = WaitingCallers(lambda: 0)
    with ExitStack() as waiting:
        for app_no in (1, 1, 2, 2, 3):
            waiting.enter_context(callers.place(app_no, "come again"))
        for app_no in (1, 4):  # its share is used up; all places are
            with pytest.raises(Problem) as refusal, callers.place(app_no, "come again"):
                pass
            assert (refusal.value.code, callers.refused) == ("too_many_calls", 1 if app_no == 1 else 2)
            assert refusal.value.detail.endswith("wait for some, or come again")
    with pytest.raises(ValueError, match="lost"), callers.place(1, "come again"):
        raise ValueError("lost")
    with callers.place(1, "come again"), callers.place(1, "come again"):
        pass


def test_who_is_refused_again_and_again_is_in_the_log_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting_callers, "MAX_WAITING_CALLERS_OF_APP", 0)
    now_ms = 0
    callers = WaitingCallers(lambda: now_ms)

    def refuse(app_no: int) -> None:
        with pytest.raises(Problem), callers.place(app_no, "come again"):
            pass

    for app_no in [1] * 50 + [2] * 50:
        refuse(app_no)
    now_ms = 59_999
    refuse(1)
    assert [record.args for record in caplog.records] == [(1, 0, 0), (2, 0, 0)]
    now_ms = 60_000
    refuse(1)
    assert len(caplog.records) == 3
    assert callers.refused == 102
