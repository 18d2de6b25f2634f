"""How long does it take to bring 16 frames to a clip's size, beside transformers' VJEPA2VideoProcessor?

Both are given the same list of HWC arrays, in pairs that take turns, so that a busy machine is busy for both; beside it
what the processor takes for the same frames as one tensor. Ours end as uint8, which is what our graphs take; the last
column adds the normalisation that the processor ends with. Beside each median stands the least, which a busy machine
spoils less; least of all it spoils the second table: seconds that a core spent, with one thread each.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from functools import partial

import numpy as np
import torch
import transformers

from tests.record_preprocessing import import_processor, paint
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.preprocess import fit_clip
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec

FRAMES, PAIRS = 16, 41
SIZES = ((240, 320), (360, 640), (720, 1280))


def time_pairs(calls: dict[str, Callable[[], object]], clock: Callable[[], float]) -> dict[str, list[float]]:
    """Milliseconds of each call, `PAIRS` times, in turns, after one that is not counted."""
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for pair in range(PAIRS + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if pair:
                times_ms[name].append(1e3 * (clock() - start))
    return times_ms


def _fit_and_normalise(frames: list[FramesArray], clip: ClipSpec, threads: int | None) -> object:
    return normalise(fit_clip(frames, clip, threads=threads)[None], RGB_MEAN, RGB_STD)


def print_table(clock: Callable[[], float], threads: int | None) -> None:
    """One in Markdown, a row a size."""
    processor, clip = import_processor()(), ClipSpec(frames=FRAMES, height=256, width=256)
    columns = ("frames", "ours", "processor, same list", "ratio", "processor, one tensor", "ours, normalised")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for height, width in SIZES:
        frames = [np.roll(paint(height, width), 7 * number, axis=1) for number in range(FRAMES)]
        tensor = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        calls: dict[str, Callable[[], object]] = {
            "ours": partial(fit_clip, frames, clip, threads=threads),
            "list": partial(processor, frames, return_tensors="pt"),
            "tensor": partial(processor, tensor, return_tensors="pt"),
            "normalised": partial(_fit_and_normalise, frames, clip, threads),
        }
        times_ms = time_pairs(calls, clock)
        ratio = statistics.median(other / ours for ours, other in zip(times_ms["ours"], times_ms["list"], strict=True))
        ratios = f"{ratio:.1f} ({min(times_ms['list']) / min(times_ms['ours']):.1f})"
        cells = [f"{statistics.median(each_ms):.1f} ({min(each_ms):.1f})" for each_ms in times_ms.values()]
        print(f"| {width} x {height} | " + " | ".join([*cells[:2], ratios, *cells[2:]]) + " |", flush=True)


def main() -> None:
    """Print two tables: by the clock on the wall with every core, and what a core spent with one thread each."""
    print(f"{date.today()}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores, ", end="")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}: ", end="")
    print(f"{FRAMES} frames to 256 x 256, medians of {PAIRS} turns (least), ms\n")
    print_table(time.perf_counter, None)
    torch.set_num_threads(1)
    print("\none thread each, what a core spent\n")
    print_table(time.process_time, 1)


if __name__ == "__main__":
    main()
