"""Does an engine run as its bundle's other backends do, on every TensorRT; and is it refused for what is wrong?

TensorRT and the GPU's driver are fakes with the real ones' surfaces; what the engine computes is ONNX Runtime's.
"""

import ctypes
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.conftest import TINY_CLIP
from tests.engine_samples import sample_manifest
from tests.fake_cuda import FakeLibcuda, install
from tests.fake_tensorrt import VERSIONS, Script, fake_tensorrt
from tests.test_engine_folder import edit
from tests.test_export_heads import request_for
from vjepa2.bundle import PORTABLE, Bundle
from vjepa2.cli import main
from vjepa2.engine_folder import ENGINES, write_engine
from vjepa2.errors import BackendError, EngineError, MissingDependencyError
from vjepa2.export.pipeline import export_bundle
from vjepa2.runtime import Backend, Reference, check_parity, open_backend
from vjepa2.runtime.backends import BACKENDS, RunOptions, find_missing
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.backends.choice import choose_backend
from vjepa2.runtime.backends.cuda import CudaDevice
from vjepa2.runtime.backends.onnxrt import run_graph
from vjepa2.runtime.gates import GATES
from vjepa2.runtime.parity_report import FILE, read_report

PLAN = b"ftrt and then code"


@dataclass(slots=True)
class Rig:
    """A machine with a fake GPU and a fake TensorRT, and a bundle with an engine for it."""

    bundle: Bundle
    script: Script
    library: FakeLibcuda
    module: Any
    backend: Callable[..., Backend]
    engine_name: str


@contextmanager
def make_rig(version: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Put the fakes where the real ones would be found."""
    library = install(FakeLibcuda(), monkeypatch)
    graph = onnx.load(folder / PORTABLE, load_external_data=False).graph
    script = Script(graph=graph, infer=lambda inputs: run_portable(folder, inputs), enqueue=library.enqueue)
    module = fake_tensorrt(version, script)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    for name in ("trt", "trt_log", "trt_session"):
        monkeypatch.delitem(sys.modules, f"vjepa2.runtime.backends.{name}", raising=False)
    trt = importlib.import_module("vjepa2.runtime.backends.trt")
    bundle = Bundle.open(folder)
    with CudaDevice.open() as gpu:
        engine = write_engine(bundle, sample_manifest(bundle, gpu.describe(module.__version__)), PLAN)
    yield Rig(bundle, script, library, module, trt.TensorRtBackend, engine.name)
    for name in ("trt", "trt_log", "trt_session"):
        sys.modules.pop(f"vjepa2.runtime.backends.{name}", None)


def run_portable(folder: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine computes: the graph that it was built from."""
    wide = {name: array.astype(np.int64) if array.dtype == np.int32 else array for name, array in inputs.items()}
    return dict(run_graph(folder / PORTABLE, wide))


@pytest.fixture
def rig(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with make_rig("8.6", bundle_copy, monkeypatch) as made:
        yield made


def frames_of(count: int, seed: int = 0) -> FramesArray:
    return np.random.default_rng(seed).integers(0, 256, TINY_CLIP.frames_shape(count), dtype=np.uint8)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_of_every_version_passes_the_gate(
    version: str, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_rig(version, bundle_copy, monkeypatch) as rig:
        with rig.backend(rig.bundle) as backend:
            verdict = check_parity(Reference.load(rig.bundle), backend, GATES["fp32"])
        assert verdict.passed
        assert rig.library.live() == 0
        assert rig.script.named("Runtime.engine_host_code_allowed=") == [{"value": False}]
        assert rig.script.order().index("Runtime.engine_host_code_allowed=") < rig.script.order().index(
            "Runtime.deserialize_cuda_engine"
        )


def test_a_result_is_not_written_to_by_the_next_call(rig: Rig) -> None:
    with rig.backend(rig.bundle) as backend:
        first = backend.run(frames_of(1)).embeddings_BD
        assert first is not None
        kept = first.copy()
        backend.run(frames_of(1, seed=1))
        np.testing.assert_array_equal(first, kept)
        first += 1


def test_only_what_was_asked_for_is_copied_back(rig: Rig) -> None:
    with rig.backend(rig.bundle) as backend:
        rig.library.calls.clear()
        assert backend.run(frames_of(1)).tokens_BND is None
        assert rig.library.calls.count("cuMemcpyDtoHAsync_v2") == 1
        backend.run(frames_of(1), ("tokens", "embedding", "tokens"))
        assert rig.library.calls.count("cuMemcpyDtoHAsync_v2") == 3


def test_held_clips_stay_on_the_gpu_while_they_are_computed_on(rig: Rig) -> None:
    with rig.backend(rig.bundle) as backend:
        expected = backend.run(frames_of(1)).embeddings_BD
        backend.run(frames_of(1, seed=1))
        held = backend.hold(frames_of(1))
        rig.library.calls.clear()
        events_ms = held.compute(3)
        assert events_ms is not None
        assert len(events_ms) == 3
        assert not {"cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2"} & set(rig.library.calls)
        np.testing.assert_array_equal(held.fetch()["embedding"], expected)
        assert rig.library.calls.count("cuMemcpyDtoHAsync_v2") == 1


def test_the_stream_is_its_own(rig: Rig) -> None:
    with rig.backend(rig.bundle) as backend:
        backend.run(frames_of(1))
        (call,) = rig.script.named("IExecutionContext.execute_async_v3")
        assert call["stream_handle"] in rig.library.streams


def test_a_cuda_graph_is_captured_the_second_time_and_gives_the_same(rig: Rig) -> None:
    with rig.backend(rig.bundle) as plain:
        expected = [plain.run(frames_of(1, seed)).embeddings_BD for seed in range(4)]
    rig.script.calls.clear()
    with rig.backend(rig.bundle, RunOptions(cuda_graph=True)) as backend:
        for seed in range(4):
            np.testing.assert_array_equal(backend.run(frames_of(1, seed)).embeddings_BD, expected[seed])
        assert len(rig.script.named("IExecutionContext.execute_async_v3")) == 2
        assert rig.library.calls.count("cuGraphLaunch") == 3
        backend.run(frames_of(1), ("tokens",))
        backend.run(frames_of(1), ("tokens",))
        assert rig.library.calls.count("cuStreamEndCapture") == 2, "another output is another graph"
    assert rig.library.live() == 0


def test_a_cuda_graph_is_an_option_of_opening_that_only_engines_have(rig: Rig) -> None:
    with open_backend(rig.bundle, "tensorrt", cuda_graph=True) as backend:
        for _ in range(2):
            backend.run(frames_of(1))
    assert rig.library.calls.count("cuGraphLaunch") == 1
    with open_backend(rig.bundle, "tensorrt") as backend:
        for _ in range(2):
            backend.run(frames_of(1))
    assert rig.library.calls.count("cuGraphLaunch") == 1
    with pytest.raises(BackendError, match="onnxruntime launches no CUDA graphs; take the tensorrt backend"):
        open_backend(rig.bundle, "onnxruntime", cuda_graph=True)


def test_the_engine_alone_is_timed_on_the_gpu(rig: Rig) -> None:
    with rig.backend(rig.bundle) as backend:
        backend.run(frames_of(1))
        rig.script.calls.clear()
        rig.library.calls.clear()
        times_ms = backend.time_engine(3)  # type: ignore[attr-defined]
        assert times_ms == pytest.approx([1.0, 1.0, 1.0]), "half a millisecond each for the engine and its event"
        assert rig.script.order() == ["IExecutionContext.execute_async_v3"] * 3
        assert not {"cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2"} & set(rig.library.calls)
    assert rig.library.live() == 0
    with pytest.raises(BackendError, match="the tensorrt backend is closed"):
        backend.time_engine(1)  # type: ignore[attr-defined]


def test_closing_twice_is_fine_and_use_after_it_an_error(rig: Rig) -> None:
    backend = rig.backend(rig.bundle)
    backend.close()
    backend.close()
    assert rig.library.live() == 0
    with pytest.raises(BackendError, match="the tensorrt backend is closed"):
        backend.run(frames_of(1))


def refuse_to_load(rig: Rig) -> None:
    loggers = []
    make = rig.module.Runtime.__init__

    def keep(self: Any, logger: Any) -> None:
        loggers.append(logger)
        make(self, logger)

    def refuse(self: Any, serialized_engine: bytes) -> None:
        loggers[0].log(rig.module.ILogger.Severity.ERROR, "Serialization assertion stdVersionRead failed")

    rig.module.Runtime.__init__, rig.module.Runtime.deserialize_cuda_engine = keep, refuse


def lose_gpu(rig: Rig) -> None:
    rig.script.has_gpu = False


def change_behaviour(name: str, answer: Any) -> Callable[[Rig], None]:
    """A method of the fake that gives `answer`."""
    kind, method = name.split(".")
    return lambda rig: setattr(getattr(rig.module, kind), method, lambda self, *_, **__: answer)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (refuse_to_load, r"TensorRT 8.6.0 does not take the plan: Serialization assertion stdVersionRead failed"),
        (lose_gpu, r"TensorRT 8.6.0 finds no GPU that it supports: TensorRT said nothing"),
        (change_behaviour("ICudaEngine.create_execution_context", None), r"makes no context of the plan"),
        (change_behaviour("IExecutionContext.set_input_shape", False), r"takes no frames of \[1, 4, 64, 96, 3\]"),
        (change_behaviour("IExecutionContext.infer_shapes", ["frames"]), r"wants shapes of \['frames'\] too"),
        (change_behaviour("IExecutionContext.set_tensor_address", False), r"takes no address for frames"),
    ],
)
def test_what_tensorrt_refuses_is_an_error_and_everything_is_freed(
    spoil: Callable[[Rig], None], message: str, rig: Rig
) -> None:
    spoil(rig)
    with pytest.raises(BackendError, match=message):
        rig.backend(rig.bundle)
    assert rig.library.live() == 0


@pytest.mark.parametrize(("name", "answer"), [("infer_shapes", ["frames"]), ("execute_async_v3", True)])
def test_an_engine_is_let_go_before_its_gpu_whether_it_opened_or_not(name: str, answer: Any, rig: Rig) -> None:
    let_go: list[int] = []
    rig.module.ICudaEngine.__del__ = lambda self: let_go.append(rig.library.retained)
    change_behaviour(f"IExecutionContext.{name}", answer)(rig)
    error = None
    try:
        rig.backend(rig.bundle).close()
    except BackendError as caught:
        error = caught  # and with it every frame that it passed
    assert (error is None) == (name == "execute_async_v3")
    assert let_go == [1]
    assert rig.library.retained == 0


def test_a_call_that_fails_tells_the_log(rig: Rig) -> None:
    with rig.backend(rig.bundle) as backend:

        def fail(self: Any, stream_handle: int) -> bool:
            rig.module.write("ERROR", "Cask error")
            rig.module.write("INFO", "idle talk")
            return False

        rig.module.IExecutionContext.execute_async_v3 = fail
        with pytest.raises(BackendError, match=r"could not enqueue the engine; TensorRT: Cask error$"):
            backend.run(frames_of(1))


def test_a_second_session_hears_what_tensorrt_writes_after_the_first_was_closed(rig: Rig) -> None:
    """TensorRT knows the first logger of a process alone, and calls it for ever."""
    rig.backend(rig.bundle).close()
    rig.module.write("ERROR", "of the first")
    with rig.backend(rig.bundle) as backend:

        def fail(self: Any, stream_handle: int) -> bool:
            rig.module.write("ERROR", "of the second")
            return False

        rig.module.IExecutionContext.execute_async_v3 = fail
        with pytest.raises(BackendError, match=r"could not enqueue the engine; TensorRT: of the second$"):
            backend.run(frames_of(1))
    rig.module.write("ERROR", "of nobody")


def test_another_version_is_refused_before_a_byte_is_deserialised(rig: Rig) -> None:
    rig.module.__version__ = "8.6.1"
    with pytest.raises(EngineError) as caught:
        rig.backend(rig.bundle)
    assert "TensorRT is 8.6.1 here, 8.6.0 in the engine" in str(caught.value)
    assert str(caught.value).endswith(f"run: vjepa2 compile {rig.bundle.path}")
    assert rig.script.order() == ["ILogger.__init__"], "which is made with its module"
    assert rig.library.live() == 0


def test_a_plan_that_is_not_what_its_manifest_says_is_refused(rig: Rig) -> None:
    rig.script.graph.input[0].name = "images"  # type: ignore[union-attr]
    with pytest.raises(EngineError, match=r"the plan's tensors are .*images.*; its manifest says"):
        rig.backend(rig.bundle)
    with pytest.raises(EngineError, match=r"the plan has .*images.*; its bundle has"):
        rig.backend(rig.bundle, plan=PLAN)
    assert rig.library.live() == 0


def test_a_tensor_that_numpy_does_not_have_is_refused(rig: Rig) -> None:
    rig.module.ICudaEngine.get_tensor_dtype = lambda self, name: rig.module.DataType.FP8
    with pytest.raises(BackendError, match="frames is FP8, LINEAR, on the DEVICE; that cannot be run here"):
        rig.backend(rig.bundle)


def test_a_plan_that_was_just_built_runs_without_a_folder(rig: Rig) -> None:
    with rig.backend(rig.bundle, plan=b"fresh") as backend:
        backend.run(frames_of(1))
    assert rig.script.named("Runtime.deserialize_cuda_engine") == [{"serialized_engine": b"fresh"}]


def test_auto_takes_the_engine_where_there_is_one(rig: Rig) -> None:
    with open_backend(rig.bundle) as backend:
        assert (backend.name, backend.device, backend.precision) == ("tensorrt", "cuda:0", "fp32")
        assert backend.reason == "auto: an engine that was proved on this GPU"
        backend.run(frames_of(1))
    assert rig.library.live() == 0


@pytest.mark.parametrize("device", [None, "cuda", "cuda:0"])
def test_without_an_engine_for_this_machine_the_command_is_told(device: str | None, rig: Rig) -> None:
    rig.module.__version__ = "8.6.1"
    with pytest.raises(MissingDependencyError) as caught:
        open_backend(rig.bundle, "tensorrt", device=device)
    assert "TensorRT is 8.6.1 here, 8.6.0 in the engine" in str(caught.value)
    assert str(caught.value).endswith(f"run: vjepa2 compile {rig.bundle.path}")
    assert "TensorRT is 8.6.1 here" in choose_backend(rig.bundle).reason, "auto goes on, and says why"
    assert rig.library.live() == 0


def stale_version(rig: Rig) -> str:
    """TensorRT was updated since."""
    rig.module.__version__ = "8.6.1"
    return "TensorRT is 8.6.1 here, 8.6.0 in the engine"


def stale_bundle(rig: Rig) -> str:
    """The engine is one that was built from another export."""
    folder = rig.bundle.path / ENGINES / rig.engine_name
    edit(folder, lambda held: replace(held, bundle_sha256="0"))
    return "from another export of this bundle"


def stale_plan(rig: Rig) -> str:
    """The plan alone is another one, of the same length."""
    (rig.bundle.path / ENGINES / rig.engine_name / "engine.plan").write_bytes(PLAN[::-1])
    return "engine.plan was changed after compile (sha256 differs)"


@pytest.mark.parametrize("spoil", [stale_version, stale_bundle, stale_plan])
def test_a_comparison_with_a_stale_engine_is_refused_if_it_was_asked_for_and_told_if_not(
    spoil: Callable[[Rig], str], rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vjepa2.runtime.oracle.find_missing", lambda *_, **__: "pytorch needs torch")
    told = spoil(rig)
    with pytest.raises(SystemExit) as done:
        main(["parity", str(rig.bundle.path), "--backends", "tensorrt"])
    assert done.value.code == 2
    err = capsys.readouterr().err
    assert told in err
    assert f"run: vjepa2 compile {rig.bundle.path}" in err
    assert "Traceback" not in err
    report = rig.bundle.path / FILE
    assert not report.exists() or read_report(report).partial
    only = {name: entry for name, entry in BACKENDS.items() if name in ("tensorrt", "onnxruntime")}
    monkeypatch.setattr("vjepa2.runtime.candidates.BACKENDS", only)
    with pytest.raises(SystemExit) as done:
        main(["parity", str(rig.bundle.path)])
    assert not done.value.code
    kept = read_report(report)
    assert [row.backend for row in kept.candidates] == ["onnxruntime"]
    assert told in kept.not_run["bundle in tensorrt"]
    assert rig.library.live() == 0


def test_a_gpu_that_is_not_there_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependencyError, match=r"tensorrt needs an NVIDIA GPU \(there is no GPU 1; the driver"):
        open_backend(rig.bundle, "tensorrt", device="cuda:1")

    def find_none(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", find_none)
    assert find_missing("tensorrt") == ("tensorrt needs an NVIDIA GPU (libcuda.so.1 not found: no NVIDIA driver here)")


def test_an_engine_of_free_batch_takes_as_many_clips_as_its_profile(
    dynamic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(dynamic, tmp_path / "bundle"))
    with make_rig("10.3", folder, monkeypatch) as rig:
        rig.script.most_clips = 2
        with rig.backend(rig.bundle, RunOptions(cuda_graph=True), plan=PLAN) as backend:
            assert backend._session.ranges["pixel_values_videos"].most[0] == 2  # type: ignore[attr-defined]
            frames = frames_of(5)
            got = backend.run(frames, ("tokens",)).tokens_BND
            again = backend.run(frames, ("tokens",)).tokens_BND
        shapes = [call["shape"][0] for call in rig.script.named("IExecutionContext.set_input_shape")]
        assert shapes == [2, 1, 2, 1], "three calls: two clips, two, one"
        with open_backend(rig.bundle, "onnxruntime-portable") as other:
            expected = other.run(frames, ("tokens",)).tokens_BND
        np.testing.assert_allclose(got, expected, atol=1e-5)  # type: ignore[arg-type]
        np.testing.assert_array_equal(got, again)
        assert rig.library.live() == 0


def test_ids_become_the_32_bits_that_tensorrt_8_makes_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = export_bundle(request_for("predictor"), tmp_path / "bundle").bundle
    reference = Reference.load(bundle)
    with make_rig("8.6", bundle.path, monkeypatch) as rig, rig.backend(rig.bundle, plan=PLAN) as backend:
        types = {tensor.name: tensor.dtype for tensor in backend._session.tensors}  # type: ignore[attr-defined]
        assert types["context_ids"] == types["target_ids"] == "INT32"
        assert check_parity(reference, backend, GATES["fp32"]).passed
        with pytest.raises(BackendError, match=r"context_ids reach 4294967296; this engine takes int32"):
            backend._convert("context_ids", np.array([[2**32, 1]]))  # type: ignore[attr-defined]
