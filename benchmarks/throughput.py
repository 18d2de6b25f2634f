"""How much of a backend's own rate is left when videos have to be decoded: `encode` beside ready clips, in turns?

Both run in one process, on one backend, a clip a call, and take turns of a few videos each, so that a busy machine is
busy for both. Decoding uses the same cores as computing: what it takes alone stands beside.
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

VIDEOS, TURN = 64, 8  # videos in all, and in a turn
FRAMES, HEIGHT, WIDTH, RATE = 48, 240, 320, 24


def write_videos(folder: Path) -> list[Path]:
    """Two seconds each of a moving scene, H.264."""
    files = [folder / f"{number:02}.mp4" for number in range(VIDEOS)]
    for seed, file in enumerate(files):
        with av.open(str(file), "w") as container:
            stream = container.add_stream("libx264", rate=RATE)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for image in generate_scene(FRAMES, HEIGHT, WIDTH, seed=seed):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    return files


def measure(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def take_turns(engine: EmbeddingEngine, files: list[Path]) -> list[tuple[float, float, float]]:
    """Seconds of each turn: `encode`, the backend on the same clips, and reading these."""
    rows = []
    for turn, start in enumerate(range(0, len(files), TURN)):
        part = files[start : start + TURN]
        clips: list[FramesArray] = []
        read_s = measure(partial(read_into, clips, engine, part))
        works: dict[str, Callable[[], object]] = {
            "encode": partial(engine.encode, part),
            "backend": partial(run_each, engine, clips),
        }
        seconds = {name: measure(works[name]) for name in sorted(works, reverse=bool(turn % 2))}
        rows.append((seconds["encode"], seconds["backend"], read_s))
        print(f"turn {turn}: encode {rows[-1][0]:.2f} s, backend {rows[-1][1]:.2f} s", file=sys.stderr)
    return rows


def read_into(clips: list[FramesArray], engine: EmbeddingEngine, files: list[Path]) -> None:
    """Decode each video, one after another, with nothing else going on."""
    clips += [engine.read_clip(file) for file in files]


def run_each(engine: EmbeddingEngine, clips: list[FramesArray]) -> None:
    """Compute clips that lie ready, one a call."""
    for clip_THWC in clips:
        engine.backend.run(clip_THWC[None])


def main(folder: str) -> None:
    """Print a Markdown table for the bundle in `folder`."""
    with TemporaryDirectory() as place, EmbeddingEngine.open(folder, warm_up=True) as engine:
        files = write_videos(Path(place))
        engine.encode(files[:2])  # the decoder has started
        rows = take_turns(engine, files)
        backend, manifest = engine.backend, engine.backend.bundle.manifest
    encode_s, backend_s, read_s = (statistics.median(column) / TURN for column in zip(*rows, strict=True))
    ratios = [alone / both for both, alone, _ in rows]
    versions = f"{backend.name} {version(backend.name.split('-', maxsplit=1)[0])}, PyAV {version('av')}"
    print(f"{date.today()}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores, {versions}: ", end="")
    clip, depth = manifest.clip, manifest.model.depth
    print(f"{manifest.model.name} cut to {depth} layers, {clip.frames} frames of {clip.height}; ", end="")
    print(f"{VIDEOS} videos of {FRAMES} frames of {WIDTH} x {HEIGHT}, {len(rows)} turns of {TURN}; medians\n")
    columns = ("`encode`, s a video", "backend on ready clips", "reading alone", "ratio of rates", "least", "most")
    cells = (encode_s, backend_s, read_s, statistics.median(ratios), min(ratios), max(ratios))
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    print("| " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1])
