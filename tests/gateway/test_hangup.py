from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from gateway import hangup
from gateway.hangup import Hangups, keep_hangups


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hangup, "_kept", False)
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def test_one_that_comes_before_anybody_listens_is_kept() -> None:
    keep_hangups()
    signal.raise_signal(signal.SIGHUP)
    said: list[str] = []
    hangups = Hangups(lambda: said.append("stop"))
    hangups.ready(lambda: said.append("reload"))
    assert said == ["reload"]


def test_without_one_nothing_is_read_again() -> None:
    keep_hangups()
    said: list[str] = []
    Hangups(lambda: said.append("stop")).ready(lambda: said.append("reload"))
    assert said == []
