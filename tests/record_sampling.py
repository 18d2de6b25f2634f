"""Which frames does the original repository's loader take: `python tests/record_sampling.py CLONE COMMIT`.

CLONE is a checkout of facebookresearch/vjepa2. Only `VideoDataset.loadvideo_decord` is run, over a video that is a
number of frames and a rate; what it would have read is written to data/loader_indices.json.
"""

import ast
import json
import logging
import math
import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

TARGET = Path(__file__).parent / "data" / "loader_indices.json"
# frames of the video, its rate, frames a clip, frames a second, step, clips
CASES = [
    *[(total, rate, 16, fps, None, 1) for total in (300, 97, 64, 7) for rate, fps in ((25, 4), (29.97, 4), (30, 1))],
    *[(total, 30, count, None, step, clips) for total in (325, 128, 64, 40) for count in (8, 16) for step, clips in
      ((4, 1), (4, 2), (2, 3), (1, 8))],
]  # fmt: skip


class _Reader:
    """A video of which there is nothing but its length and rate."""

    def __init__(self, total: int, rate: float) -> None:
        self.total, self.rate = total, rate

    def __len__(self) -> int:
        return self.total

    def get_avg_fps(self) -> float:
        return self.rate

    def seek(self, _: int) -> None:
        """Nothing moves."""

    def get_batch(self, indices: list[int]) -> Any:
        return SimpleNamespace(asnumpy=lambda: indices)


def record(clone: Path, commit: str) -> None:
    """Write what the loader takes in every case."""
    tree = ast.parse((clone / "src/datasets/video_dataset.py").read_text())
    load = next(
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "loadvideo_decord"
    )
    rows = []
    for total, rate, count, fps, step, clips in CASES:
        names: dict[str, Any] = {
            "np": np, "os": os, "math": math, "warnings": warnings, "logger": logging.getLogger(), "cpu": int,
            "VideoReader": lambda *_, total=total, rate=rate, **__: _Reader(total, rate),
        }  # fmt: skip
        exec(compile(ast.Module([load], []), "video_dataset.py", "exec"), names)
        dataset = SimpleNamespace(
            frame_step=step, fps=fps, duration=None, num_clips=clips, random_clip_sampling=False,
            allow_clip_overlap=False, filter_short_videos=False, filter_long_videos=10**9,
        )  # fmt: skip
        _, chosen = names["loadvideo_decord"](dataset, __file__, count)
        sampling = f"fps:{fps}" if fps else f"segments:{clips}x{step}"
        rows.append(
            {
                "total": total,
                "rate": rate,
                "count": count,
                "sampling": sampling,
                "frames": [row.tolist() for row in chosen],
            }
        )
    lines = ",\n".join(json.dumps(row) for row in rows)
    TARGET.write_text(f'{{"repository": "facebookresearch/vjepa2", "commit": "{commit}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2])
