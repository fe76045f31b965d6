"""When devices try again: soon after a restart, seldom in a long outage, never all at once. A clock moved by hand."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sim.backoff import Absence, Backoff
from tests.third_party import require

WEB = Path(__file__).resolve().parents[2] / "client_sim" / "web"
RESTART_SECONDS = 5.0
"""A restart, from the last connection's end to listening: two to three seconds where it was measured."""
BACK_SECONDS = 10.0
"""Who was connected is back by then."""
DEVICES = 10_000


def attempts(backoff: Backoff, outage_seconds: float) -> list[float]:
    """The times of a device's attempts, in seconds after it lost its connection: the last one finds a server that was
    away for so long."""
    times = [0.0]
    absence = Absence(backoff, lambda: times[-1])
    while times[-1] < outage_seconds or len(times) == 1:
        times.append(times[-1] + absence.delay())
        absence.attempt()
    return times[1:]


def test_full_jitter_below_a_growing_ceiling() -> None:
    ceilings: list[float] = []

    def highest(low: float, high: float) -> float:
        assert low == 0.0
        ceilings.append(high)
        return high

    backoff = Backoff(base=1.0, cap=60.0, random=highest)
    for failures in (0, 1, 2, 3, 10, 10_000):
        backoff.delay(failures)
    assert ceilings == [1, 2, 4, 8, 60, 60]


def test_the_servers_word_replaces_the_growth() -> None:
    backoff = Backoff(base=1.0, cap=60.0, random=lambda low, high: high)
    assert [backoff.delay(9, seconds, 0.0) for seconds in (0, 7, 60, 999_999_999)] == [1, 8, 61, 61]


@given(st.lists(st.floats(0.0, 1.0), max_size=30), st.floats(0.0, 100.0))
def test_who_comes_back_waits_no_longer_than_the_server_was_away(draws: list[float], outage_seconds: float) -> None:
    """Whatever the draws: short ones in a row are what a ceiling of failures alone turns into a long wait."""
    luck = iter(draws)
    backoff = Backoff(random=lambda low, high: low + next(luck, 1.0) * (high - low))
    back = attempts(backoff, outage_seconds)[-1]
    assert back <= outage_seconds + max(outage_seconds, backoff.base)
    if outage_seconds <= RESTART_SECONDS:
        assert back <= BACK_SECONDS


def test_a_restart_does_not_bring_the_fleet_back_at_once() -> None:
    """The first delays are what spreads ten thousand after a restart that takes no time, over a second; those that a
    longer one keeps away are spread over as long as it took."""
    dice = random.Random(7)
    backoff = Backoff(random=dice.uniform)
    returns = [attempts(backoff, RESTART_SECONDS)[-1] for _ in range(DEVICES)]
    tenths = Counter(int(10 * back) for back in returns)
    assert max(tenths.values()) < DEVICES / 10, "no more than of a restart that takes no time"
    assert max(returns) < BACK_SECONDS


def test_a_long_outage_costs_few_attempts() -> None:
    """An hour: a dozen attempts until the delays have their full length, then one a minute on average."""
    dice = random.Random(7)
    tried = [len(attempts(Backoff(random=dice.uniform), 3_600.0)) for _ in range(300)]
    assert sum(tried) / len(tried) < 75
    assert max(tried) < 110


def test_a_connection_begins_the_count_anew() -> None:
    now = [0.0]
    backoff = Backoff(random=lambda low, high: high)
    absence = Absence(backoff, lambda: now[0])
    delays = []
    for _ in range(4):
        delays.append(absence.delay())
        now[0] += delays[-1]
        absence.attempt()
    assert delays == [1, 1, 2, 4]
    absence.end()
    now[0] += 1_000.0
    assert absence.delay() == 1
    absence.attempt()
    assert absence.delay() == 1, "it was connected until a moment ago"


def test_a_browser_has_the_same_schedule() -> None:
    draw = 0.3
    script = f"""
        const {{ Absence, Backoff }} = await import({json.dumps((WEB / "backoff.js").as_uri())});
        let now = 0;
        const absence = new Absence(new Backoff({{ random: () => {draw} }}), () => now * 1000);
        const times = [];
        while (now < 600) {{
          now += absence.delay();
          absence.attempt();
          times.push(now);
        }}
        console.log(JSON.stringify(times));
    """
    command = [require("node"), "--input-type=module", "--eval", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    same = Backoff(random=lambda low, high: draw * high)
    assert json.loads(done.stdout) == pytest.approx(attempts(same, 600.0))
