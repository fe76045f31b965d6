from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from gateway.errors import Problem
from gateway.metrics_key import MAX_FILE_BYTES, BadMetricsKey, MetricsKey
from tests.gateway.in_process import InProcessGateway

KEY = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("content", [KEY, f"{KEY}\n", f"  {KEY}\r\n"])
def test_the_key_is_the_files_one_word(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.key"
    path.write_text(content)
    MetricsKey.read(path).check(f"Bearer {KEY}", "10.0.0.1")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has 0 characters"),
        (b"short\n", "has 5 characters"),
        (f"{KEY} {KEY}".encode(), "something else than one key"),
        (f"{KEY}\n{KEY}\n".encode(), "something else than one key"),
        (b"\xff" * 40, "something else than one key"),
        (b"x" * (MAX_FILE_BYTES + 1), "something else than one key"),
    ],
)
def test_what_is_no_key_is_refused_with_its_remedy(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "metrics.key"
    path.write_bytes(content)
    with pytest.raises(BadMetricsKey, match=complaint) as refusal:
        MetricsKey.read(path)
    assert "openssl rand" in str(refusal.value)
    assert KEY not in str(refusal.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadMetricsKey, match=r"nothing\.key: No such file"):
        MetricsKey.read(tmp_path / "nothing.key")


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (None, "there is no key"),
        ("Bearer", "there is no key"),
        (f"Basic {KEY}", "there is no key"),
        (f"Bearer {KEY}0", "the key is wrong"),
        (f"Bearer {KEY[:-1]}", "the key is wrong"),
        ("Bearer ké", "the key is wrong"),
    ],
)
def test_another_key_is_refused_counted_and_logged(
    header: str | None, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = MetricsKey(KEY)
    with caplog.at_level(logging.INFO), pytest.raises(Problem) as refusal:
        key.check(header, "10.0.0.9")
    assert refusal.value.code == "unauthorized"
    assert refusal.value.detail.startswith(what)
    assert key.failures == 1
    assert caplog.messages == [f"10.0.0.9: /metrics: {what}"]


async def test_metrics_ask_for_their_key_and_nothing_else_does(tmp_path: Path) -> None:
    path = tmp_path / "metrics.key"
    path.write_text(KEY)
    folder = tmp_path / "data"
    folder.mkdir()
    gateway = await InProcessGateway.build(folder, asyncio.get_running_loop(), metrics_key=path)
    try:
        stranger = gateway.client(None)
        document = await gateway.refused("GET", "/metrics", 401, "unauthorized", http=stranger)
        assert "metrics_key" in document["detail"]
        await gateway.refused("GET", "/metrics", 401, "unauthorized")  # an admin's
        answer = await stranger.get("/metrics", headers={"Authorization": f"bearer {KEY}"})
        assert answer.status_code == 200
        assert 'fleetpush_authentication_failures_total{kind="metrics"} 2.0' in answer.text
        assert (await stranger.get("/healthz")).status_code == (await stranger.get("/readyz")).status_code == 200
        await gateway.refused("GET", "/v1/devices", 401, "unauthorized", http=gateway.client(KEY))
    finally:
        await gateway.close()
