"""Does the benchmark print what is true, mark what is doubtful, and refuse what cannot be?"""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from tests.fake_timing import Behaviour, Clock, FakeBackend, bench, state, surround
from vjepa2.bundle import Bundle
from vjepa2.cli import main
from vjepa2.errors import BackendError, BundleError, EngineError, MissingDependencyError
from vjepa2.runtime import bench_cli, latency
from vjepa2.runtime.backends import BACKENDS, choice
from vjepa2.runtime.backends.placement import Executed
from vjepa2.runtime.bench_row import RowRequest
from vjepa2.runtime.bench_worker import WorkerSubject
from vjepa2.runtime.latency import LatencyReport, plan_rows
from vjepa2.runtime.latency_report import NORMALISING, LatencyRow
from vjepa2.runtime.latency_stats import (
    bound_percentile,
    compare_pairs,
    count_for_margin,
    count_needed,
    student_quantile,
    summarise,
)
from vjepa2.runtime.latency_table import write_tables
from vjepa2.runtime.machine_state import describe_machine, find_throttling, read_cpu_time, read_state
from vjepa2.runtime.query_timer import CALL, EVENTS
from vjepa2.runtime.roofline import Rates, find_limit, measure_rates, take_best
from vjepa2.runtime.scaling import Point, fit_scaling
from vjepa2.runtime.warm_up import warm_up

ONE = "onnxruntime"  # a name of ours under which a fake runs
OTHER = "onnxruntime-portable"


def only_row(report: LatencyReport) -> LatencyRow:
    (row,) = report.rows
    return row


def percentiles(row: LatencyRow) -> dict[int, float | None]:
    assert row.compute is not None
    return {found.percent: found.bound_ms for found in row.compute.percentiles}


def test_a_constant_backend_takes_what_it_takes(exported: Path) -> None:
    report = bench(exported, {ONE: Behaviour((10.0,))})
    row = only_row(report)
    assert report.passed
    assert not report.partial
    assert row.compute is not None
    assert row.end_to_end is not None
    assert row.compute.median_ms == pytest.approx(10)
    assert row.compute.boundary == CALL
    assert row.end_to_end.boundary == "frames in host memory to results in host memory"
    assert len(row.compute.samples_ms) >= 64
    assert percentiles(row)[90] == pytest.approx(10)
    assert percentiles(row)[99] is None
    assert row.compute.clips_per_second == pytest.approx(100)
    assert row.unstable == ()
    assert row.opened is not None
    assert row.opened.verdict.passed
    assert row.limit is not None
    assert row.limit.fraction == pytest.approx(row.limit.bound_ms / 10)


def test_a_bimodal_backend_is_shown_with_its_upper_mode_and_marked(exported: Path) -> None:
    chance = random.Random(0)
    times = [30.0 if chance.random() < 0.2 else 10.0 for _ in range(2000)]
    row = only_row(bench(exported, {ONE: Behaviour(times)}))
    assert row.compute is not None
    assert row.compute.median_ms == pytest.approx(10)
    assert percentiles(row)[90] == pytest.approx(30)
    assert any("times vary by" in reason for reason in row.unstable)


def test_a_drifting_backend_is_marked(exported: Path) -> None:
    row = only_row(bench(exported, {ONE: Behaviour([10 + 0.05 * call for call in range(3000)])}))
    assert row.compute is not None
    assert any("the last third takes +" in reason for reason in row.unstable)


def test_one_that_never_becomes_flat_is_marked_and_warming_up_ends(exported: Path) -> None:
    row = only_row(bench(exported, {ONE: Behaviour([1000 * 1.1**call for call in range(100)])}, seconds=20.0))
    assert row.warm_up is not None
    assert not row.warm_up.flat
    assert any(re.search(r"it was not flat after \d+ calls and", reason) for reason in row.unstable)


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ({"throttle_count": 5}, "the processor throttled 5 times"),
        ({"gpu": {"clocks_throttle_reasons.active": "0x0000000000000020"}}, "the GPU is held back (NVML's reasons"),
    ],
)
def test_a_throttled_machine_is_told(after: dict[str, object], told: str, exported: Path) -> None:
    row = only_row(bench(exported, {ONE: Behaviour()}, states=[state(), state(**after)]))
    assert any(told in reason for reason in row.unstable)
    assert row.compute is not None, "it is marked, not hidden"


def test_an_idle_gpu_is_not_held_back() -> None:
    idle = state(gpu={"clocks_throttle_reasons.active": "0x0000000000000001"})
    assert find_throttling(idle, idle) == []


def test_others_on_the_machine_are_told(exported: Path) -> None:
    row = only_row(bench(exported, {ONE: Behaviour()}, others=0.5))
    assert row.unstable == ("others took 25% of the cores (at most 5%)",)


def test_a_call_that_returns_before_it_is_done_is_refused(exported: Path) -> None:
    report = bench(exported, {ONE: Behaviour(is_asynchronous=True)})
    row = only_row(report)
    assert row.failure is not None
    assert "returned after 0 ms, and fetching its results then waited 10 ms" in row.failure
    assert row.compute is None
    assert row.end_to_end is None
    assert not report.passed


def test_events_that_agree_with_the_clock_are_what_computing_takes(exported: Path) -> None:
    row = only_row(bench(exported, {ONE: Behaviour(events=1.0)}))
    assert row.compute is not None
    assert row.compute.boundary == EVENTS
    assert row.compute.median_ms == pytest.approx(10)


@pytest.mark.parametrize("share", [0.5, 0.0, 1.5, math.nan])
def test_events_that_disagree_with_the_clock_are_refused(share: float, exported: Path) -> None:
    row = only_row(bench(exported, {ONE: Behaviour(events=share)}))
    assert row.failure is not None
    assert "they must agree within 10%" in row.failure
    assert row.compute is None


def test_a_backend_that_fails_its_gate_has_no_times(exported: Path) -> None:
    report = bench(exported, {ONE: Behaviour(breaks_after=0), OTHER: Behaviour()})
    failed, sound = report.rows
    assert failed.failure is not None
    assert "parity failed, so there are no times: embedding is" in failed.failure
    assert failed.compute is None
    assert sound.compute is not None
    assert sound.compute_ratio is None, "there is nothing to compare it with"
    assert not report.passed
    assert "no times: parity failed" in write_tables(report)


@pytest.mark.parametrize("computes_in", ["tf32", "fp16"])
def test_a_row_is_held_to_the_gate_of_what_it_turns_out_to_compute_in(computes_in: Executed, exported: Path) -> None:
    """A thousandth too large: outside the gate of float32, which is what it says before the first run."""
    honest = only_row(bench(exported, {ONE: Behaviour(scale=1.001)}))
    assert honest.failure is not None
    assert "relative_max is 0.001, must be at most 0.0001" in honest.failure
    row = only_row(bench(exported, {ONE: Behaviour(scale=1.001, computes_in=computes_in)}))
    assert row.failure is None
    assert row.opened is not None
    assert row.opened.precision == computes_in


def test_a_row_in_what_no_gate_is_written_down_for_has_no_times(exported: Path) -> None:
    odd = Behaviour(computes_in="fp64")  # type: ignore[arg-type]
    row = only_row(bench(exported, {ONE: odd}))
    assert row.failure is not None
    assert row.failure.startswith("fake computes in fp64, for which no gate is written down")
    assert row.compute is None


def test_results_are_held_against_the_reference_while_they_are_timed(exported: Path) -> None:
    row = only_row(bench(exported, {ONE: Behaviour(breaks_after=20)}))
    assert row.failure is not None
    assert "gave other results while it was timed than when it was proved" in row.failure
    assert row.compute is None


def test_a_ratio_is_of_neighbours_in_time(exported: Path) -> None:
    """A machine that slows down threefold slows both."""
    clock = Clock()

    def slowing(least_ms: float) -> Behaviour:
        behaviour = Behaviour()
        behaviour.durations = iter(lambda: least_ms * (1 + 2 * min(1.0, clock.now_s / 15)), None)
        return behaviour

    base, row = bench(exported, {ONE: slowing(40.0), OTHER: slowing(10.0)}, clock=clock, seconds=30.0).rows
    ratio = row.compute_ratio
    assert base.compute_ratio is None
    assert ratio is not None
    assert ratio.base == ONE
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.ratio == pytest.approx(0.25, rel=0.02)
    assert ratio.low <= 0.25 <= ratio.high
    assert any("the last third takes +" in reason for reason in row.unstable)


def test_transformers_is_the_base_where_it_is_among_the_rows(exported: Path) -> None:
    report = bench(exported, {ONE: Behaviour(), "transformers": Behaviour((20.0,))})
    assert [row.backend for row in report.rows] == ["transformers", ONE]
    table = write_tables(report)
    assert "| 2.00 (2.00 to 2.00) |" in table
    assert "needs 64" not in table, "the base too has samples enough"
    assert NORMALISING in table


def test_an_interrupted_run_keeps_what_it_has_and_calls_it_partial(exported: Path) -> None:
    report = bench(exported, {ONE: Behaviour(), OTHER: Behaviour(fails_after=30), "openvino": Behaviour()})
    assert report.partial
    assert not report.passed
    assert "it was interrupted, or still goes on: rows are missing or short" in report.faults
    assert [row.backend for row in report.rows] == [ONE, OTHER]
    assert all(row.compute is not None and row.compute.samples_ms for row in report.rows)
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["partial"] is True


def test_what_is_known_is_saved_before_the_first_row_and_after_each(exported: Path) -> None:
    saved: list[LatencyReport] = []
    report = bench(exported, {ONE: Behaviour(), OTHER: Behaviour(), "openvino": Behaviour()}, save=saved.append)
    assert [each.partial for each in saved] == [True, True, True, True, False]
    assert not any(each.passed for each in saved[:-1])
    assert saved[-1] == report
    assert [len(each.rows) for each in saved] == [0, 2, 3, 3, 3]
    first = saved[1].rows[1]
    assert first == report.rows[1], "a row that has ended stays as it is"


def test_a_run_that_dies_leaves_the_rows_before(exported: Path) -> None:
    saved: list[LatencyReport] = []
    dying = Behaviour(fails_after=30, failure=MemoryError)
    with pytest.raises(MemoryError):
        bench(exported, {ONE: Behaviour(), OTHER: Behaviour(), "openvino": dying}, save=saved.append)
    assert saved[-1].partial
    assert [row.compute is not None for row in saved[-1].rows] == [True, True]


_CHILD = """
import os, sys
from tests.fake_timing import Behaviour, surround
from vjepa2.cli import main
from vjepa2.runtime import bench_cli
from vjepa2.runtime.latency import Plan
end = Behaviour(fails_after=30, failure=lambda: os.kill(os.getpid(), int(sys.argv.pop())))
rows = {"onnxruntime": Behaviour(), "onnxruntime-portable": Behaviour(), "openvino": end}
bench_cli.Surroundings = lambda say: surround(rows)
bench_cli.plan_rows = lambda bundles, *_, **__: Plan(rows=tuple((bundles[0], name) for name in rows), skipped={})
main(sys.argv[1:-1])
"""


@pytest.mark.parametrize(
    ("sent", "status", "rows"), [(signal.SIGTERM, 1, 3), (signal.SIGINT, 1, 3), (signal.SIGKILL, -signal.SIGKILL, 2)]
)
def test_a_signal_leaves_what_was_measured_in_the_bundle(
    sent: signal.Signals, status: int, rows: int, bundle_copy: Path
) -> None:
    """In a process of its own, for the last of them cannot be caught."""
    words = ["bench", str(bundle_copy), "--json", str(bundle_copy.parent / "report.json"), str(int(sent))]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    record = json.loads((bundle_copy / "reports" / "latency.json").read_text())
    assert record == json.loads((bundle_copy.parent / "report.json").read_text())
    assert (record["partial"], record["passed"]) == (True, False)
    assert [row["backend"] for row in record["rows"]] == [ONE, OTHER, "openvino"][:rows]
    assert all(row["compute"]["samples_ms"] for row in record["rows"])
    assert sorted(file.name for file in (bundle_copy / "reports").iterdir()) == ["latency.json"], "no draft is left"
    Bundle.open(bundle_copy)


@pytest.mark.parametrize("spoil", ["a folder for a file", "--json in no folder"])
def test_a_place_that_cannot_be_written_to_is_told_before_anything_is_timed(
    spoil: str, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_cli, "Surroundings", lambda say: surround({}))  # whoever opens a row fails
    words = ["bench", str(bundle_copy), "--backends", ONE]
    if spoil == "a folder for a file":
        (bundle_copy / "reports" / "latency.json").mkdir(parents=True)
        told = f"{bundle_copy / 'reports' / 'latency.json'} cannot be written: Is a directory"
    else:
        words += ["--json", str(bundle_copy / "none" / "x.json")]
        told = f"{bundle_copy / 'none' / 'x.json'} cannot be written: No such file or directory"
    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert "Traceback" not in captured.err


def test_a_stale_engine_is_told_in_its_row_and_the_others_go_on(exported: Path) -> None:
    stale = Behaviour(fails_after=0, failure=lambda: EngineError("the engine was built by another TensorRT; run: x"))
    report = bench(exported, {ONE: Behaviour(), OTHER: stale})
    assert [row.failure for row in report.rows] == [None, "the engine was built by another TensorRT; run: x"]
    assert not report.passed


def test_measuring_costs_less_than_a_hundredth(exported: Path) -> None:
    """Each reading of this clock takes 0.2 microseconds, several times a real one's; a call takes a millisecond."""
    clock = Clock(cost_s=2e-7)
    row = only_row(bench(exported, {ONE: Behaviour((1.0,))}, clock=clock))
    assert row.compute is not None
    assert row.end_to_end is not None
    assert row.compute.median_ms == pytest.approx(1, rel=0.01)
    assert row.end_to_end.median_ms == pytest.approx(1, rel=0.01)


def test_scenarios_ask_for_more_clips_and_more_samples(exported: Path) -> None:
    row = only_row(bench(exported, {ONE: Behaviour((1.0,))}, scenario="multi-stream"))
    assert row.opened is not None
    assert (row.opened.clips, row.opened.calls) == (8, 8)
    assert row.compute is not None
    assert row.compute.median_ms == pytest.approx(8)
    assert len(row.compute.samples_ms) >= 662
    assert percentiles(row)[99] == pytest.approx(8)
    assert row.compute.clips_per_second == pytest.approx(1000)
    offline = only_row(bench(exported, {ONE: Behaviour((1.0,))}, scenario="offline"))
    assert offline.opened is not None
    assert offline.opened.clips == 16


def test_a_query_is_filled_up_to_what_the_graph_takes(in_threes: Path) -> None:
    row = only_row(bench(in_threes, {ONE: Behaviour()}))
    assert row.opened is not None
    assert (row.opened.clips, row.opened.calls) == (3, 1)


# figures


def test_mlperfs_counts() -> None:
    """Early stopping's 64 and 662, and 24,576 and 270,336 without it, as its rules print them."""
    assert [count_needed(percent) for percent in (90, 99)] == [64, 662]
    counts = [2**13 * math.ceil(count_for_margin(percent) / 2**13) for percent in (90, 99)]
    assert counts == [24_576, 270_336]


@pytest.mark.parametrize("draw", ["expovariate", "lognormvariate", "bimodal"])
@pytest.mark.parametrize("percent", [50, 90])
def test_a_bound_is_kept_as_often_as_it_says(draw: str, percent: int) -> None:
    """Of 1,000 runs of 80 samples at most 10 may be below the true percentile; 21 would have a chance of 1 in 1,000."""
    truths: dict[str, Callable[[random.Random], float]] = {
        "expovariate": lambda source: source.expovariate(1),
        "lognormvariate": lambda source: source.lognormvariate(0, 1),
        "bimodal": lambda source: source.gauss(10, 1) if source.random() < 0.85 else source.gauss(30, 1),
    }
    long = random.Random(1)
    truth = float(np.percentile([truths[draw](long) for _ in range(100_000)], percent))
    below = 0
    for seed in range(1000):
        source = random.Random(seed)
        bound_ms = bound_percentile([truths[draw](source) for _ in range(80)], percent).bound_ms
        assert bound_ms is not None
        below += bound_ms < truth
    assert below <= 20


def test_a_row_keeps_its_bound_as_often_as_it_says(smallest: Path) -> None:
    """Through warming up, turns and buffers: of 100 runs one may be below; 6 would have a chance below 1 in 1,000."""
    truth_ms = -10 * math.log(1 - 0.9)  # of an exponential distribution
    below, plain_below = {"compute": 0, "end_to_end": 0}, 0
    for seed in range(100):
        source = random.Random(seed)
        row = only_row(bench(smallest, {ONE: Behaviour([source.expovariate(0.1) for _ in range(400)])}, seconds=5.0))
        assert row.compute is not None
        assert row.end_to_end is not None
        for name, timing in (("compute", row.compute), ("end_to_end", row.end_to_end)):
            (bound_ms,) = [found.bound_ms for found in timing.percentiles if found.percent == 90]
            assert bound_ms is not None
            below[name] += bound_ms < truth_ms
        plain_below += float(np.percentile(row.compute.samples_ms, 90)) < truth_ms
    assert max(below.values()) <= 5
    assert plain_below > 25, "the samples' own percentile would be half of the time"


def test_what_the_samples_do_not_support_is_not_printed() -> None:
    assert bound_percentile([1.0] * 63, 90).bound_ms is None
    assert bound_percentile([1.0] * 64, 90).bound_ms == 1
    assert bound_percentile([1.0] * 661, 99).bound_ms is None
    assert summarise([1.0], boundary="x", clips_a_query=1).median_ms == 1


def test_the_table_says_how_many_samples_a_percentile_lacks(exported: Path) -> None:
    report = bench(exported, {ONE: Behaviour((20_000.0,))}, seconds=1.0)
    assert "| 3 | 20000, needs 64, has 3 |" in write_tables(report)


def test_student_is_the_tables() -> None:
    known = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980}
    assert {freedom: round(student_quantile(0.975, freedom), 3) for freedom in known} == known


def test_an_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    """Of 1,000 runs of five pairs 950; under 920 or over 975 would have a chance below 1 in 1,000."""
    held = 0
    for seed in range(1000):
        source = random.Random(seed)
        base = [source.lognormvariate(2, 0.3) for _ in range(5)]
        ratio = compare_pairs(base, [0.7 * ms * source.lognormvariate(0, 0.2) for ms in base], base="x")
        assert ratio.low is not None
        assert ratio.high is not None
        held += ratio.low <= 0.7 <= ratio.high
    assert 920 <= held <= 975


def test_one_pair_has_no_interval() -> None:
    ratio = compare_pairs([2.0], [1.0], base="x")
    assert (ratio.ratio, ratio.each, ratio.low, ratio.high) == (0.5, (0.5,), None, None)


def test_warming_up_ends_when_times_are_flat_and_not_before() -> None:
    times = iter([50.0, 40.0, 30.0, 20.0, 10.0, 10.0, 10.0, 10.0, 10.0])
    made = warm_up(lambda calls: [next(times)] * calls, [], clock=Clock())
    assert made.flat
    assert list(made.medians_ms) == [50.0, 40.0, 30.0, 20.0, 10.0, 10.0, 10.0, 10.0]
    assert made.calls_a_turn == 10


def test_the_first_call_of_the_proof_is_no_warm_one() -> None:
    made = warm_up(lambda calls: [10.0], [500.0, 10.0, 10.0, 10.0, 10.0], clock=Clock())
    assert (made.flat, made.turns, made.earlier_calls) == (True, 0, 5)


def test_the_limit_is_the_longer_of_arithmetic_and_memory(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    rates = Rates(measured_by="x", precision="fp32", gemm_flops=1e12, copy_bytes=1e3)
    limit = find_limit(manifest, clips=2, calls=1, rates=rates, compute_ms=1e6)
    assert limit.flops == 2 * manifest.model.flops(manifest.clip)
    parameters = manifest.model.parameters
    frames, tokens = 2 * 4 * 64 * 96 * 3, 2 * 4 * manifest.clip.tokens * manifest.model.dim
    assert limit.least_bytes == 4 * parameters + frames + tokens
    assert limit.bound_ms == limit.memory_ms > limit.arithmetic_ms
    assert find_limit(manifest, 2, 1, replace(rates, copy_bytes=1e15), 1.0).bound_ms == limit.arithmetic_ms


def test_a_row_that_is_faster_than_its_limit_is_marked(exported: Path) -> None:
    row = only_row(bench(exported, {ONE: Behaviour((0.01,))}))
    assert row.limit is not None
    assert row.limit.fraction > 1
    assert any("faster than its limit" in reason for reason in row.unstable)


def test_what_a_device_reached_at_its_best_is_the_limit() -> None:
    slow = Rates(measured_by="x", precision="fp32", gemm_flops=1e9, copy_bytes=4e9)
    assert take_best([slow, replace(slow, gemm_flops=3e9, copy_bytes=2e9)]) == replace(slow, gemm_flops=3e9)


def test_rates_that_cannot_be_measured_are_a_sentence() -> None:
    assert measure_rates("gpu:0", "fp32") == "nothing here measures what a gpu:0 can do"


def test_exponents_are_those_of_the_points() -> None:
    points = [
        Point(frames=frames, pixels=65536, batch=batch, compute_ms=3.0 * frames**1.25 * batch)
        for frames, batch in ((8, 1), (16, 1), (32, 1), (16, 4))
    ]
    by_axis = {fit.axis: fit for fit in fit_scaling("x", points)}
    assert set(by_axis) == {"frames", "batch"}
    assert by_axis["frames"].exponent == pytest.approx(1.25)
    assert by_axis["frames"].residual == pytest.approx(0, abs=1e-9)
    assert by_axis["batch"].exponent == pytest.approx(1)
    assert by_axis["batch"].residual is None, "two points fit always"
    assert [fit.unstable for fit in by_axis.values()] == [0, 0]


def test_an_exponent_through_points_that_are_in_doubt_says_so(exported: Path) -> None:
    points = [Point(frames=n, pixels=65536, batch=1, compute_ms=2.0 * n, unstable=n == 16) for n in (8, 16, 32)]
    fits = fit_scaling("x", points)
    assert fits[0].unstable == 1
    report = bench(exported, {ONE: Behaviour((0.01,))})
    assert "within 0%; **1 of 3 unstable**)" in write_tables(replace(report, scaling=tuple(fits)))
    steady = tuple(replace(point, unstable=False) for point in points)
    assert "within 0%)" in write_tables(replace(report, scaling=(replace(fits[0], points=steady),)))


# what cannot be done


def test_bundles_of_different_models_are_refused(exported: Path, in_threes: Path) -> None:
    first, second = Bundle.open(exported), Bundle.open(in_threes)
    deeper = replace(second.manifest, model=replace(second.manifest.model, depth=3))
    with pytest.raises(BundleError, match=r"are bundles of different models: tiny of 2 blocks.*tiny of 3 blocks"):
        plan_rows([first, replace(second, manifest=deeper)], [ONE])


def test_a_backend_that_is_not_here_is_an_error_if_it_was_asked_for(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(exported)
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"cannot be timed: onnxruntime needs onnxruntime; pip install"):
        plan_rows([bundle], [ONE])
    with pytest.raises(MissingDependencyError, match="nothing here runs these bundles"):
        plan_rows([bundle], [])


def test_what_was_not_asked_for_and_is_not_here_is_left_out_and_told(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "find_missing", lambda name, *_: None if name == ONE else f"{name} needs more")
    plan = plan_rows([Bundle.open(exported)], [])
    assert [name for _, name in plan.rows] == [ONE]
    assert len(plan.skipped) == len(BACKENDS) - 1
    assert set(plan.skipped.values()) == {f"{name} needs more" for name in BACKENDS if name != ONE}


# on this machine


def test_a_row_in_a_process_of_its_own(exported: Path) -> None:
    pytest.importorskip("onnxruntime")
    request = RowRequest(bundle=str(exported), backend=ONE, device=None, precision=None, clips=1, video=None)
    with WorkerSubject(request) as subject:
        opened = subject.open()
        assert opened.verdict.passed
        assert opened.faults == ()
        assert min(asdict(opened.cold)[name] for name in ("process_ms", "import_ms", "verify_ms", "open_ms")) > 0
        assert len(opened.earlier_ms) == opened.verdict.clips + 1
        turn = subject.turn(3)
        assert len(turn.compute_ms) == len(turn.end_to_end_ms) == 3
        assert all(whole >= part > 0 for part, whole in zip(turn.compute_ms, turn.end_to_end_ms, strict=True))
        assert subject.session is not None
        assert 0 < read_cpu_time([subject.session]).ours_s <= read_cpu_time().busy_s
        process = subject._process
        assert process is not None
        process.kill()
        with pytest.raises(BackendError, match="the process that ran onnxruntime ended with exit status -9"):
            subject.turn(1)
    subject.close()


def test_what_a_worker_cannot_open_is_told(bundle_copy: Path) -> None:
    (bundle_copy / "weights.data").write_bytes(b"")
    request = RowRequest(bundle=str(bundle_copy), backend=ONE, device=None, precision=None, clips=1, video=None)
    with WorkerSubject(request) as subject, pytest.raises(BackendError, match="its manifest says"):
        subject.open()


def test_the_command_prints_rows_and_leaves_the_report_in_the_bundle(
    bundle_copy: Path, write_video: Callable[..., Path], scene: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(bundle_copy), "--backends", ONE, "--seconds", "0", "--video", str(write_video(scene))]
    with pytest.raises(SystemExit) as done:
        main([*words, "--json", "-"])
    assert not done.value.code
    record = json.loads(capsys.readouterr().out)
    assert record["passed"] is True
    (row,) = record["rows"]
    assert row["compute"]["median_ms"] < row["end_to_end"]["median_ms"]
    assert record["starts_from"].startswith("the file ")
    assert row["limit"]["fraction"] > 0
    assert row["finished"]["peak_bytes"] > 1e7
    assert json.loads((bundle_copy / "reports" / "latency.json").read_text()) == record
    Bundle.open(bundle_copy)


def test_an_interrupted_command_is_exit_status_1_and_its_report_is_written(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = bench(bundle_copy, {ONE: Behaviour(fails_after=30)})

    def measure(*_: object, save: Callable[[LatencyReport], None], **__: object) -> LatencyReport:
        save(part)
        return part

    monkeypatch.setattr(bench_cli, "measure_latency", measure)
    with pytest.raises(SystemExit) as done:
        main(["bench", str(bundle_copy), "--backends", ONE])
    assert done.value.code == 1
    assert "not passed: it was interrupted, or still goes on: rows are missing or short" in capsys.readouterr().out
    record = json.loads((bundle_copy / "reports" / "latency.json").read_text())
    assert (record["partial"], record["passed"]) == (True, False)
    assert record["rows"][0]["compute"]["samples_ms"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--backends", "tpu"), "no backend is named 'tpu'"),
        (("--video", "none.mp4"), "'none.mp4' does not exist"),
        (("--backends", ONE, "--device", "tpu"), f"{ONE} has no device 'tpu'; it has cpu"),
    ],
)
def test_what_cannot_be_done_is_exit_status_2(
    words: tuple[str, ...], told: str, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(["bench", str(exported), *words])
    assert done.value.code == 2
    assert told in capsys.readouterr().err


def test_a_video_that_gives_no_clip_is_told_before_anything_is_timed(
    bundle_copy: Path,
    write_video: Callable[..., Path],
    scene: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench_cli, "Surroundings", lambda say: surround({}))  # whoever opens a row fails
    text = bundle_copy.parent / "text.mp4"
    text.write_text("no video")
    for video, told in (
        (write_video(scene[:2], "short.mp4"), r"short\.mp4: .*has 2 frames and the clip takes 4"),
        (text, r"text\.mp4: "),
    ):
        with pytest.raises(SystemExit) as done:
            main(["bench", str(bundle_copy), "--backends", ONE, "--video", str(video)])
        assert done.value.code == 2
        captured = capsys.readouterr()
        assert re.search(told, captured.err)
        assert "Traceback" not in captured.err
        assert captured.out == ""
    assert not (bundle_copy / "reports").exists(), "no report of nothing"


def test_the_machine_is_told() -> None:
    machine, now = describe_machine(), read_state()
    assert machine.cores >= 1
    assert machine.versions["numpy"] == np.__version__
    assert now.load_1m >= 0


def test_the_fake_is_no_backend_that_users_can_choose() -> None:
    assert FakeBackend.name not in BACKENDS
