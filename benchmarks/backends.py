"""Which backend is the quickest on this machine's CPU: seconds a clip, each in a process of its own, in turns.

Processor seconds stand beside the clock's: where other work takes a core away, they are the ones to compare.
"""

import json
import platform
import statistics
import subprocess
import sys
from datetime import date
from importlib.metadata import version

from vjepa2.bundle import Bundle
from vjepa2.runtime.backends import BACKENDS, find_missing

ROUNDS, CALLS = 3, 4
_CHILD = """
import json, resource, sys, time
import numpy as np
from vjepa2.bundle import Bundle
from vjepa2.runtime import open_backend
bundle = Bundle.open(sys.argv[1])
frames = np.random.default_rng(0).integers(0, 256, (1, *bundle.manifest.frames_shape), dtype=np.uint8)
with open_backend(bundle, sys.argv[2], device="cpu") as backend:
    backend.run(frames)
    rows = []
    for _ in range(int(sys.argv[3])):
        wall, cpu = time.perf_counter(), time.process_time()
        backend.run(frames)
        rows.append((time.perf_counter() - wall, time.process_time() - cpu))
print(json.dumps({"rows": rows, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))
"""


def main(folder: str) -> None:
    """Print a Markdown table for the bundle in `folder`."""
    manifest = Bundle.open(folder).manifest
    on_cpu = [name for name in BACKENDS if "-cuda" not in name and "tensorrt" not in name and "-gpu" not in name]
    names = [name for name in on_cpu if find_missing(name) is None]
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    peaks_mb: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name in names:
            command = [sys.executable, "-c", _CHILD, folder, name, str(CALLS)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            record = json.loads(output.splitlines()[-1])
            rows[name] += record["rows"]
            peaks_mb[name] = max(peaks_mb.get(name, 0.0), record["peak_mb"])
    versions = ", ".join(f"{library} {version(library)}" for library in ("onnxruntime", "openvino", "torch"))
    clip = manifest.clip
    print(f"{date.today()}, {platform.machine()}, {versions}: {manifest.model.name} of {manifest.model.depth} layers, ")
    print(f"{clip.frames} frames of {clip.height}, {ROUNDS} rounds of {CALLS} calls\n")
    print("| backend | median s a clip | least | median processor s | peak MB |\n|---|---|---|---|---|")
    for name, times in rows.items():
        walls, cpus = [wall for wall, _ in times], [cpu for _, cpu in times]
        middle, least, cpu = statistics.median(walls), min(walls), statistics.median(cpus)
        print(f"| `{name}` | {middle:.2f} | {least:.2f} | {cpu:.2f} | {peaks_mb[name]:.0f} |")


if __name__ == "__main__":
    main(sys.argv[1])
