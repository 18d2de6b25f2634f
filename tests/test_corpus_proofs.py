"""Do the proofs of corpus runs fail where they must, and are processes held where they say?"""

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from benchmarks.corpus.cost import judge_cost
from benchmarks.corpus.kills import Chaos
from benchmarks.corpus.runs import Case
from tests.corpus_kills import Turns
from vjepa2.runtime.corpus_seal import CorpusSeal


def judge(four: list[float], sixteen: list[float]) -> dict[str, object]:
    """The verdict beside a bare loop that takes about a second a turn."""
    seconds = {"bare": [1.0, 1.1, 0.9, 1.0], "local, 4 shards": four, "local, 16 shards": sixteen}
    return judge_cost(seconds, dict.fromkeys(seconds, 2.0))


def test_a_run_passes_that_costs_little_with_few_shards_and_many() -> None:
    report = judge([1.01, 1.11, 0.91, 1.01], [1.04, 1.14, 0.94, 1.04])
    assert report["passed"] is True
    assert report["throughput_spread"] == pytest.approx(0.03, abs=0.001)
    assert report["local_over_bare_loop"] == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("four", "sixteen"),
    [
        ([1.0, 1.1, 0.9, 1.0], [1.06, 1.16, 0.96, 1.06]),  # more shards are slower
        ([1.06, 1.16, 0.96, 1.06], [1.0, 1.1, 0.9, 1.0]),  # and fewer
        ([1.04, 1.14, 0.94, 1.04], [1.04, 1.14, 0.94, 1.04]),  # all are slower than the loop
        ([1.1, 1.0, 0.9, 1.0], [1.0, 1.1, 0.9, 1.0]),  # the machine was not quiet
    ],
)
def test_a_run_fails_that_costs_too_much_or_was_not_measured_well(four: list[float], sixteen: list[float]) -> None:
    assert judge(four, sixteen)["passed"] is False


def test_a_process_is_held_at_its_point_until_it_may_go_on(tmp_path: Path) -> None:
    turns = Turns(tmp_path, "batch_embedded", first=2, every=3)
    script = "from vjepa2.runtime.corpus_points import pass_point\nfor n in range(6): pass_point('batch_embedded')\n"
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ | turns.environment)
    try:
        for passed in (2, 5):
            turns.wait()
            assert (tmp_path / "points.log").read_text().count("batch_embedded") == passed
            assert process.poll() is None
            turns.go()
        assert process.wait(60) == 0
        with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
            turns.wait(0.1)
    finally:
        process.kill()
        process.wait()
        turns.close()


class NothingToKill:
    """A corpus whose runs end at once, as if their processes could not be found."""

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """A run that some videos ended badly for."""
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], stderr=subprocess.PIPE, text=True)

    def clear(self) -> None:
        """Nothing."""

    def workers(self) -> list[object]:
        """None."""
        return []

    decoders = workers

    def points(self) -> list[str]:
        """None."""
        return []


def test_kills_that_find_nothing_to_kill_end_as_a_fault() -> None:
    chaos = Chaos(cast(Case, NothingToKill()), cast(CorpusSeal, None), "local", seed=0)
    chaos.spend(["worker"] * 4)
    assert "3 corpora ended before a worker of theirs was killed" in chaos.faults
    assert not chaos.kills
