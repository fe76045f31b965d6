"""Strangers who guess enrolment codes: nobody else is late, and who has a right code is enrolled at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from statistics import median

import httpx2
import pytest

from gateway.enrolment.codes import new_code
from tests.end_to_end.harness import Server
from tests.hostile.canary import Canary

SECONDS = 1.5
ENROLMENTS = 10
LATE_SECONDS = 1.0
"""Time that an enrolment with a right code usually takes at most, while others guess at the same address: half of what
a wrong one is made to take."""


def guess(server: Server, until: float, answers: list[int]) -> None:
    """Another code each time, as fast as it is refused."""
    with httpx2.Client(base_url=server.url, timeout=10, trust_env=False) as client:
        while time.monotonic() < until:
            try:
                answers.append(client.post("/v1/enrol", json={"code": new_code()}).status_code)
            except httpx2.HTTPError:
                pass


@pytest.mark.timeout(60)
def test_guesses_keep_nobody_out(tmp_path: Path, full: int) -> None:
    with Server(tmp_path / "data") as server:
        made = server.api.call("POST", "/v1/invitations", 201, json={"count": ENROLMENTS})["invitations"]
        answers: list[int] = []
        seconds: list[float] = []
        with Canary(server), httpx2.Client(base_url=server.url, trust_env=False) as device:
            until = time.monotonic() + SECONDS * full
            strangers = [threading.Thread(target=guess, args=(server, until, answers)) for _ in range(20)]
            for stranger in strangers:
                stranger.start()
            for invitation in made:
                began = time.monotonic()
                assert device.post("/v1/enrol", json={"code": invitation["code"]}).status_code == 201
                seconds.append(time.monotonic() - began)
            for stranger in strangers:
                stranger.join()
        assert median(seconds) < LATE_SECONDS, seconds
        assert {404} <= set(answers) <= {404, 429}, "429 where there were many within a moment"
        lines = [line for line in server.errors.splitlines() if "a wrong enrolment code" in line]
        assert 1 <= len(lines) <= 40, f"{len(lines)} lines in the log for {len(answers)} guesses"
