"""Does a stream run on and on: `python -m tests.soak_stream 20 auto`, or `make soak-stream`, for so many minutes?

A tiny model follows a file that is played again and again, at rates from 2 to 60 frames a second, with a jump of its
time stamps; its worker is killed or frozen now and then. Memory of parent and worker is sampled.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.fuzz_video import find_children, look_around
from tests.slopes import Slope, fit_slope
from tests.videos import write
from vjepa2.runtime import EmbeddingEngine
from vjepa2.runtime.scenes import generate_scene
from vjepa2.runtime.stream import EmbeddingStream, StreamSummary, open_stream
from vjepa2.runtime.stream_source import Playing

RATES_HZ = (30, 5, 60, 2, 15)  # four seconds of each
JUMP_S = 7.0
PLAYING = Playing(sampling="fps:8", loop=True, stall_s=3.0)
STRIDE = "0.125s"
SAMPLE_S, BIN_S = 2.0, 20.0
WARM_UP = 0.25  # of the whole: until what is remembered, of which there is a fixed amount, and malloc's heap are full
SETTLED = 0.05  # of the whole: as much of each worker's life, which begins with an empty heap
# When, of the whole: killed and frozen in turns. The early ones fill what is remembered of reconnecting; the late ones
# show what each leaves behind, and between them a worker lives long enough to show what it keeps itself.
DISTURBED = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.4, 0.55, 0.7)
NOTHING_MB, VISIBLE_MB = 1.0, 20.0  # an hour; a leak of a kilobyte a window would be more than 20
_EXPORT = """
import sys
from pathlib import Path
from tests.conftest import make_bundle
make_bundle("soak", Path(sys.argv[1]), simplify=False)
"""


@dataclass(slots=True)
class Samples:
    """What was measured, in megabytes."""

    times_s: list[float] = field(default_factory=list)
    parent_mb: list[float] = field(default_factory=list)
    worker_times_s: list[float] = field(default_factory=list)
    worker_mb: list[float] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def take(self, now_s: float) -> None:
        """Look at this process and its worker."""
        self.times_s.append(now_s)
        self.parent_mb.append(resident_mb(os.getpid()))
        self.descriptors.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208
        for worker in find_children():
            self.worker_times_s.append(now_s)
            self.worker_mb.append(resident_mb(worker))
            self.workers.append(worker)

    def fit(self, seconds: float) -> tuple[Slope, Slope]:
        """Of parent and worker, without the time in which memory fills; each worker has a level of its own."""
        parents = list(zip(self.times_s, self.parent_mb, [0] * len(self.times_s), strict=True))
        born_s = dict(zip(reversed(self.workers), reversed(self.worker_times_s), strict=True))
        rows = zip(self.worker_times_s, self.worker_mb, self.workers, strict=True)
        workers = [row for row in rows if row[0] > born_s[row[2]] + SETTLED * seconds]
        late = ([row for row in rows if row[0] > WARM_UP * seconds] for rows in (parents, workers))
        parent, worker = (fit_slope(*zip(*rows, strict=True), bin_s=BIN_S) for rows in late)
        return parent, worker


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakReport:
    """How it went, and whether well: no growth, nothing left, windows and gaps as there must be."""

    machine: str
    backend: str
    minutes: float
    summary: StreamSummary
    killed: int
    frozen: int
    parent: Slope  # MB an hour
    worker: Slope
    parent_mb: list[float]  # in ten parts of the time
    worker_mb: list[float]
    most_descriptors: int
    left: list[str]
    faults: list[str]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def soak(minutes: float, name: str) -> SoakReport:
    """Stream for so long and judge."""
    before = look_around()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        subprocess.run([sys.executable, "-c", _EXPORT, str(folder)], check=True)
        video = write_rates(folder / "rates.mkv")
        with EmbeddingEngine.open(folder / "bundle", name) as engine:
            held = look_around()
            with open_stream(engine.queue, video, stride=STRIDE, playing=PLAYING, notify=print_note) as stream:
                samples, disturbed = follow(stream, 60 * minutes)
                summary = stream.summarise()
            left = sorted((look_around() - held) | {text for text in look_around() - before if "process" in text})
    parent, worker = samples.fit(60 * minutes)
    return SoakReport(
        machine=describe_machine(),
        backend=engine.backend.name,
        minutes=minutes,
        summary=summary,
        killed=disturbed[signal.SIGKILL],
        frozen=disturbed[signal.SIGSTOP],
        parent=parent,
        worker=worker,
        parent_mb=[round(float(np.mean(part)), 2) for part in np.array_split(samples.parent_mb, 10)],
        worker_mb=[round(float(np.mean(part)), 2) for part in np.array_split(samples.worker_mb, 10)],
        most_descriptors=max(samples.descriptors) - min(samples.descriptors),
        left=left,
        faults=find_faults(summary, parent, worker, left, sum(disturbed.values())),
    )


def find_faults(summary: StreamSummary, parent: Slope, worker: Slope, left: list[str], disturbed: int) -> list[str]:
    """What is not as it must be."""
    faults = [f"{text} is left" for text in left]
    for name, slope in (("parent", parent), ("worker", worker)):
        if not slope.is_within_noise(nothing=NOTHING_MB, visible=VISIBLE_MB):
            faults.append(f"the {name}'s memory: {slope.low:.2f} to {slope.high:.2f} MB an hour")
    if disturbed != len(DISTURBED):
        faults.append(f"disturbed {disturbed} times of {len(DISTURBED)}")
    rounds = summary.sessions - 1 - disturbed  # that came to their end; those disturbed may not have come to the jump
    if rounds < 1 or not 2 * rounds + disturbed <= summary.gaps <= 2 * summary.sessions:
        faults.append(f"{summary.sessions} sessions and {summary.gaps} gaps; each round has a jump and an end")
    if summary.windows < summary.seconds:
        faults.append(f"{summary.windows} windows in {summary.seconds:.0f} s; there must be more than one a second")
    return faults


def follow(stream: EmbeddingStream, seconds: float) -> tuple[Samples, dict[signal.Signals, int]]:
    """Take windows for so long, sample now and then, and disturb the worker at its times."""
    samples, done = Samples(), {signal.SIGKILL: 0, signal.SIGSTOP: 0}
    began_s = time.monotonic()
    next_s, pending = 0.0, [part * seconds for part in DISTURBED]
    for _ in stream:
        now_s = time.monotonic() - began_s
        if now_s >= seconds:
            break
        if now_s >= next_s:
            samples.take(now_s)
            next_s = now_s + SAMPLE_S
        if pending and now_s >= pending[0]:
            kind = (signal.SIGKILL, signal.SIGSTOP)[len(pending) % 2]
            for worker in find_children():
                os.kill(worker, kind)
                done[kind] += 1
            pending.pop(0)
    return samples, done


def write_rates(file: Path) -> Path:
    """A video whose frame rate changes, and whose time stamps jump once."""
    times_s, now_s = [], 0.0
    for rate_hz in RATES_HZ:
        times_s += [now_s + number / rate_hz for number in range(4 * rate_hz)]
        now_s += 4.0 if rate_hz != 60 else 4.0 + JUMP_S
    scene = generate_scene(len(times_s), 96, 128, seed=1)
    return write(file, scene, "mpeg4", times_s=times_s, options={"g": "30"})


def resident_mb(process: int) -> float:
    """Resident memory; 0 of a process that has just died."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def describe_machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("av", "numpy", "onnxruntime", "openvino"))
    return f"{date.today()}, {platform.machine()}, Python {platform.python_version()}, {libraries}"


def print_note(text: str) -> None:
    print(f"{time.monotonic():.1f} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    report = soak(float(sys.argv[1]), sys.argv[2])
    print(json.dumps(asdict(report) | {"passed": report.passed}, indent=1))
    print(report.summary, file=sys.stderr)
    sys.exit(0 if report.passed else 1)
