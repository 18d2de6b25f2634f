"""Does each room of the house know only what it may: read from the sources, and tried with the rest blocked."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {
    "av", "click", "cuda", "faiss", "fastapi", "fsspec", "huggingface_hub", "jinja2", "lancedb", "numpy", "onnx",
    "onnx_ir", "onnxruntime", "onnxscript", "onnxsim", "openvino", "PIL", "prometheus_client", "pyarrow", "ray", "rich",
    "safetensors", "starlette", "tensorrt", "torch", "transformers", "uvicorn",
}  # fmt: skip

# a file or folder -> third-party libraries that it may import; the longest match counts
MAY_IMPORT = {
    "vjepa2": set(),
    "vjepa2/cli.py": {"click"},
    "vjepa2/outputs.py": {"click"},
    "vjepa2/size_option.py": {"click"},
    "vjepa2/progress.py": {"rich"},
    "vjepa2/positions.py": {"numpy", "torch"},
    "vjepa2/layers.py": {"numpy", "torch"},
    "vjepa2/encoder.py": {"torch"},
    "vjepa2/masks.py": {"torch"},
    "vjepa2/predictor.py": {"torch"},
    "vjepa2/action_predictor.py": {"numpy", "torch"},
    "vjepa2/anticipation.py": {"torch"},
    "vjepa2/filling.py": {"torch"},
    "vjepa2/head_checkpoints.py": {"torch"},
    "vjepa2/part_tensors.py": {"torch"},
    "vjepa2/models_cli.py": {"click", "rich"},
    "vjepa2/heads.py": {"torch"},
    "vjepa2/headed.py": {"torch"},
    "vjepa2/head_parts.py": {"torch"},
    "vjepa2/folding.py": {"torch"},
    "vjepa2/names.py": {"torch"},
    "vjepa2/weights.py": {"torch"},
    "vjepa2/hard_weights.py": {"torch"},
    "vjepa2/checkpoints.py": {"torch"},
    "vjepa2/fitting.py": {"numpy"},
    "vjepa2/pixels.py": {"numpy", "PIL"},
    "vjepa2/image_folder.py": {"numpy"},
    "vjepa2/image_batches.py": {"numpy", "torch"},
    "vjepa2/recipe.py": {"torch"},
    "vjepa2/trainer.py": {"torch"},
    "vjepa2/run_folder.py": {"torch"},
    "vjepa2/classifier_files.py": {"torch"},
    "vjepa2/finetune.py": {"torch"},
    "vjepa2/finetune_cli.py": {"click", "rich"},
    "vjepa2/checkpoint_files.py": {"torch", "safetensors"},
    "vjepa2/hub.py": {"huggingface_hub"},
    "export": {"numpy", "torch", "onnx", "onnx_ir", "click", "rich"},
    "export/operators.py": set(),
    "export/targets.py": set(),
    "export/graph_view.py": {"onnx"},
    "export/lint.py": {"onnx"},
    "export/lint_attention.py": {"onnx"},
    "export/lint_constants.py": {"numpy", "onnx"},
    "export/lint_importer.py": {"onnx"},
    "export/lint_fusion.py": {"onnx"},
    "export/lint_quantization.py": {"numpy", "onnx"},
    "export/lint_precision.py": {"onnx"},
    "export/lint_files.py": {"onnx"},
    "export/inspect_cli.py": {"click", "rich"},
    "export/rounding.py": {"onnx"},
    "export/checkpoints.py": {"onnx"},
    "export/watch.py": {"numpy", "onnx"},
    "export/drift.py": {"numpy"},
    "export/drift_figures.py": {"numpy"},
    "export/drift_plot.py": set(),
    "export/drift_report.py": set(),
    "export/drift_cli.py": {"click", "rich"},
    "export/islands.py": set(),
    "export/island_cost.py": {"numpy", "onnxruntime"},
    "export/calibrate.py": {"numpy", "torch", "onnxruntime"},
    "export/compile.py": set(),
    "export/compile_cli.py": {"click", "rich"},
    "export/compile_request.py": set(),
    "export/suggest.py": set(),
    "export/island_sets.py": set(),
    "export/island_file.py": set(),
    "export/build_watch.py": {"rich"},
    "export/timing_cache.py": set(),
    "export/tensorrt_notes.py": set(),
    **{f"export/tensorrt_{part}.py": {"tensorrt"} for part in ("api", "features", "graph", "log", "plan")},
    "export/devices.py": set(),
    "export/file_sizes.py": set(),
    "export/fit.py": set(),
    "export/memory.py": set(),
    "export/plan_cli.py": {"click", "rich"},
    "export/this_machine.py": {"numpy"},
    "runtime": {"numpy"},
    "runtime/cli.py": {"numpy", "click", "rich"},
    "runtime/classify_cli.py": {"click", "rich"},
    "runtime/run_cli.py": {"numpy", "click", "rich"},
    "runtime/video_options.py": {"click"},
    "runtime/parity_cli.py": {"numpy", "click", "rich"},
    "runtime/parity_report.py": set(),
    "runtime/evidence.py": set(),
    "runtime/evidence_subject.py": set(),
    "runtime/graph_reports.py": set(),
    "runtime/report.py": {"jinja2"},
    "runtime/report_cli.py": {"click"},
    "runtime/report_compare.py": set(),
    "runtime/report_plots.py": set(),
    "runtime/candidates.py": set(),
    "runtime/oracle.py": set(),
    "runtime/gates.py": set(),
    "runtime/embedding.py": {"numpy"},
    "runtime/video.py": {"numpy", "av"},
    "runtime/bench_cli.py": {"click", "rich"},
    **{
        f"runtime/{file}.py": set()
        for file in (
            "bench_draft",
            "bench_harness",
            "bench_row",
            "bench_subject",
            "bench_worker",
            "latency",
            "latency_report",
            "latency_stats",
            "latency_table",
            "machine_state",
            "warm_up",
        )
    },
    "runtime/parquet.py": {"numpy", "pyarrow"},
    "runtime/prometheus.py": {"prometheus_client"},
    "runtime/metrics.py": set(),
    "runtime/waiting_line.py": set(),
    "runtime/picking.py": set(),
    "runtime/stream_cli.py": {"click", "rich"},
    "runtime/stream_feed.py": set(),
    "runtime/stream_parquet.py": {"pyarrow"},
    "runtime/stream_source.py": set(),
    **{
        f"runtime/corpus_{part}.py": set()
        for part in (
            "local",
            "make_plan",
            "messages",
            "output",
            "points",
            "process",
            "run",
            "seal",
            "status",
            "store",
            "videos",
            "worker",
        )
    },
    "runtime/corpus_cli.py": {"click", "rich"},
    "runtime/corpus_lance.py": {"lancedb", "numpy", "pyarrow"},
    "runtime/triton_cli.py": {"click"},
    "runtime/triton_config.py": set(),
    "runtime/triton_repository.py": set(),
    "runtime/triton_start.py": set(),
    "runtime/triton_text.py": set(),
    "runtime/corpus_objects.py": {"fsspec"},
    "runtime/corpus_plan.py": {"pyarrow"},
    "runtime/corpus_ray.py": {"ray"},
    "runtime/corpus_table.py": {"numpy", "pyarrow"},
    **{f"runtime/search_{part}.py": set() for part in ("files", "open", "service", "upload")},
    "runtime/search_cli.py": {"click", "rich", "uvicorn"},
    "runtime/search_guard.py": {"starlette"},
    "runtime/search_faiss.py": {"faiss", "numpy"},
    "runtime/search_server.py": {"fastapi", "starlette"},
    "runtime/search_thumbnails.py": {"av", "numpy"},
    "runtime/backends/pytorch.py": {"numpy", "torch"},
    "runtime/backends/held_tensors.py": {"torch"},
    "runtime/backends/torch_rates.py": {"torch"},
    "runtime/backends/torch_watch.py": {"torch"},
    "runtime/backends/ort_binding.py": {"numpy", "onnxruntime"},
    "runtime/backends/peers.py": {"torch", "transformers"},
    "runtime/backends/peers_export.py": {"torch"},
    "runtime/backends/peers_onnxrt.py": set(),
    "runtime/backends/peers_ov.py": set(),
    "runtime/backends/onnxrt.py": {"numpy", "onnxruntime"},
    "runtime/backends/cuda_driver.py": set(),
    "runtime/backends/trt.py": {"numpy", "tensorrt"},
    "runtime/backends/trt_log.py": {"tensorrt"},
    "runtime/backends/trt_session.py": {"numpy", "tensorrt"},
    "runtime/backends/trt_tensors.py": {"numpy"},
    "runtime/backends/ov.py": {"openvino"},
    "runtime/backends/choice.py": set(),
    "runtime/backends/placement.py": set(),
    "runtime/doctor.py": set(),
    "runtime/doctor_cli.py": {"click", "rich"},
    "runtime/gpus.py": set(),
}
# what in export proves with runtime
PROVES = {
    "export/pipeline.py", "export/compile.py", "export/prove.py", "export/watch.py", "export/drift.py",
    "export/drift_figures.py", "export/drift_plot.py", "export/drift_report.py", "export/island_cost.py",
    "export/reference.py", "export/canaries.py", "export/suggest.py", "export/island_file.py",
    "export/tensorrt_log.py",
}  # fmt: skip
# what in runtime builds the model itself
REBUILDS = {"runtime/backends/pytorch.py", "runtime/backends/peers.py", "runtime/backends/peers_export.py"}
# rooms that a file may look into, apart from the core, which all may
MODEL = {
    "positions", "layers", "masks", "encoder", "heads", "headed", "head_parts", "predictor", "action_predictor",
    "anticipation", "folding", "names", "filling", "weights", "hard_weights", "checkpoints", "head_checkpoints",
    "checkpoint_files", "part_tensors",
}  # fmt: skip


def imports_of(source: str) -> set[str]:
    """Every module that a source imports by its whole name, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, "no relative import leaves its folder"
            if node.level == 0:
                found.add(node.module or "")
    return found


def faults(path: str, source: str) -> list[str]:
    """What the source at `path` imports and may not."""
    allowed = MAY_IMPORT[max((key for key in MAY_IMPORT if path == key or path.startswith(f"{key}/")), key=len)]
    modules = imports_of(source)
    libraries = {name.split(".")[0] for name in modules} & HEAVY
    wrong = [f"{path} imports {name}" for name in sorted(libraries - allowed)]
    room = path.split("/", maxsplit=1)[0]
    for name in sorted(modules):
        parts = name.split(".")
        if parts[0] != "vjepa2" or len(parts) < 2:
            continue
        looks_at_model = parts[1] in MODEL and room == "runtime" and path not in REBUILDS
        leaves_core = parts[1] in {"export", "runtime"} and room == "vjepa2"
        crosses = parts[1] == "export" and room == "runtime"
        proves = parts[1] == "runtime" and room == "export" and path not in PROVES
        if looks_at_model or leaves_core or crosses or proves:
            wrong.append(f"{path} imports {name}")
    return wrong


SOURCES = sorted(
    file.relative_to(ROOT) for room in ("vjepa2", "export", "runtime") for file in (ROOT / room).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_every_file_knows_its_room(path: Path) -> None:
    if path.parts[:2] in {("vjepa2", "export"), ("vjepa2", "runtime")}:
        pytest.fail("the links were followed")
    assert not faults(path.as_posix(), (ROOT / path).read_text())


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vjepa2/spec.py", "import numpy"),
        ("runtime/search_index.py", "import faiss"),
        ("vjepa2/spec.py", "def f():\n    import torch.nn as nn"),
        ("vjepa2/encoder.py", "from vjepa2.export.trace import trace_encoder"),
        ("runtime/embedding.py", "from vjepa2.export import pipeline"),
        ("runtime/embedding.py", "from vjepa2.encoder import Encoder"),
        ("runtime/parity.py", "from torch import nn"),
        ("runtime/metrics.py", "import prometheus_client"),
        ("runtime/backends/onnxrt.py", "import torch"),
        ("runtime/backends/peers_onnxrt.py", "import onnxruntime"),
        ("runtime/query_timer.py", "import torch"),
        ("runtime/evidence.py", "import jinja2"),
        ("runtime/evidence.py", "from vjepa2.export.drift_report import DriftReport"),
        ("runtime/bench_subject.py", "from vjepa2.encoder import Encoder"),
        ("runtime/backends/trt.py", "import torch"),
        ("runtime/backends/cuda.py", "from cuda.bindings import driver"),
        ("export/lower.py", "from vjepa2.runtime.parity import GATES"),
        ("export/trace.py", "import onnxruntime"),
        ("export/compile.py", "import tensorrt"),
        ("export/tensorrt_api.py", "import onnx"),
    ],
)
def test_the_check_above_can_fail(path: str, source: str) -> None:
    assert faults(path, source)


def test_the_links_are_relative_and_tracked() -> None:
    for room in ("export", "runtime"):
        assert str((ROOT / "vjepa2" / room).readlink()) == f"../{room}"


def run_blocked(blocked: set[str], statement: str) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.modules.update(dict.fromkeys({sorted(blocked)})); {statement}"
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("statement", "needs"),
    [
        ("import vjepa2", set()),
        ("from vjepa2.manifest import decode_manifest", set()),
        ("from vjepa2.engine_folder import open_engine", set()),
        ("from vjepa2.runtime.backends.cuda import CudaDevice", {"numpy", "rich"}),
        ("import vjepa2.cli", {"click"}),
        ("import vjepa2.runtime", {"numpy"}),
        ("import vjepa2.runtime.cli", {"numpy", "rich", "click"}),
        ("import vjepa2.export.compile_cli", {"click", "rich"}),
        ("import vjepa2.runtime.doctor_cli", {"numpy", "rich", "click"}),
        ("import vjepa2.runtime.bench_cli", {"numpy", "rich", "click"}),
        ("import vjepa2.runtime.search_corpus", {"numpy", "pyarrow"}),
        ("import vjepa2.runtime.report_cli", {"numpy", "click"}),
        ("import vjepa2.runtime.triton_cli", {"numpy", "click"}),
        ("import vjepa2.export.inspect_cli", {"click", "rich", "numpy", "onnx"}),
        ("import vjepa2.export.memory, vjepa2.export.fit, vjepa2.export.devices", set()),
        ("import vjepa2.export.plan_cli", {"click", "numpy", "rich"}),
    ],
)
def test_imports_on_a_bare_device(statement: str, needs: set[str]) -> None:
    done = run_blocked(HEAVY - needs, statement)
    assert done.returncode == 0, done.stderr


def test_an_app_imports_what_it_needs_and_nothing_that_measures_or_proves() -> None:
    listed = (
        "import sys, vjepa2.runtime as r; print(*sorted(sys.modules)); assert all(getattr(r, n) for n in r.__all__)"
    )
    done = run_blocked(set(), listed)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.split())
    ours = {name.removeprefix("vjepa2.runtime.") for name in modules if name.startswith("vjepa2.runtime.")}
    assert {"embedding", "decoder", "backends.choice"} <= ours
    later = ("bench", "corpus", "evidence", "latency", "machine_state", "parity", "reference", "report")
    assert {name for name in ours if name.startswith(later)} == set()
    assert not {"stream", "stream_source", "stream_windows"} & ours, "an app without a stream does not wait for these"
    assert {name.partition(".")[0] for name in modules} & (HEAVY | {"vjepa2.export"}) == {"numpy"}
    done = run_blocked(set(), "import vjepa2.runtime; vjepa2.runtime.measure")
    assert "AttributeError: module 'vjepa2.runtime' has no attribute 'measure'" in done.stderr


def test_blocking_a_library_is_felt() -> None:
    assert run_blocked({"numpy"}, "import vjepa2.runtime").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "vitl", "-o", "x"], "vjepa2.export.cli needs torch; pip install 'vjepa2-edge[export]'"),
        (["embed", "x", "y", "-o", "z.npy"], "x is not a folder"),
        (["embed", "x", "y", "-o", "z.parquet"], "needs pyarrow; pip install 'vjepa2-edge[parquet]'"),
    ],
)
def test_a_verb_names_the_extra_that_it_lacks(arguments: list[str], message: str) -> None:
    blocked = HEAVY - {"numpy", "rich", "click"}
    done = run_blocked(blocked, f"from vjepa2.cli import main; main({arguments})")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bundle_is_verified_before_its_library_is_imported(bundle_copy: Path) -> None:
    (bundle_copy / "weights.data").write_bytes(b"")
    statement = f"from vjepa2.runtime import EmbeddingEngine; EmbeddingEngine.open({str(bundle_copy)!r})"
    done = run_blocked({"onnxruntime", "torch"}, statement)
    assert "BundleError" in done.stderr
    assert "its manifest says" in done.stderr
