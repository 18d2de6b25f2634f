"""What becomes of thousands of spoilt videos: `python -m tests.fuzz_video 2000`, or `make fuzz-video`."""

import json
import re
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutated_videos import FRAMES, Mutant, mutate, write_bases
from vjepa2.runtime.decode_messages import ClipRequest, DecodeLimits, VideoReport
from vjepa2.runtime.decoder import VideoDecoder

REQUEST = ClipRequest(frames=8, height=32, width=32)
LIMITS = DecodeLimits(memory_bytes=1 << 30, cpu_s=10, deadline_s=20.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FuzzReport:
    """How a series went. `silent` are videos called ok that have lost frames; it must be empty, and so must `left`."""

    videos: int
    seed: int
    statuses: dict[str, int]
    kinds: dict[str, dict[str, int]]
    silent: list[str]
    left: list[str]  # processes, descriptors, shared memory
    workers_lost: dict[str, int]  # to what
    peak_mb: float  # resident, of the largest worker
    slowest_s: float
    seconds: float

    def find_faults(self) -> list[str]:
        """What is not as it must be; a worker may die of a video, but of none of these does one."""
        faults = [f"silent: {text}" for text in self.silent] + [f"{text} is left" for text in self.left]
        faults += [f"{count} workers were lost: {why}" for why, count in self.workers_lost.items()]
        if not 0 < self.peak_mb <= LIMITS.memory_bytes / 1e6:
            limit = f"it must be more than 0, and at most {LIMITS.memory_bytes / 1e6:.0f}"
            faults.append(f"a worker held {self.peak_mb:.0f} MB; {limit}")
        return faults


def fuzz(count: int, *, seed: int = 0) -> FuzzReport:
    """Decode `count` mutants with one decoder; raises if one of them brings it down."""
    began_s, before = time.perf_counter(), look_around()
    statuses: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    silent, slowest_s, peak_mb, others = [], 0.0, 0.0, find_children()
    with tempfile.TemporaryDirectory() as name, VideoDecoder(LIMITS) as decoder:
        bases = write_bases(Path(name))
        file = Path(name) / "mutant"
        for number in range(count):
            mutant = mutate(bases, number, seed=seed)
            file.write_bytes(mutant.data)
            start_s = time.perf_counter()
            clips, report = decoder.read(file, REQUEST)
            slowest_s = max(slowest_s, time.perf_counter() - start_s)
            peak_mb = max([peak_mb, *map(read_peak_mb, find_children() - others)])
            statuses[report.status] += 1
            kinds.setdefault(mutant.name.split("-")[1], Counter())[report.status] += 1
            if "its decoder" in (report.reason or ""):
                lost[report.reason or ""] += 1
            if is_silent(mutant, report, len(clips)):
                silent.append(f"{mutant.name}: {report}, {report.frames} frames")
    return FuzzReport(
        videos=count,
        seed=seed,
        statuses=dict(statuses),
        kinds={kind: dict(counts) for kind, counts in sorted(kinds.items())},
        silent=silent,
        left=sorted(look_around() - before),
        workers_lost=dict(lost),
        peak_mb=peak_mb,
        slowest_s=slowest_s,
        seconds=time.perf_counter() - began_s,
    )


def is_silent(mutant: Mutant, report: VideoReport, clips: int) -> bool:
    """Whether a video is called ok and has no clip, or not the frames that it was made with, shown or told of."""
    return report.status == "ok" and (
        clips != 1 or (bool(mutant.base) and (report.frames or 0) + report.hidden != FRAMES)
    )


def look_around() -> set[str]:
    """Descriptors, children and shared memory of this process: what must be the same before and after."""
    descriptors = {f"descriptor {link}" for link in _links(Path("/proc/self/fd"))}
    children = {f"process {child}" for child in find_children()}
    shared = {f"shared {line}" for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:" in line}
    return descriptors | children | shared


def find_children() -> set[int]:
    """Processes that this one, by any of its threads, has started and that are there."""
    found = set[int]()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since it was listed
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def read_peak_mb(process: int) -> float:
    """What a process has held at most, resident; 0 where the system does not tell, as of one that has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        held = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
        if held:
            return int(held[1]) * 1024 / 1e6
    return 0.0


def _links(folder: Path) -> list[str]:
    links = []
    for entry in folder.iterdir():
        try:
            links.append(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:  # the one that lists the folder
            continue
    return links


if __name__ == "__main__":
    result = fuzz(int(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    faults = result.find_faults()
    print(json.dumps(asdict(result) | {"faults": faults}, indent=1))
    sys.exit(1 if faults else 0)
