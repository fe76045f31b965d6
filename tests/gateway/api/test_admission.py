from __future__ import annotations

from typing import cast

import pytest
from fastapi import Request

from gateway.api.admission import Admission
from gateway.audit.audit_log import AuditLog
from gateway.auth import KeyCache, Principal
from gateway.errors import Problem, RateLimited
from gateway.people.sessions import ConsoleSessions
from gateway.store.audited_writes import Attempt


class OneKey(KeyCache):
    def __init__(self, *scopes: str) -> None:
        self.principal = Principal(1, "default", "k_1", frozenset(scopes))

    async def authenticate(self, authorization: str | None) -> Principal:
        return self.principal


class NoLog(AuditLog):
    """Takes what is refused, and writes nothing."""

    def __init__(self) -> None:
        pass

    def refuse(self, attempt: Attempt, code: str) -> None:
        pass


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


NO_SESSIONS = cast(ConsoleSessions, None)
"""Requests with a key are not asked for a session."""
WITH_KEY = [(b"authorization", b"Bearer key")]
REQUEST = Request(
    {"type": "http", "method": "GET", "path": "/v1/devices", "headers": [(b"authorization", b"Bearer key")]}
)


def admission_of(keys: OneKey, rate: int = 10, clock: Clock | None = None) -> Admission:
    return Admission(keys=keys, sessions=NO_SESSIONS, audit=NoLog(), rate=rate, clock=clock or Clock())


async def test_one_of_the_scopes_is_enough_and_admin_has_all() -> None:
    await admission_of(OneKey("read")).admit(REQUEST, "devices", "read")
    await admission_of(OneKey("devices")).admit(REQUEST, "devices", "read")
    await admission_of(OneKey("admin")).admit(REQUEST, "devices", "read")
    with pytest.raises(Problem) as refusal:
        await admission_of(OneKey("send")).admit(REQUEST, "devices", "read")
    assert refusal.value.code == "forbidden"


async def test_a_key_has_a_second_s_worth_of_requests_and_gets_them_back() -> None:
    clock = Clock()
    admission = admission_of(OneKey("send"), 5, clock)
    for _ in range(5):
        await admission.admit(REQUEST, "send")
    with pytest.raises(RateLimited) as refusal:
        await admission.admit(REQUEST, "send")
    assert 0 < refusal.value.retry_after <= 0.2
    clock.now += 0.2
    await admission.admit(REQUEST, "send")
    with pytest.raises(RateLimited):
        await admission.admit(REQUEST, "send")
    clock.now += 3600
    for _ in range(5):
        await admission.admit(REQUEST, "send")
    with pytest.raises(RateLimited):
        await admission.admit(REQUEST, "send")
    assert admission.admitted == 11


async def test_keys_do_not_share_their_rate() -> None:
    ring = OneKey("send")
    admission = admission_of(ring, 1)
    await admission.admit(REQUEST, "send")
    ring.principal = Principal(1, "default", "k_2", frozenset({"send"}))
    await admission.admit(REQUEST, "send")
