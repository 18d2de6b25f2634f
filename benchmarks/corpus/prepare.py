"""What is the corpus proved on: small videos that are quick to decode, some of them broken, and two small models?"""

import sys
from dataclasses import replace
from pathlib import Path

from tests.conftest import tiny_spec
from tests.videos import write
from vjepa2.checkpoints import Request
from vjepa2.export.describe import ExportRequest
from vjepa2.export.pipeline import export_bundle
from vjepa2.runtime.scenes import generate_scene
from vjepa2.spec import ClipSpec, ModelSpec

BROKEN = 200  # one video of so many is none
_CLIP = ClipSpec(frames=4, height=32, width=32)
TINY = ModelSpec(name="tiny", family="vjepa2", dim=192, depth=2, heads=3, mlp_dim=384, clip=_CLIP)
# one whose clip takes tens of milliseconds, so that what a run costs stands beside work, if little
_LARGER = ClipSpec(frames=16, height=64, width=64)
SMALL = replace(TINY, name="small", dim=384, depth=6, heads=6, mlp_dim=1536, clip=_LARGER)


def write_videos(folder: Path, count: int) -> None:
    """Videos of 16 frames of 32 x 32, each another scene."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        file = folder / f"{number:05d}.mp4"
        if number % BROKEN == BROKEN // 2:
            file.write_bytes(b"no video")
        elif not file.exists():
            write(file, generate_scene(16, 32, 32, seed=number), "mpeg4")


def export_tiny(spec: ModelSpec, folder: Path) -> None:
    """A bundle of random weights, unless it is there."""
    if not (folder / "manifest.json").exists():
        export_bundle(ExportRequest(weights=Request(source="random", model=spec)), folder)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    write_videos(root / "videos", int(sys.argv[2]))
    write_videos(root / "few", 24)
    export_tiny(TINY, root / "tiny")
    export_tiny(SMALL, root / "small")
    export_tiny(tiny_spec(), root / "bundles" / "exported")  # what tests/test_corpus_ray.py and its like open
