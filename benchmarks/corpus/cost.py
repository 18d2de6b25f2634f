"""What does it cost to embed in shards, in other processes, or by Ray, beside a bare loop over the same videos?

A bare loop is `EmbeddingEngine.encode` in one process. Of a run the time from a worker's model being ready to the last
shard being counted is taken, so that a start, which a longer corpus has once, is told apart. CPU seconds, which are of
the loop or of driver and worker, without the decoder that all have, say more than the clock does on a busy machine.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.corpus_kills import read_passages

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
    begun_s, used_s = time.perf_counter(), time.process_time()
    engine.encode(videos)
    print(json.dumps([time.perf_counter() - begun_s, time.process_time() - used_s]))
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run took."""

    start_s: float
    wall_s: float
    cpu_s: float


def measure_cost(
    videos: Path, bundle: Path, folder: Path, ways: tuple[str, ...], shards: tuple[int, ...] = SHARDS
) -> dict[str, object]:
    """What each takes, in turns, and the medians of that beside the bare loop of its round."""
    count = len(list(videos.iterdir()))
    cases = {number: make_case(videos, bundle, folder / str(number), -(-count // number)) for number in shards}
    taken: dict[str, list[Taken]] = {"bare": []}
    for _ in range(ROUNDS):
        taken["bare"].append(_run_bare(cases[shards[0]]))
        for number, case in cases.items():
            taken.setdefault(f"local, {number} shards", []).append(_run(case, "local"))
        for way in ways:
            if way != "local":
                taken.setdefault(f"{way}, {shards[0]} shards", []).append(_run(cases[shards[0]], way))
    local = [f"local, {number} shards" for number in shards]
    return {"videos": count, "rounds": ROUNDS} | _judge(taken, local, count)


def _judge(taken: dict[str, list[Taken]], local: list[str], count: int) -> dict[str, object]:
    rows = {}
    for name, runs in taken.items():
        rows[name] = {
            "ms_a_clip": round(1000 * statistics.median(run.wall_s for run in runs) / count, 2),
            "cpu_ms_a_clip": round(1000 * statistics.median(run.cpu_s for run in runs) / count, 2),
            "start_s": round(statistics.median(run.start_s for run in runs), 2),
            "over_bare_loop": round(_ratio(runs, taken["bare"], "wall_s") - 1, 4),
            "cpu_over_bare_loop": round(_ratio(runs, taken["bare"], "cpu_s") - 1, 4),
        }
    spread = {
        kind: round(max(abs(_ratio(taken[name], taken[local[0]], kind) - 1) for name in local), 4)
        for kind in ("wall_s", "cpu_s")
    }
    over = statistics.median(rows[name]["over_bare_loop"] for name in local)
    return {
        "runs": rows,
        "throughput_spread": spread["wall_s"],
        "cpu_spread": spread["cpu_s"],
        "local_over_bare_loop": over,
        "local_cpu_over_bare_loop": statistics.median(rows[name]["cpu_over_bare_loop"] for name in local),
        "limits": {"throughput_spread": WITHIN, "local_over_bare_loop": OVERHEAD},
        "passed": spread["wall_s"] <= WITHIN and over <= OVERHEAD,
    }


def _ratio(ours: list[Taken], others: list[Taken], kind: str) -> float:
    """The median over pairs that were measured in the same round."""
    ratios: list[float] = [getattr(mine, kind) / getattr(its, kind) for mine, its in zip(ours, others, strict=True)]
    return statistics.median(ratios)


def _run_bare(case: Case) -> Taken:
    words = [sys.executable, "-c", _BARE, str(case.bundle)]
    videos = json.dumps(case.plan.table["video"].to_pylist())
    begun_s = time.monotonic()
    done = subprocess.run(words, input=videos, capture_output=True, text=True, check=True)
    wall_s, cpu_s = json.loads(done.stdout)
    return Taken(time.monotonic() - begun_s - wall_s, wall_s, cpu_s)


def _run(case: Case, way: str) -> Taken:
    """A run with one worker."""
    case.clear()
    begun_s = time.monotonic()
    run = case.start("--on", way, "--workers", "1")
    words = run.communicate()[1]
    if run.returncode:
        raise RuntimeError(words)
    passages = read_passages(case.notes)
    ready = next(each for each in passages if each.point == "run_claimed")
    listed = next(each for each in passages if each.point == "shards_listed")
    counted = [each for each in passages if each.point == "shard_counted"][-1]
    made = [each for each in passages if each.process == ready.process][-1]
    cpu_s = made.cpu_s - ready.cpu_s + counted.cpu_s - listed.cpu_s
    return Taken(ready.time_s - begun_s, counted.time_s - ready.time_s, cpu_s)
