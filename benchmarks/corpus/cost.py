"""What does it cost to embed in shards, in other processes, or by Ray, beside a bare loop over the same videos?

A bare loop is `EmbeddingEngine.encode` in one process. Of a run the time from a worker's model being ready to the last
shard being counted is taken, so that a start, which a longer corpus has once, is told apart.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.corpus_kills import read_times

from .runs import Case, make_case

ROUNDS = 3
SHARDS = (4, 8, 16, 32, 64)
WITHIN, OVERHEAD = 0.05, 0.03
_BARE = """
import json, sys, time
from vjepa2.bundle import Bundle
from vjepa2.runtime import EmbeddingEngine, open_backend
videos = json.loads(sys.stdin.read())
with EmbeddingEngine(open_backend(Bundle.open(sys.argv[1]), "onnxruntime", threads=1)) as engine:
    engine.encode(videos[:1])
    begun_s = time.perf_counter()
    engine.encode(videos)
    print(time.perf_counter() - begun_s)
"""


def measure_cost(videos: Path, bundle: Path, folder: Path, ways: tuple[str, ...]) -> dict[str, object]:
    """Seconds of each, in turns, and the medians of what each takes beside the bare loop of its round."""
    cases = {shards: make_case(videos, bundle, folder / str(shards), -(-_count(videos) // shards)) for shards in SHARDS}
    times: dict[str, list[float]] = {}
    starts: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        times.setdefault("bare", []).append(_run_bare(cases[SHARDS[0]], bundle))
        for shards, case in cases.items():
            _keep(times, starts, f"local, {shards} shards", _run(case, "local"))
        for way in ways:
            if way != "local":
                _keep(times, starts, f"{way}, {SHARDS[0]} shards", _run(cases[SHARDS[0]], way))
    medians = {name: statistics.median(each) for name, each in times.items()}
    over = {name: _ratio(times[name], times["bare"]) - 1 for name in times if name != "bare"}
    rates = {name: _count(videos) / seconds for name, seconds in medians.items() if name.startswith("local")}
    spread = max(
        abs(_ratio(times[f"local, {shards} shards"], times[f"local, {SHARDS[0]} shards"]) - 1) for shards in SHARDS
    )
    local = statistics.median(over[f"local, {shards} shards"] for shards in SHARDS)
    return {
        "videos": _count(videos),
        "rounds": ROUNDS,
        "bare_ms_a_clip": round(1000 * medians["bare"] / _count(videos), 2),
        "seconds": {name: [round(value, 2) for value in each] for name, each in times.items()},
        "clips_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "over_bare_loop": {name: round(value, 4) for name, value in over.items()},
        "start_s": {name: round(statistics.median(each), 2) for name, each in starts.items()},
        "throughput_spread": round(spread, 4),
        "local_over_bare_loop": round(local, 4),
        "limits": {"throughput_spread": WITHIN, "local_over_bare_loop": OVERHEAD},
        "passed": spread <= WITHIN and local <= OVERHEAD,
    }


def _keep(times: dict[str, list[float]], starts: dict[str, list[float]], name: str, taken: tuple[float, float]) -> None:
    times.setdefault(name, []).append(taken[1])
    starts.setdefault(name, []).append(taken[0])


def _ratio(ours: list[float], others: list[float]) -> float:
    """The median of pairs that were measured one after the other."""
    return statistics.median(mine / theirs for mine, theirs in zip(ours, others, strict=True))


def _run_bare(case: Case, bundle: Path) -> float:
    words = [sys.executable, "-c", _BARE, str(bundle)]
    videos = json.dumps(case.plan.table["video"].to_pylist())
    return float(subprocess.run(words, input=videos, capture_output=True, text=True, check=True).stdout)


def _run(case: Case, way: str) -> tuple[float, float]:
    """Seconds to a worker that is ready, and from there to the last shard, with one worker."""
    case.clear()
    begun_s = time.monotonic()
    run = case.start("--on", way, "--workers", "1")
    words = run.communicate()[1]
    if run.returncode:
        raise RuntimeError(words)
    passed = read_times(case.notes)
    ready_s = next(time_s for time_s, point in passed if point == "run_claimed")
    done_s = max(time_s for time_s, point in passed if point == "shard_counted")
    return ready_s - begun_s, done_s - ready_s


def _count(videos: Path) -> int:
    return len(list(videos.iterdir()))
