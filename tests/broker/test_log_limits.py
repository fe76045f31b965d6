"""Nobody fills a disk by what the log says of them, and what is left out is said, in few lines."""

from __future__ import annotations

import logging

from broker.log_limits import (
    BURST_BYTES,
    BYTES_PER_SECOND,
    KIND_BYTES,
    LINES_PER_KIND,
    LINES_PER_PEERS_KIND,
    LINES_PER_SUBJECT,
    MAX_COUNTED_KINDS,
    SUMMARIES_PER_WINDOW,
    WINDOW_SECONDS,
    LogLimits,
    Summary,
)

START = 1_000.0


def written(
    limits: LogLimits, kind: str, address: str | None, now: float, size: int, level: int = logging.INFO
) -> bool:
    return limits.admit(kind, now, address or "", is_peer=bool(address)) and limits.spend(kind, level, size, now)


def test_kinds_and_addresses_have_so_many_lines() -> None:
    limits = LogLimits()
    assert sum(limits.admit("guess", START, "192.0.2.1", is_peer=True) for _ in range(50)) == LINES_PER_SUBJECT
    others = sum(limits.admit("guess", START, f"192.0.2.{number}", is_peer=True) for number in range(2, 250))
    assert LINES_PER_SUBJECT + others == LINES_PER_PEERS_KIND
    assert sum(limits.admit("device", START) for _ in range(2_000)) == LINES_PER_KIND
    assert limits.ended(START + WINDOW_SECONDS - 1) == []
    assert limits.ended(START + WINDOW_SECONDS) == [
        Summary(248 - others, "guess"), Summary(2_000 - LINES_PER_KIND, "device"),
        Summary(50 - LINES_PER_SUBJECT, "guess", "192.0.2.1"),
    ]  # fmt: skip
    assert limits.ended(START + WINDOW_SECONDS) == []
    assert limits.admit("guess", START + WINDOW_SECONDS, "192.0.2.1", is_peer=True)


def test_a_kind_has_so_many_bytes() -> None:
    limits = LogLimits()
    assert sum(written(limits, "refused: %s", None, START, 2_000) for _ in range(200)) == KIND_BYTES // 2_000
    assert written(limits, "another", None, START, 2_000)
    assert limits.ended(START, everything=True) == [Summary(200 - KIND_BYTES // 2_000, "refused: %s")]
    assert limits.over_bytes == 200 - KIND_BYTES // 2_000


def test_all_together_have_so_many_bytes_whoever_says_what() -> None:
    """Ten minutes of everything at once: each second a hundred lines of kinds that are about peers and of others."""
    limits = LogLimits()
    total = 0
    for second in range(600):
        now = START + second
        for number in range(100):
            size = 100 + (number * 37) % 2_000
            level = logging.ERROR if number % 3 else logging.INFO
            address = f"192.0.{second % 250}.{number}" if number % 2 else None
            if written(limits, f"kind {number}: %s", address, now, size, level):
                total += size
        for summary in limits.ended(now):
            limits.spend_note(size := 100 + len(summary.kind))
            total += size
    assert total <= BURST_BYTES + 600 * BYTES_PER_SECOND + 2_000
    assert total > 600 * BYTES_PER_SECOND


def test_the_rest_of_the_burst_is_for_what_is_serious() -> None:
    limits = LogLimits()

    def fill(level: int) -> int:
        return sum(written(limits, f"{level} {number}", None, START, 1_024, level) for number in range(2_000))

    half = BURST_BYTES // 1_024 // 2
    assert [fill(level) for level in (logging.INFO, logging.WARNING, logging.ERROR)] == [half, half // 2, half // 2]


def test_what_is_said_of_what_was_left_out_is_bounded_too() -> None:
    limits = LogLimits()
    lost = 0
    for number in range(2 * MAX_COUNTED_KINDS):
        for _ in range(LINES_PER_SUBJECT + 1):
            lost += not limits.admit("guess", START, f"address {number}", is_peer=True)
    assert len(limits._counts) <= MAX_COUNTED_KINDS
    said = [summary for second in range(120) for summary in limits.ended(START + second)]
    assert len(said) <= 2 * SUMMARIES_PER_WINDOW
    assert any(summary.kind == "guess" and not summary.about for summary in said)
    assert any(not summary.kind for summary in said)
    said += limits.ended(START + 120, everything=True)
    assert sum(summary.lines for summary in said) == lost, "nothing is left out unsaid"
