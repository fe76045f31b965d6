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
    callers = WaitingCallers()
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
