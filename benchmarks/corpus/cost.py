"""What do shards, other processes and Ray cost beside a bare loop over the same videos?

A bare loop is `EmbeddingEngine.encode` in one process. It and a run of each kind, of one worker, live at the same time
and go on by turns of so many clips, held between a batch that was computed and the next: a machine whose speed swings
does so for all alike, and what starting takes, which a longer corpus has once, is over before the first turn. Turns
begin and end inside a shard, so that each has as many ends of shards as its clips have.
"""

import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.corpus_kills import Turns

from .runs import BACKEND, Case, make_case

SHARDS = (4, 8, 16, 32, 64)
TURN = 32  # clips
WITHIN, OVERHEAD = 0.05, 0.03
CERTAIN = 0.015  # the largest standard error with which a run passes
_BARE = """
import sys
from vjepa2.bundle import Bundle
from vjepa2.runtime import EmbeddingEngine, open_backend
from vjepa2.runtime.corpus_points import pass_point

class Pausing:
    def __init__(self, backend):
        self._backend = backend
    def __getattr__(self, name):
        return getattr(self._backend, name)
    def run(self, *words):
        outputs = self._backend.run(*words)
        pass_point("batch_embedded")
        return outputs

videos = open(sys.argv[2]).read().splitlines()
with EmbeddingEngine(Pausing(open_backend(Bundle.open(sys.argv[1]), "onnxruntime", threads=1))) as engine:
    engine.encode(videos)
"""


class _Runner:
    """A process that goes on by turns."""

    def __init__(self, name: str, folder: Path, words: Sequence[str], first: int) -> None:
        self.name = name
        self._turns = Turns(folder, "batch_embedded", first, TURN)
        self._words = (folder / "words").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, *words],
            env=os.environ | self._turns.environment,
            stdout=subprocess.DEVNULL,
            stderr=self._words,
        )
        self.start_s = self._turn(time.monotonic())

    def turn(self) -> float:
        """Seconds that a turn takes."""
        begun_s = time.monotonic()
        self._turns.go()
        return self._turn(begun_s)

    def _turn(self, begun_s: float) -> float:
        try:
            return self._turns.wait() - begun_s
        except TimeoutError as error:
            raise RuntimeError(f"{self.name}: {error}; exit status {self._process.poll()}: {self._say()}") from error

    def finish(self) -> None:
        """Let it end; a `RuntimeError` if it does not end well."""
        self._turns.go(99)
        if self._process.wait():
            raise RuntimeError(f"{self.name}: exit status {self._process.returncode}: {self._say()}")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._words.close()
        self._turns.close()

    def _say(self) -> str:
        self._words.seek(0)
        return self._words.read()[-500:]


def measure_cost(
    videos: Path, bundle: Path, folder: Path, ways: tuple[str, ...], shards: tuple[int, ...] = SHARDS
) -> dict[str, object]:
    """Seconds of each by turns, beside the bare loop's."""
    count = len(list(videos.iterdir()))
    shutil.rmtree(folder, ignore_errors=True)
    cases = {number: make_case(videos, bundle, folder / str(number), -(-count // number)) for number in shards}
    first = -(-count // max(shards)) // 2  # the middle of the smallest shard, and inside of all others
    with ExitStack() as stack:
        runners = [_start_bare(cases[shards[0]], folder / "bare", first)]
        stack.callback(runners[0].close)
        for way in ways:
            for number in shards if way == "local" else shards[:1]:
                case = cases[number]
                runners.append(_start_run(f"{way}, {number} shards", case, way, folder / f"{way}-{number}", first))
                stack.callback(runners[-1].close)
        seconds: dict[str, list[float]] = {runner.name: [] for runner in runners}
        for number in range((count - first) // TURN):
            at = number % len(runners)
            for runner in runners[at:] + runners[:at]:
                seconds[runner.name].append(runner.turn())
        for runner in runners:
            runner.finish()
        starts = {runner.name: runner.start_s for runner in runners}
    return {"videos": count, "clips_a_turn": TURN} | judge_cost(seconds, starts)


def judge_cost(seconds: dict[str, list[float]], starts: dict[str, float]) -> dict[str, object]:
    """What each took beside the bare loop, and the runs with more shards beside that with the fewest."""
    bare = seconds["bare"]
    local = [name for name in seconds if name.startswith("local")]
    rows = {
        name: {
            "ms_a_clip": round(1000 * sum(turns) / len(turns) / TURN, 2),
            "start_s": round(starts[name], 2),
            "over_bare_loop": round(sum(turns) / sum(bare) - 1, 4),
            "uncertain_by": round(_find_error(turns, bare), 4),
            "turns_s": [round(each, 3) for each in turns],
        }
        for name, turns in seconds.items()
    }
    spread = max(abs(sum(seconds[name]) / sum(seconds[local[0]]) - 1) for name in local)
    over = statistics.median(sum(seconds[name]) / sum(bare) - 1 for name in local)
    error = max(_find_error(seconds[name], bare) for name in local)
    return {
        "runs": rows,
        "throughput_spread": round(spread, 4),
        "local_over_bare_loop": round(over, 4),
        "uncertain_by": round(error, 4),
        "limits": {"throughput_spread": WITHIN, "local_over_bare_loop": OVERHEAD, "uncertain_by": CERTAIN},
        "passed": spread <= WITHIN and over <= OVERHEAD and error <= CERTAIN,
    }


def _find_error(turns: list[float], bare: list[float]) -> float:
    """The standard error of their ratio, by how it differs from turn to turn."""
    ratios = [one / other for one, other in zip(turns, bare, strict=True)]
    return statistics.stdev(ratios) / math.sqrt(len(ratios))


def _start_bare(case: Case, folder: Path, first: int) -> _Runner:
    folder.mkdir(parents=True)
    (folder / "videos").write_text("\n".join(case.plan.table["video"].to_pylist()))
    return _Runner("bare", folder, ["-c", _BARE, str(case.bundle), str(folder / "videos")], first)


def _start_run(name: str, case: Case, way: str, folder: Path, first: int) -> _Runner:
    """A run of one worker."""
    command = ["-m", "vjepa2", "corpus", "run", str(case.file), str(case.bundle), "-o", str(folder / "output")]
    return _Runner(name, folder, [*command, *BACKEND, "--on", way, "--workers", "1"], first)
