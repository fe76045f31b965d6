from __future__ import annotations

from gateway.latency import BOUNDS_MS, LatencyHistogram


def test_counts_add_up_from_bound_to_bound() -> None:
    latency = LatencyHistogram()
    latency.add(0, 3)
    latency.add(5, 2)
    latency.add(6, 1)
    latency.add(60_000, 4)
    buckets = dict(latency.buckets())
    assert len(buckets) == len(BOUNDS_MS) + 1
    assert [buckets[bound] for bound in ("0.001", "0.005", "0.01", "10", "+Inf")] == [3, 5, 6, 6, 10]
    assert latency.sum_ms == 10 + 6 + 240_000
