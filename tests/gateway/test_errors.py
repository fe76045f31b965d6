from __future__ import annotations

from gateway.errors import CATALOGUE, problem


def test_a_problem_answers_every_question_once() -> None:
    refusal = problem("device_exists", "kiosk-1 is enrolled")
    assert refusal.status == 409
    assert refusal.document() == {
        "type": "/docs/problems#device_exists",
        "title": "The device exists",
        "status": 409,
        "code": "device_exists",
        "detail": "kiosk-1 is enrolled",
        "retryable": False,
    }


def test_what_may_succeed_later_says_so() -> None:
    retryable = {code for code, row in CATALOGUE.items() if row.retryable}
    assert retryable == {
        "request_timeout",
        "too_many_attempts",
        "too_many_calls",
        "too_many_campaigns",
        "too_many_escalations",
        "too_many_streams",
        "rate_limited",
        "internal_error",
        "busy",
        "unavailable",
        "storage_full",
        "storage_damaged",
        "storage_failed",
    }
