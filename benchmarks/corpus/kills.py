"""What is left of a corpus when its processes are killed (-9) at random moments?"""

import random
import subprocess
import time
from collections import Counter

import psutil

from vjepa2.runtime.corpus_seal import CorpusSeal

from .runs import Case, find_faults

_PATIENCE_S = 90.0
_IN_VAIN = 3  # corpora in a row that end before anything of theirs was killed


class Chaos:
    """Runs one corpus again and again, and kills what it is told to, until all kills are spent."""

    def __init__(self, case: Case, reference: CorpusSeal, way: str, seed: int) -> None:
        self._case, self._reference, self._way = case, reference, way
        self._random = random.Random(seed)
        self._run: subprocess.Popen[str] | None = None
        self.kills: Counter[str] = Counter()
        self.ended_workers = 0
        self.corpora = 0
        self.begun = self.embedded = 0
        self.faults: list[str] = []

    def spend(self, targets: list[str]) -> None:
        """Kill each target, in a random order, at random moments of runs that are finished and verified in the end."""
        self._random.shuffle(targets)
        self._case.clear()
        vain = 0
        while targets and vain < _IN_VAIN:
            if self._run is None:
                self._run = self._case.start("--on", self._way, "--workers", "2")
            self._wait(self._random.uniform(0.3, 2.5))
            if self._ended():
                vain += 1
            elif self._kill(targets[-1]):
                targets.pop()
                vain = 0
        if targets:
            self.faults.append(f"{vain} corpora ended before a {targets[-1]} of theirs was killed")
        while self._run is None or not self._ended(final=True):
            if self._run is None:
                self._run = self._case.start("--on", self._way, "--workers", "2")
            self._wait(0.5)

    def _wait(self, seconds: float) -> None:
        """Let a run go on, once its workers have their models."""
        begun_s = time.monotonic()
        while self._is_running() and not self._case.decoders():
            if time.monotonic() - begun_s > _PATIENCE_S:
                self.faults.append("a run has no worker that decodes")
                return
            time.sleep(0.05)
        until_s = time.monotonic() + seconds
        while self._is_running() and time.monotonic() < until_s:
            time.sleep(0.02)

    def _is_running(self) -> bool:
        return self._run is not None and self._run.poll() is None

    def _kill(self, target: str) -> bool:
        assert self._run is not None
        if target == "driver":
            self.ended_workers += len(self._case.workers())
            self._run.kill()
            self._run.communicate()
            self._run = None
        else:
            try:
                found = self._find(target)
                if not found:
                    return False
                self._random.choice(found).kill()
            except psutil.NoSuchProcess:
                return False
            self.ended_workers += target != "decoder"
        self.kills[target] += 1
        return True

    def _find(self, target: str) -> list[psutil.Process]:
        """Processes of a kind; Ray's actors hide theirs, and are known by their children."""
        if target != "Ray actor":
            return self._case.workers() if target == "worker" else self._case.decoders()
        parents = (worker.parent() for worker in self._case.workers())
        return [parent for parent in parents if parent is not None and parent.name().startswith("ray::")]

    def _ended(self, *, final: bool = False) -> bool:
        """Whether the run is over; then verify it, and make the next one begin anew."""
        if self._run is None or self._run.poll() is None:
            return False
        words, code = self._run.communicate()[1], self._run.returncode
        self._run = None
        if code != 1:  # some videos are none
            self.faults.append(f"exit status {code}: {words[-300:]}")
        else:
            self.faults += find_faults(self._case, self._reference)
        points = self._case.points()
        self.begun, self.embedded = self.begun + points.count("shard_begun"), self.embedded + points.count("video_done")
        self.corpora += 1
        if not final:
            self._case.clear()
        return True

    def report(self) -> dict[str, object]:
        """What was killed, what was repeated, and whether all is as it must be."""
        shards, videos = self._reference.shards * self.corpora, len(self._case.plan.table) * self.corpora
        kills = sum(self.kills.values())
        most = self._case.plan.policy.clips_per_shard
        repeated, again = self.begun - shards, self.embedded - videos
        return {
            "way": self._way,
            "kills": dict(self.kills),
            "corpora": self.corpora,
            "faults": self.faults,
            "workers_ended": self.ended_workers,
            "shards_begun_again": repeated,
            "videos_embedded_again": again,
            "shards_of_work_again_a_kill": round(again / most / kills, 3),
            "passed": not self.faults and repeated <= self.ended_workers and again <= most * kills,
        }
