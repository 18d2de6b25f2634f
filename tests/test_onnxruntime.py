"""Does ONNX Runtime run where it was asked to run, and is it an error if it does not?"""

import ctypes
import json
import os
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.conftest import TINY_CLIP
from vjepa2.bundle import ONNXRUNTIME, PORTABLE, Bundle
from vjepa2.errors import BackendError, MissingDependencyError
from vjepa2.runtime import Reference, open_backend
from vjepa2.runtime.backends import find_missing, onnxrt
from vjepa2.runtime.backends.base import RunOptions
from vjepa2.runtime.backends.engine_cache import prepare_cache
from vjepa2.runtime.backends.onnxrt import open_session, session_options
from vjepa2.runtime.backends.ort_binding import HeldBinding
from vjepa2.runtime.backends.ort_profile import read_profile
from vjepa2.runtime.gpus import Gpu

FRAMES = np.zeros(TINY_CLIP.frames_shape(), np.uint8)
GPU = Gpu(name="a GPU", capability=(9, 0), driver=13000)


class OnTheCpu(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session that says it has what was asked for, and runs every node on the CPU."""

    wanted: list[str]
    settings: list[dict[str, str]]
    entries: str

    def __init__(self, source: str | bytes, options: onnxruntime.SessionOptions, **facts: Any) -> None:
        type(self).wanted, type(self).settings = facts["providers"], facts["provider_options"]
        assert facts["enable_fallback"] == 0
        try:
            type(self).entries = options.get_session_config_entry("session.disable_cpu_ep_fallback")
        except RuntimeError:  # it was not set
            type(self).entries = ""
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
        super().__init__(source, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return [*self.wanted, "CPUExecutionProvider"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[OnTheCpu]:
    """A machine that says it has a GPU, whose every node runs on the CPU all the same."""
    monkeypatch.setattr(onnxrt, "list_gpus", lambda: [GPU])
    monkeypatch.setattr("onnxruntime.InferenceSession", OnTheCpu)
    offered = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: offered)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return OnTheCpu


class _Heap(ctypes.Structure):
    """What `mallinfo2` of glibc tells, in bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def used_bytes() -> int:
    """What malloc has given out and not got back."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Heap
    heap = library.mallinfo2()
    return int(heap.uordblks) + int(heap.hblkhd)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc >= 2.33")
def test_calls_leave_nothing_in_memory_with_several_threads_either(exported: Path) -> None:
    calls = 1000
    with open_backend(Bundle.open(exported), "onnxruntime", threads=2) as backend:
        for _ in range(100):
            backend.run(FRAMES)
        before = used_bytes()
        for _ in range(calls):
            backend.run(FRAMES)
        assert (used_bytes() - before) / calls < 80  # it was 190


_AT_EXIT = """
import atexit, sys
import numpy as np
from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError
from vjepa2.runtime import open_backend

backend = open_backend(Bundle.open(sys.argv[1]), "onnxruntime", threads=2)
frames = np.zeros((1, *backend.bundle.manifest.frames_shape), np.uint8)
backend.run(frames)

@atexit.register
def run_late():
    try:
        backend.run(frames)
    except BackendError as error:
        print(error)
"""


def test_a_call_while_python_ends_is_an_error_that_says_so(exported: Path) -> None:
    command = [sys.executable, "-c", _AT_EXIT, str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.startswith("onnxruntime takes no clip while Python ends")
    assert (done.returncode, done.stderr) == (0, "")


def test_both_distributions_installed_is_an_error(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        def __init__(self, name: str) -> None:
            self.metadata = {"Name": name}

    both = [Installed("onnxruntime"), Installed("onnxruntime-gpu")]
    monkeypatch.setattr(metadata, "distributions", lambda: both)
    with pytest.raises(BackendError, match="onnxruntime and onnxruntime-gpu are both installed and overwrite"):
        open_backend(Bundle.open(exported), "onnxruntime")


def test_a_provider_that_was_not_asked_for_is_an_error(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def get_providers(self) -> list[str]:
            return ["AzureExecutionProvider"]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    with pytest.raises(BackendError, match=r"took \['AzureExecutionProvider'\]; CPUExecutionProvider was asked for"):
        open_backend(Bundle.open(exported), "onnxruntime")


def test_a_graph_that_it_cannot_read_is_an_error(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    (bundle_copy / ONNXRUNTIME).write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"onnxruntime \S+ refuses onnxruntime.onnx: "):
        open_backend(bundle, "onnxruntime")


def test_the_first_run_leaves_no_file_behind(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_backend(Bundle.open(exported), "onnxruntime") as backend:
        assert not backend.placement
        assert list(tmp_path.iterdir())
        backend.run(FRAMES)
        assert not list(tmp_path.iterdir())
        assert {row.place for row in backend.placement} == {"CPUExecutionProvider"}
        backend.run(FRAMES)
    open_backend(Bundle.open(exported), "onnxruntime").close()
    assert not list(tmp_path.iterdir()), "nor does a backend that never ran"


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_provider_that_this_onnxruntime_lacks_is_named(name: str, exported: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this is onnxruntime-gpu")
    with pytest.raises(MissingDependencyError, match=rf"{name} needs \w+ExecutionProvider .*\[onnxruntime-gpu\]"):
        open_backend(Bundle.open(exported), name)


def test_a_machine_without_a_gpu_is_told_so(gpu: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxrt, "list_gpus", list)
    monkeypatch.setattr(onnxrt, "explain_no_gpu", lambda: "an NVIDIA GPU")
    assert find_missing("onnxruntime-cuda") == "onnxruntime-cuda needs an NVIDIA GPU"


def test_a_provider_whose_libraries_do_not_load_is_told_so(gpu: object, monkeypatch: pytest.MonkeyPatch) -> None:
    class Session(OnTheCpu):
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]  # what is left of a provider that cannot load, without an exception

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    missing = find_missing("onnxruntime-cuda")
    assert missing is not None
    assert "needs libraries that CUDAExecutionProvider loads (onnxruntime took ['CPUExecutionProvider']" in missing


def test_nodes_that_fell_to_the_cpu_give_no_result_unless_allowed(exported: Path, gpu: type[OnTheCpu]) -> None:
    bundle = Bundle.open(exported)
    with open_backend(bundle, "onnxruntime-cuda") as backend:
        assert (gpu.wanted, gpu.entries) == (["CUDAExecutionProvider"], "1")
        with pytest.raises(BackendError, match=r"ran \d+ nodes on CPUExecutionProvider, and CUDAExecutionProvider was"):
            backend.run(FRAMES)
    allowed = ("CPUExecutionProvider",)
    with open_backend(bundle, "onnxruntime-cuda", allow=allowed) as backend:
        assert gpu.entries != "1"
        assert backend.run(FRAMES).embeddings_BD is not None


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-cuda"])
def test_what_was_refused_once_is_refused_again_in_the_same_words(
    name: str, exported: Path, gpu: type[OnTheCpu], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise BackendError("it ran elsewhere")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "profiles"))
    (tmp_path / "profiles").mkdir()
    with open_backend(Bundle.open(exported), name) as backend:
        monkeypatch.setattr(onnxrt, "check_placement", refuse)
        for _ in range(3):
            with pytest.raises(BackendError, match=r"^it ran elsewhere$"):
                backend.run(FRAMES)
        with pytest.raises(BackendError, match=r"^it ran elsewhere$"):
            backend.hold(FRAMES).compute()
        assert not list((tmp_path / "profiles").iterdir())


def test_a_profile_that_cannot_be_read_lets_nothing_pass(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxrt, "read_profile", lambda *_, **__: json.loads('{"cut'))
    with open_backend(Bundle.open(exported), "onnxruntime") as backend:
        for _ in range(2):
            with pytest.raises(BackendError, match=r"profile cannot be read \(Unterminated .* has room"):
                backend.run(FRAMES)


def test_float32_is_not_rounded_to_tf32_unasked(exported: Path, gpu: type[OnTheCpu]) -> None:
    bundle = Bundle.open(exported)
    open_backend(bundle, "onnxruntime-cuda", device="cuda:1").close()
    assert gpu.settings == [{"device_id": "1", "use_tf32": "0"}]
    allowed = ("CPUExecutionProvider",)
    with open_backend(bundle, "onnxruntime-cuda", precision="tf32", allow=allowed) as backend:
        assert gpu.settings == [{"device_id": "0", "use_tf32": "1"}]
        backend.run(FRAMES)
        assert backend.precision == "tf32"


def test_tensorrt_is_told_where_to_keep_engines_and_may_not_round(
    exported: Path, gpu: type[OnTheCpu], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = Bundle.open(exported)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with pytest.raises(BackendError, match=r"rounds float32 to tf32.*start with NVIDIA_TF32_OVERRIDE=0"):
        open_backend(bundle, "onnxruntime-tensorrt")
    open_backend(bundle, "onnxruntime-tensorrt", precision="tf32", allow=("CUDAExecutionProvider",)).close()
    assert gpu.wanted == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert gpu.settings[0]["trt_engine_cache_enable"] == "1"
    cache = Path(gpu.settings[0]["trt_engine_cache_path"])
    assert tmp_path in cache.parents
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    open_backend(bundle, "onnxruntime-tensorrt").close()
    assert gpu.wanted == ["TensorrtExecutionProvider"]
    assert gpu.settings[0]["trt_engine_cache_path"] != str(cache), "tf32's engines are others"


def test_engines_are_kept_by_everything_that_they_depend_on(
    exported: Path, in_threes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle, other = Bundle.open(exported), Bundle.open(in_threes)
    older = Gpu(name="a GPU", capability=(9, 0), driver=12090)
    folder = prepare_cache(bundle, PORTABLE, "fp32", GPU, "1.30")
    assert folder == prepare_cache(bundle, PORTABLE, "fp32", GPU, "1.30")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    others = {
        prepare_cache(other, PORTABLE, "fp32", GPU, "1.30"),
        prepare_cache(bundle, ONNXRUNTIME, "fp32", GPU, "1.30"),
        prepare_cache(bundle, PORTABLE, "tf32", GPU, "1.30"),
        prepare_cache(bundle, PORTABLE, "fp32", older, "1.30"),
        prepare_cache(bundle, PORTABLE, "fp32", GPU, "1.31"),
    }
    assert len({folder, *others}) == 6


@pytest.mark.parametrize("spoil", ["writable", "link"])
def test_a_folder_of_engines_that_others_can_write_is_refused(
    spoil: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = Bundle.open(exported)
    folder = prepare_cache(bundle, PORTABLE, "fp32", GPU, "1.30")
    if spoil == "writable":
        folder.chmod(0o777)
    else:
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackendError, match=rf"engines are native code, so it must be a folder .* {os.getuid()} can"):
        prepare_cache(bundle, PORTABLE, "fp32", GPU, "1.30")


def test_the_probe_is_a_graph_of_one_addition() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(onnxrt._PROBE)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Add"]
    session = onnxruntime.InferenceSession(onnxrt._PROBE, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones(1, np.float32)})[0] == [2]


def node(kind: str, takes: str, gives: str, provider: str = "CUDAExecutionProvider") -> dict[str, object]:
    facts = {
        "provider": provider, "op_name": kind,
        "input_type_shape": [{takes: [1]}, {"int64": [1]}], "output_type_shape": [{gives: [1]}],
    }  # fmt: skip
    return {"cat": "Node", "name": f"{kind}_kernel_time", "args": facts}


@pytest.mark.parametrize(
    ("event", "precision", "products"),
    [
        (node("MatMul", "float", "float"), "tf32", 1),
        (node("MatMul", "float16", "float16"), "fp16", 1),
        (node("MatMulIntegerToFloat", "uint8", "float"), "int8", 1),
        (node("MultiHeadAttention", "bfloat16", "bfloat16"), "bf16", 1),
        (node("LayerNormalization", "float", "float"), "fp32", 0),
        (node("Cast", "uint8", "float"), "fp32", 0),
        (node("Reshape", "int8", "int8"), "", 0),
        (node("TRTKernel_graph_main_1_0", "uint8", "float"), "tf32", 1),
    ],
)
def test_a_profile_tells_the_precision_of_each_node(
    event: dict[str, object], precision: str, products: int, tmp_path: Path
) -> None:
    file = tmp_path / "profile.json"
    other = {"cat": "Session", "name": "session_initialization", "args": {}}
    file.write_text(json.dumps([other, event]))
    (placed,) = read_profile(file, exact="tf32")
    assert (placed.place, placed.precision, placed.products) == ("CUDAExecutionProvider", precision, products)


def test_bound_inputs_give_what_passed_ones_do(exported: Path) -> None:
    """The binding that a GPU's clips are held by, tried on the CPU."""
    reference = Reference.load(Bundle.open(exported))
    inputs = {"frames": reference.frames_BTHWC[:1]}
    session = open_session(exported / "onnxruntime.onnx", session_options())
    held = HeldBinding(session, inputs, ("embedding",), "cpu")
    held.compute(2)
    np.testing.assert_array_equal(held.fetch()["embedding"], session.run(["embedding"], inputs)[0])


def test_options_are_those_that_were_given(exported: Path) -> None:
    with onnxrt.OnnxRuntimeBackend(Bundle.open(exported), RunOptions(precision="fp32")) as backend:
        assert backend.options.precision == "fp32"
