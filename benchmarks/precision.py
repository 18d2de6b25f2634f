"""What do 16 and 8 bits lose of every token, on random and on hard weights, with what a naive graph loses beside it?

Writes FOLDER/precision.json and prints the tables that the README shows. Exit status 1 if hard weights are not hard, or
if a float32 or fp16 graph of export's is outside its gate. The graphs are those that `vjepa2 export` makes, 8 bits
calibrated on its clips, which are not those that are measured; naive is the float32 graph with every operator's result
in 16 bits, the inside of LayerNorm too.
"""

import argparse
import gc
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from vjepa2.bundle import ONNXRUNTIME, PORTABLE, WEIGHTS, Bundle
from vjepa2.checkpoints import Request
from vjepa2.export.calibrate import find_ranges
from vjepa2.export.describe import ExportRequest, describe_export
from vjepa2.export.evaluate import Evaluation, Naive
from vjepa2.export.load_model import load_model
from vjepa2.export.prove import EvaluatorBackend, read_graph
from vjepa2.export.quantize import Eight, EightBits, choose_layers
from vjepa2.export.reference import compute_reference, gather_calibration_clips, gather_clips
from vjepa2.export.trace import Trace, trace_model
from vjepa2.export.variants import make_variants
from vjepa2.export.weights_file import write_tensors
from vjepa2.manifest import GraphInfo, Manifest, Precision
from vjepa2.runtime.backends import Backend, open_backend
from vjepa2.runtime.parity import GATES, Reference, check_parity, compare_outputs, find_faults, measure

_NAIVE: dict[Precision, Naive] = {"fp16": "fp16", "bf16": "bf16"}
_EIGHT: dict[Precision, Eight] = {"int8": "int8", "fp8": "fp8"}
_MUST_PASS = {("fp32", ONNXRUNTIME), ("fp16", PORTABLE)}
_HARD_WORST, _HARD_BELOW = 0.9, 0.05  # of naive fp16: its worst token at most, the part of tokens below 0.999 at least
_FASTER = 1.1  # an int8 graph that is not at least so much faster than float32 is not worth its losses

Row = dict[str, Any]


def prepare(source: str, arguments: argparse.Namespace) -> tuple[Manifest, Trace, Reference, dict[str, float]]:
    """What the graphs are made of, and what PyTorch makes of the clips."""
    request = ExportRequest(
        weights=Request(source=source, model=arguments.model, frames=arguments.frames, layers=arguments.layers, seed=0)
    )
    model, origin, _ = load_model(request)
    clip = model.encoder.clip
    proven_on_BTHWC = gather_clips(clip, None)[: arguments.clips]
    reference = compute_reference(model, proven_on_BTHWC, {})
    calibrated, ranges = 0, dict[str, float]()
    if _EIGHT.keys() & arguments.precisions.split(","):
        frames_BTHWC = gather_calibration_clips(clip, None, proven_on_BTHWC=proven_on_BTHWC)
        calibrated, ranges = len(frames_BTHWC), find_ranges(model, frames_BTHWC, {}, "percentile")
    shapes = {name: array.shape for name, array in reference.outputs.by_name().items()}
    traced = trace_model(model, tuple(shapes))
    manifest = describe_export(model, None, origin, request, (), shapes, traced.parameters, traced.tensors, calibrated)
    return manifest, traced, reference, ranges


def write_bundle(
    folder: Path, manifest: Manifest, traced: Trace, precision: Precision, ranges: dict[str, float]
) -> Bundle:
    """The graphs of a precision over their weights, not sealed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    eight = EightBits(_EIGHT[precision], choose_layers(ranges, traced.tensors)) if precision in _EIGHT else None
    variants = make_variants(traced, precision, eight, is_dynamic=False)
    write_tensors(folder / WEIGHTS, variants.tensors)
    for name, graph in variants.graphs.items():
        (folder / name).write_bytes(graph.SerializeToString(deterministic=True))
    infos = {name: GraphInfo(nodes=len(graph.graph.node), simplified="no") for name, graph in variants.graphs.items()}
    return Bundle(folder, replace(manifest, precision=precision, graphs=infos))


def round_weights(traced: Trace, precision: Precision) -> Trace:
    """The same with every weight as `precision` stores it, in float32."""
    stored = make_variants(traced, precision, None, is_dynamic=False).tensors
    return replace(traced, tensors={name: stored[name].to(tensor.dtype) for name, tensor in traced.tensors.items()})


def measure_naive(bundle: Bundle, reference: Reference, naive: Naive) -> Row:
    """The figures of the float32 graph of `bundle` on the first clip, computed naively."""
    graph = read_graph(bundle.path / PORTABLE)
    got = Evaluation(graph, bundle.path, naive).run({"frames": reference.frames_BTHWC[:1]}, ["tokens", "embedding"])
    expected = {name: array[:1] for name, array in reference.outputs.by_name().items()}
    figures = compare_outputs(expected, got, reference.norms_BN[:1], GATES[naive].quiet)  # type: ignore[arg-type]
    cosines, _ = measure(expected["tokens"], got["tokens"])
    faults = figures.faults(GATES[naive])
    return asdict(figures) | {
        "below_0.999": float(np.mean(~(cosines >= 0.999))),
        "passed": not faults,
        "faults": faults,
    }


def prove(backend: Backend, reference: Reference, precision: Precision) -> Row:
    """The verdict of a precision's gate."""
    verdict = check_parity(reference, backend, GATES[precision])
    return asdict(verdict) | {"faults": find_faults(verdict, GATES[precision])}


def time_pairs(fp32: Backend, int8: Backend, reference: Reference, pairs: int) -> Row:
    """Seconds of calls by turns, and how many times faster int8 is in the median pair."""
    frames = reference.frames_BTHWC[:1]
    seconds: dict[str, list[float]] = {"fp32": [], "int8": []}
    for number in range(pairs + 1):
        for name, backend in (("fp32", fp32), ("int8", int8)):
            start_s = time.perf_counter()
            backend.run(frames)
            if number:  # the first pair warms up
                seconds[name].append(time.perf_counter() - start_s)
    ratios = [slow / fast for slow, fast in zip(seconds["fp32"], seconds["int8"], strict=True)]
    return {"seconds": seconds, "speed_ratio": median(ratios)}


def judge_int8(figures: Row, timing: Row) -> str:
    """The verdict on int8 in ONNX Runtime on this CPU."""
    reasons = list(figures["faults"])
    if timing["speed_ratio"] < _FASTER:
        reasons.append(f"{timing['speed_ratio']:.2f} times fp32's speed, must be at least {_FASTER}")
    return f"rejected: {'; '.join(reasons)}" if reasons else "kept"


def run_source(source: str, arguments: argparse.Namespace, tell: Callable[[str], None]) -> tuple[list[Row], Row | None]:
    """A row for each graph of one kind of weights, and what int8 is worth in ONNX Runtime."""
    tell(f"{source}: PyTorch")
    manifest, traced, reference, ranges = prepare(source, arguments)
    gc.collect()
    fp32 = write_bundle(arguments.folder / f"{source}-fp32", manifest, traced, "fp32", {})
    rows: list[Row] = []

    def add(precision: Precision, graph: str, row: Row) -> None:
        rows.append({"weights": source, "precision": precision, "graph": graph} | row)
        tell(f"{source} {precision} {graph}: {row}")

    with open_backend(fp32, "onnxruntime") as backend:
        add("fp32", ONNXRUNTIME, prove(backend, reference, "fp32"))
    int8: Bundle | None = None
    for precision in arguments.precisions.split(","):
        if precision in _NAIVE:
            add(precision, "naive", measure_naive(fp32, reference, _NAIVE[precision]))
            rounded = round_weights(traced, precision)
            wide = write_bundle(arguments.folder / f"{source}-{precision}-weights", manifest, rounded, "fp32", {})
            del rounded
            with open_backend(wide, "onnxruntime") as backend:
                add(precision, "weights alone", prove(backend, reference, precision))
        bundle = write_bundle(arguments.folder / f"{source}-{precision}", manifest, traced, precision, ranges)
        with EvaluatorBackend(bundle) as backend:
            add(precision, PORTABLE, prove(backend, reference, precision))
        int8 = bundle if precision == "int8" else int8
    if int8 is None:
        return rows, None
    with open_backend(fp32, "onnxruntime") as slow, open_backend(int8, "onnxruntime") as fast:
        add("int8", ONNXRUNTIME, prove(fast, reference, "int8"))
        timing = time_pairs(slow, fast, reference, arguments.pairs)
    return rows, timing | {"weights": source, "verdict": judge_int8(rows[-1], timing)}


def find_failures(rows: list[Row]) -> list[str]:
    """What is not as it must be: hard weights that naive fp16 does not lose, or a graph that does not pass."""
    failures = []
    for row in rows:
        about = f"{row['weights']} {row['precision']} {row['graph']}"
        if (row["precision"], row["graph"]) in _MUST_PASS and not row["passed"]:
            failures.append(f"{about} is outside its gate: {'; '.join(row['faults'])}")
        if (row["weights"], row["precision"], row["graph"]) == ("hard", "fp16", "naive"):
            worst = np.nanmin([row["token_cosine"], row["quiet_cosine"] or 1.0])  # all tokens, quiet ones too
            if worst > _HARD_WORST or row["below_0.999"] < _HARD_BELOW:
                failures.append(
                    f"{about} has a worst token of {worst:.4f} and {row['below_0.999']:.1%} below 0.999; hard is at "
                    f"most {_HARD_WORST} and at least {_HARD_BELOW:.0%}"
                )
    return failures


def print_tables(rows: list[Row], int8: list[Row]) -> None:
    """Markdown."""
    print("| weights | precision | graph | embedding | median | p01 | worst | quiet: worst | below 0.999 | gate |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        cosines = " | ".join(
            f"{row[f'{name}']:.6f}" for name in ("embedding_cosine", "token_median", "token_p01", "token_cosine")
        )
        quiet = f"{row['quiet_tokens']}: {row['quiet_cosine']:.4f}" if row["quiet_tokens"] else "0"
        below = f"{row['below_0.999']:.1%}" if "below_0.999" in row else ""
        gate = "passed" if row["passed"] else "failed"
        print(f"| {row['weights']} | {row['precision']} | {row['graph']} | {cosines} | {quiet} | {below} | {gate} |")
    for row in int8:
        print(f"\n{row['weights']} weights, int8 in ONNX Runtime: {row['speed_ratio']:.2f} times fp32's speed.")
        print(f"Verdict: {row['verdict']}")


def main() -> int:
    """Measure, write, print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="vitl")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--weights", default="random,hard")
    parser.add_argument("--precisions", default="fp16,bf16,int8,fp8")
    arguments = parser.parse_args()
    torch.set_num_threads(max(1, min(2, os.cpu_count() or 1)))
    rows: list[Row] = []
    int8: list[Row] = []
    for source in arguments.weights.split(","):
        made, timing = run_source(source, arguments, lambda text: print(text, file=sys.stderr, flush=True))
        rows += made
        int8 += [timing] if timing else []
        report = {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {name: metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")},
            "options": {name: str(value) for name, value in vars(arguments).items()},
            "gates": {name: asdict(gate) for name, gate in GATES.items()},
            "rows": rows,
            "int8": int8,
        }
        (arguments.folder / "precision.json").write_text(json.dumps(report, indent=1) + "\n")
    print_tables(rows, int8)
    failures = find_failures(rows)
    for failure in failures:
        print(failure, file=sys.stderr)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
