"""A million damaged inputs: half of them found by their coverage, half drawn by hypothesis. Both are counted."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.broker.protocol.vectors import REFUSED, VECTORS
from tests.hostile.codec_laws import check
from tests.hostile.test_hostile_connections import mutated

ROOT = Path(__file__).resolve().parents[2]
INPUTS, INPUTS_IN_FULL = 20_000, 500_000
PER_EXAMPLE = 250
SEEDS = [((v.version == 5) | v.from_server << 1, v.data) for v in VECTORS] + [
    ((r.version == 5) | r.from_server << 1, r.data) for r in REFUSED
]


def inputs_of(full: int) -> int:
    return INPUTS if full == 1 else INPUTS_IN_FULL


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python")
@pytest.mark.timeout(120)
def test_guided_by_coverage(full: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, (selector, data) in enumerate(SEEDS):
        (corpus / f"{number}").write_bytes(bytes([selector | 8]) + data)
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.hostile.fuzz_codec", str(corpus), f"-runs={inputs_of(full)}", "-seed=3"]
    command += ["-max_len=600", "-timeout=5", f"-artifact_prefix={tmp_path}/"]
    # It instruments bytecode, which compiled modules have not. The other half is of the form that runs.
    environment = os.environ | {"FLEETPUSH_PURE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs, done.stderr[-3_000:]
    covered = re.findall(r"cov: (\d+)", done.stderr)
    with capsys.disabled():
        print(
            f"\natheris: {runs[1]} inputs in {time.monotonic() - began:.0f} s, coverage {covered[0]} to {covered[-1]}"
        )
    assert int(runs[1]) >= inputs_of(full)
    assert int(covered[-1]) > 200, "nothing was instrumented"


@pytest.mark.timeout(120)
def test_drawn_and_mutated(full: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Each example is a stream of vectors and a seed; it is damaged in many ways."""
    inputs = decoded = 0
    examples = inputs_of(full) // PER_EXAMPLE

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3), st.integers(0, 2**32))
    def survives(stream: list[tuple[int, bytes]], seed: int) -> None:
        nonlocal inputs, decoded
        chance = random.Random(seed)
        for _ in range(PER_EXAMPLE):
            data = b"".join(mutated(data, chance) if chance.random() < 0.6 else data for _, data in stream)
            decoded += check(stream[0][0] | chance.randrange(256) << 2, data)
            inputs += 1

    began = time.monotonic()
    survives()
    with capsys.disabled():
        print(f"\nhypothesis: {inputs} inputs in {time.monotonic() - began:.0f} s, {decoded} packets decoded")
    assert inputs >= inputs_of(full)
    assert decoded > inputs // 10, "hardly anything got past the first byte"
