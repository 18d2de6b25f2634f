"""How long does it take from nothing to the first embedding of ViT-L, here and in transformers?

Every row is a fresh process; the two take turns, so that a busy machine is busy for both. The files are in the page
cache for both: the first round is thrown away. Exit status 1 if the import alone, which is tried more often, takes too
long by the clock; the threads that numpy's BLAS starts beside it count for the processor, and keep nobody waiting.
"""

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

from transformers import VJEPA2Config, VJEPA2Model

from vjepa2.bundle import Bundle
from vjepa2.spec import ModelSpec

ROUNDS = 3
IMPORTS, IMPORT_S = 21, 0.3  # of `import vjepa2.runtime`, without what Python itself takes to start
STEPS = ("import", "hash", "load", "first clip", "second clip", "all to the first clip")
Times = dict[str, float]
_WATCH = """
import json, sys, time
times, last = {}, time.perf_counter()
def mark(name):
    global last
    times[name], last = time.perf_counter() - last, time.perf_counter()
"""
_OURS = """
from vjepa2.bundle import Bundle
from vjepa2.runtime import open_backend
import numpy as np
mark("import")
bundle = Bundle.open(sys.argv[1])
mark("hash")
backend = open_backend(bundle)
mark("load")
frames = np.random.default_rng(0).integers(0, 256, (1, *bundle.manifest.frames_shape), dtype=np.uint8)
last = time.perf_counter()
for name in ("first clip", "second clip"):
    backend.run(frames)
    mark(name)
print(json.dumps({"ran": f"{backend.name} on {backend.device} in {backend.precision}", "times": times}))
"""
_THEIRS = """
import torch
from transformers import VJEPA2Model
mark("import")
model = VJEPA2Model.from_pretrained(sys.argv[1]).eval()
mark("load")
pixels = torch.randn(1, *json.loads(sys.argv[2]))
last = time.perf_counter()
for name in ("first clip", "second clip"):
    with torch.inference_mode():
        model.get_vision_features(pixels).mean(1)
    mark(name)
print(json.dumps({"ran": "transformers on cpu in fp32", "times": times}))
"""
_IMPORT = """
start_s = time.process_time()
import vjepa2.runtime
mark("import")
times["processor"] = time.process_time() - start_s
print(json.dumps({"ran": "import", "times": times}))
"""
_BLOCK = "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'transformers', 'onnxruntime', 'openvino']))\n"


def run(script: str, *arguments: str) -> tuple[str, Times]:
    """What a fresh process says that it ran, and its seconds by step."""
    command = [sys.executable, "-c", _WATCH + script, *arguments]
    record = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    times: Times = record["times"]
    return record["ran"], times


def save_random_checkpoint(folder: Path, spec: ModelSpec) -> None:
    """The same model with transformers' own random weights, as it would lie on the disk after a download."""
    if (folder / "config.json").exists():
        return
    config = VJEPA2Config(
        hidden_size=spec.dim, num_hidden_layers=spec.depth, num_attention_heads=spec.heads,
        mlp_ratio=spec.mlp_dim / spec.dim, crop_size=spec.clip.height, frames_per_clip=spec.clip.frames,
    )  # fmt: skip
    VJEPA2Model(config).save_pretrained(folder)


def take_turns(*runs: Callable[[], tuple[str, Times]]) -> dict[str, Times]:
    """Median seconds by what ran and by step."""
    results: dict[str, list[Times]] = {}
    for _ in range(ROUNDS + 1):
        for each in runs:
            ran, times = each()
            results.setdefault(ran, []).append(times)
    return {
        ran: {step: statistics.median(times[step] for times in rounds[1:]) for step in rounds[0]}
        for ran, rounds in results.items()
    }


def main(folder: str) -> int:
    """Print a Markdown table for the bundle in `folder`; the exit status."""
    manifest = Bundle.open(folder).manifest
    checkpoint = Path(folder).with_name(f"{manifest.model.name}-transformers-random")
    save_random_checkpoint(checkpoint, manifest.model)
    shape = json.dumps(manifest.clip.shape()[1:])
    imports = [run(_BLOCK + _IMPORT)[1] for _ in range(IMPORTS)]
    bare = {step: statistics.median(times[step] for times in imports) for step in imports[0]}
    least_s = min(times["import"] for times in imports)
    rows = take_turns(lambda: run(_OURS, folder), lambda: run(_THEIRS, str(checkpoint), shape))
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "openvino", "torch", "transformers"))
    print(f"{date.today()}, {platform.machine()}, Python {platform.python_version()}, {versions}: ", end="")
    print(f"{manifest.model.name}, {manifest.clip.frames} frames, median of {ROUNDS} rounds\n")
    print(
        f"`import vjepa2.runtime` without torch, median of {IMPORTS}: {bare['import']:.2f} s (least {least_s:.2f}), ",
        end="",
    )
    print(f"{bare['processor']:.2f} s of the processor\n")
    print(f"| seconds | {' | '.join(STEPS)} |\n|{'---|' * (len(STEPS) + 1)}")
    for ran, times in rows.items():
        times["all to the first clip"] = sum(times.values()) - times["second clip"]
        cells = (f"{times[step]:.2f}" if step in times else "" for step in STEPS)
        print(f"| {ran} | {' | '.join(cells)} |")
    if bare["import"] > IMPORT_S:
        print(f"the import took {bare['import']:.2f} s; it may take {IMPORT_S} s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
