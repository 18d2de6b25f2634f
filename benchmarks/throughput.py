"""How much of a backend's own rate is left when videos have to be decoded: `encode` beside ready clips, in turns?

Both run in one process, on one backend, a clip a call, and take turns of a few videos each, so that a busy machine is
busy for both. Decoding uses the same cores as computing: what it takes alone stands beside. Exit status 1 if less than
`LEAST` is left by the clock, which means something on a calm machine alone: the load that was seen is printed.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import av

from vjepa2.runtime import EmbeddingEngine
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.scenes import generate_scene

TURNS = 8
LEAST = 0.95  # of the backend's own rate
FRAMES, HEIGHT, WIDTH, RATE = 48, 240, 320, 24


def write_videos(folder: Path, count: int) -> list[Path]:
    """Two seconds each of a moving scene, H.264."""
    files = [folder / f"{number:02}.mp4" for number in range(count)]
    for seed, file in enumerate(files):
        with av.open(str(file), "w") as container:
            stream = container.add_stream("libx264", rate=RATE)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for image in generate_scene(FRAMES, HEIGHT, WIDTH, seed=seed):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    return files


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that it takes on the clock, and on the processor, decoders included."""
    start_s, start_cpu_s = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - start_s, processor_seconds() - start_cpu_s


def processor_seconds() -> float:
    """Of this process, and of the decoders, which its first thread has started."""
    pid, ticks = os.getpid(), 0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def take_turns(engine: EmbeddingEngine, files: list[Path]) -> list[dict[str, tuple[float, float]]]:
    """Of each turn: `encode`, the backend on the same clips, and reading these."""
    turns = []
    for turn in range(TURNS):
        part = files[turn::TURNS]
        clips: list[FramesArray] = []
        times = {"reading alone": measure(partial(read_into, clips, engine, part))}
        works: dict[str, Callable[[], object]] = {
            "`encode`": partial(engine.encode, part),
            "the backend on ready clips": partial(run_each, engine, clips),
        }
        for name in sorted(works, reverse=bool(turn % 2)):
            times[name] = measure(works[name])
        print(f"turn {turn}: " + ", ".join(f"{name} {row[0]:.2f} s" for name, row in times.items()), file=sys.stderr)
        turns.append(times)
    return turns


def read_into(clips: list[FramesArray], engine: EmbeddingEngine, files: list[Path]) -> None:
    """Decode each video, one after another, with nothing else going on."""
    clips += [engine.read_clip(file) for file in files]


def run_each(engine: EmbeddingEngine, clips: list[FramesArray]) -> None:
    """Compute clips that lie ready, one a call."""
    for clip_THWC in clips:
        engine.backend.run(clip_THWC[None])


def main(folder: str, videos: int) -> int:
    """Print a Markdown table for the bundle in `folder` and so many videos, a multiple of 8; the exit status."""
    before = os.getloadavg()[0]
    with TemporaryDirectory() as place, EmbeddingEngine.open(folder, warm_up=True) as engine:
        files = write_videos(Path(place), videos)
        engine.encode(files[:2])  # the decoder has started
        turns = take_turns(engine, files)
        backend, manifest = engine.backend, engine.backend.bundle.manifest
    versions = f"{backend.name} {version(backend.name.split('-', maxsplit=1)[0])}, PyAV {version('av')}"
    print(f"{date.today()}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores, {versions}: ", end="")
    clip, depth = manifest.clip, manifest.model.depth
    print(f"{manifest.model.name} cut to {depth} layers, {clip.frames} frames of {clip.height}; ", end="")
    print(f"{videos} videos of {FRAMES} frames of {WIDTH} x {HEIGHT}, {TURNS} turns of {videos // TURNS}; medians\n")
    print("| | s a video | processor s a video |\n|---|---|---|")
    for name in ("`encode`", "the backend on ready clips", "reading alone"):
        clock_s, cpu_s = (
            statistics.median(column) * TURNS / videos for column in zip(*(times[name] for times in turns), strict=True)
        )
        print(f"| {name} | {clock_s:.3f} | {cpu_s:.3f} |")
    medians = []
    for number, what in enumerate(("on the clock", "on the processor")):
        ratios = [times["the backend on ready clips"][number] / times["`encode`"][number] for times in turns]
        medians.append(statistics.median(ratios))
        print(f"\nRatio of rates {what}: {medians[-1]:.3f} ({min(ratios):.3f} to {max(ratios):.3f})", end="")
    print(f"\nLoad average of the minute before: {before:.1f}; of the last: {os.getloadavg()[0]:.1f}, with our own")
    if medians[0] < LEAST:
        print(f"{medians[0]:.3f} of the backend's rate is left on the clock; {LEAST} must be", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
