"""Are an engine's figures those of what it did?"""

import numpy as np
import pytest

from vjepa2.runtime.metrics import WINDOW, Meter


def test_percentiles_are_times_that_occurred() -> None:
    times_ms = np.random.default_rng(0).gamma(2, 10, 500).tolist()
    meter = Meter()
    for number, time_ms in enumerate([1e6, *times_ms]):  # the first call is apart
        meter.add_call(1, time_ms, [2.0 * number])
    metrics = meter.read(0, 0)
    assert metrics.first_call_ms == 1e6
    assert (metrics.calls, metrics.clips, metrics.computed) == (501, 501, 501)
    spread = metrics.compute
    for percent, value in ((50, spread.p50_ms), (90, spread.p90_ms), (99, spread.p99_ms), (100, spread.max_ms)):
        assert value == np.percentile(times_ms, percent, method="inverted_cdf")
    assert spread.count == 500
    assert spread.sum_ms == pytest.approx(sum(times_ms))
    assert metrics.total.sum_ms == pytest.approx(sum(times_ms) + metrics.wait.sum_ms)


def test_percentiles_are_of_the_last_requests_and_counts_of_all() -> None:
    meter = Meter()
    meter.add_call(1, 0.0, [0.0])
    meter.add_call(5, 1000.0, [0.0] * 5)
    meter.add_call(WINDOW, 1.0, [0.0] * WINDOW)
    spread = meter.read(0, 0).compute
    assert (spread.count, spread.max_ms) == (WINDOW + 5, 1.0)
    assert spread.sum_ms == 5000.0 + WINDOW


def test_before_the_first_call_there_is_no_percentile() -> None:
    meter = Meter()
    meter.count("taken", 2)
    metrics = meter.read(2, 7)
    assert (metrics.requests, metrics.waiting_requests, metrics.waiting_clips) == (2, 2, 7)
    assert (metrics.first_call_ms, metrics.wait.p50_ms, metrics.wait.max_ms, metrics.wait.count) == (
        None,
        None,
        None,
        0,
    )
