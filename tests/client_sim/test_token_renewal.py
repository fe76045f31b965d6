"""A device that runs renews a token that ends: on disk before it is used, and again after a failure."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_sim import token_renewal
from client_sim.credential import RENEWED_SHARE, Credential
from client_sim.device import Device
from client_sim.errors import EnrolmentFailed
from client_sim.token_renewal import TokenRenewal
from tests.end_to_end.harness import wait_for

ANSWER: dict[str, Any] = {
    "device_id": "kiosk-1",
    "token": "dev_2",
    "token_expires_in": 1_000,
    "mqtt": {
        "host": "127.0.0.1", "port": 1883, "tls": False, "websocket": "ws://x/mqtt",
        "topics": {"push": "default/devices/kiosk-1/push"},
    },
}  # fmt: skip
DUE = Credential(
    "kiosk-1", "default", "dev_1", "127.0.0.1", 1883, False, "ws://x/mqtt", "http://127.0.0.1:1", None, 1.0
)


def test_it_is_due_after_two_thirds_of_its_life() -> None:
    before = time.time()
    found = Credential.of(ANSWER, "http://127.0.0.1:1", None)
    assert found.renew_at is not None
    first, last = RENEWED_SHARE
    assert before + 1_000 * first <= found.renew_at <= time.time() + 1_000 * last
    assert Credential.of({**ANSWER, "token_expires_in": None}, "http://127.0.0.1:1", None).renew_at is None


def test_a_new_token_is_on_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str] | None] = []
    used, stopping, kept = threading.Event(), threading.Event(), []
    answers: list[Any] = [EnrolmentFailed("busy"), ANSWER]

    def post(url: str, body: Any, tls: Any, *, headers: Any = None, stopping: Any = None) -> Any:
        assert url.endswith("/v1/devices/kiosk-1/token/renewal")
        asked.append(headers)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def use(token: str) -> None:
        kept.append((token, Credential.load(tmp_path / "kiosk.json")))
        used.set()

    monkeypatch.setattr(token_renewal, "post", post)
    monkeypatch.setattr(token_renewal, "RETRY_SECONDS", (0.01, 0.01))
    renewal = TokenRenewal(DUE, tmp_path / "kiosk.json", use, stopping)
    renewal.start()
    assert used.wait(10)
    stopping.set()
    ((token, stored),) = kept
    assert token == "dev_2"
    assert stored == renewal.credential
    assert asked == [{"Authorization": "Bearer dev_1"}] * 2, "the first attempt has failed"


def test_a_token_that_never_ends_needs_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    TokenRenewal(replace(DUE, renew_at=None), tmp_path / "kiosk.json", lambda token: None, threading.Event()).start()
    assert threading.active_count() == before


def test_the_device_connects_with_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DUE.save(tmp_path / "kiosk.json")
    monkeypatch.setattr(token_renewal, "post", lambda *_, **__: ANSWER)
    with Device.enrol(None, tmp_path / "kiosk.json") as device:
        renewal = device._renewal
        assert renewal is not None, "made of a credential"
        wait_for(lambda: renewal.credential.token == "dev_2", what="the new token")
        wait_for(lambda: device._client._password == b"dev_2", what="it to be used from now on")
