"""Does ONNX Runtime take the memory that `vjepa2 plan` says: both graphs, 8 to 64 frames, three calls each?

What is predicted is the peak of the resident memory, from before the session is made until after the third call, less
what the process held when it had imported numpy and onnxruntime. Every row is a process of its own, with the session
options that the backend ships. The peak is VmHWM, since ru_maxrss would begin with the parent's.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import onnxruntime

from vjepa2.bundle import ONNXRUNTIME, PORTABLE, WEIGHTS
from vjepa2.checkpoints import load_encoder
from vjepa2.export.lower import lower_graph
from vjepa2.export.memory import Engine, plan_memory
from vjepa2.export.trace import trace_model
from vjepa2.export.weights_file import write_tensors
from vjepa2.headed import PlainEncoder
from vjepa2.registry import find_release
from vjepa2.spec import ClipSpec, ModelSpec

TOLERANCE = 0.15
CALLS = 3
CASES = ((2, 8), (2, 16), (2, 32), (2, 64), (24, 16))  # blocks of ViT-L, frames of 256 x 256
ENGINES: dict[str, Engine] = {ONNXRUNTIME: "onnxruntime", PORTABLE: "onnxruntime-portable"}
_CHILD = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime
def read(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
before = read("VmRSS")
options = onnxruntime.SessionOptions()
options.enable_cpu_mem_arena = False  # as runtime/backends/onnxrt.py
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
frames = np.random.default_rng(0).integers(0, 256, json.loads(sys.argv[2]), dtype=np.uint8)
for _ in range(int(sys.argv[3])):
    session.run(["embedding"], {"frames": frames})
print(read("VmHWM") - before)
"""


def write_graphs(spec: ModelSpec, clip: ClipSpec, folder: Path) -> None:
    """Both graphs over one file of random weights, as export writes them, unproven."""
    encoder = load_encoder("random", model=spec, clip=clip, seed=0)
    traced = trace_model(PlainEncoder(encoder, has_mean=True), ("tokens", "embedding"))
    write_tensors(folder / WEIGHTS, traced.tensors)
    for name in ENGINES:
        (folder / name).write_bytes(lower_graph(traced.graph, name).SerializeToString())


def measure_peak(graph: Path, clip: ClipSpec) -> int:
    """Bytes by which a fresh process grows at most."""
    command = [sys.executable, "-c", _CHILD, str(graph), json.dumps(clip.frames_shape()), str(CALLS)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    """Print a Markdown table; 1 if a ratio is outside the tolerance."""
    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} CPUs, {' '.join(platform.libc_ver())}, "
        f"onnxruntime {onnxruntime.__version__}: ViT-L of so many blocks, {CALLS} calls, MB above the imports\n"
    )
    print("| blocks | frames | graph | predicted | measured | measured / predicted |\n|---|---|---|---|---|---|")
    outside = 0
    for depth, frames in CASES:
        spec = replace(find_release("vitl").spec, depth=depth)
        clip = replace(spec.clip, frames=frames)
        with tempfile.TemporaryDirectory() as folder:
            write_graphs(spec, clip, Path(folder))
            for name, engine in ENGINES.items():
                predicted = plan_memory(spec, clip, precision="fp32", engine=engine).run_bytes
                measured = measure_peak(Path(folder) / name, clip)
                ratio = measured / predicted
                outside += not abs(ratio - 1) <= TOLERANCE
                row = (depth, frames, f"`{name}`", f"{predicted / 1e6:.0f}", f"{measured / 1e6:.0f}", f"{ratio:.3f}")
                print(f"| {' | '.join(map(str, row))} |", flush=True)
    print(f"\n{outside} outside {TOLERANCE:.0%}")
    return int(outside > 0)


if __name__ == "__main__":
    sys.exit(main())
