"""What do ONNX Runtime's memory arena and each graph cost: peak resident memory and time of three calls?

Every row is a process of its own; the settings take turns, so that a busy machine is busy for all of them.
"""

import json
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

import onnxruntime

from vjepa2.bundle import ONNXRUNTIME, PORTABLE, Bundle
from vjepa2.spec import ClipSpec

ROUNDS = 3
_CHILD = """
import json, resource, sys, time
import numpy as np, onnxruntime as ort
graph, arena, shape = sys.argv[1], sys.argv[2] == "on", json.loads(sys.argv[3])
options = ort.SessionOptions()
options.enable_cpu_mem_arena = arena
session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
seconds = []
for _ in range(3):
    start = time.perf_counter()
    session.run(["embedding"], {"frames": frames})
    seconds.append(time.perf_counter() - start)
print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))
"""


def measure(graph: Path, clip: ClipSpec, arena: str) -> tuple[float, float]:
    """Median seconds of three calls and peak resident megabytes of a fresh process."""
    shape = json.dumps(clip.frames_shape())
    command = [sys.executable, "-c", _CHILD, str(graph), arena, shape]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    record = json.loads(done.stdout)
    return statistics.median(record["seconds"]), record["peak_mb"]


def main(folder: str) -> None:
    """Print a Markdown table for the bundle in `folder`."""
    bundle = Bundle.open(folder)
    clip, model = bundle.manifest.clip, bundle.manifest.model
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for name in (ONNXRUNTIME, PORTABLE):
            for arena in ("off", "on"):
                rows.setdefault((name, arena), []).append(measure(bundle.path / name, clip, arena))
    print(f"{date.today()}, {platform.machine()}, onnxruntime {onnxruntime.__version__}: ", end="")
    print(f"{model.name} cut to {model.depth} layers, {clip.frames} frames, {clip.tokens} tokens, {ROUNDS} rounds\n")
    print("| graph | arena | median s a call | peak MB |\n|---|---|---|---|")
    for (name, arena), results in rows.items():
        seconds, peak_mb = statistics.median(row[0] for row in results), max(row[1] for row in results)
        print(f"| {name} | {arena} | {seconds:.2f} | {peak_mb:.0f} |")


if __name__ == "__main__":
    main(sys.argv[1])
