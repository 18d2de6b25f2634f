"""One contract, every backend: what is not promised here is not promised."""

import hashlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError, MissingDependencyError, UnknownNameError
from vjepa2.runtime import Backend, Reference, open_backend
from vjepa2.runtime.backends import BACKENDS, choice
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.backends.placement import Executed
from vjepa2.runtime.gpus import Gpu

# A new backend joins by its row in BACKENDS, and one here if it needs a device that is not everywhere.
MARKS: dict[str, pytest.MarkDecorator | tuple[pytest.MarkDecorator, ...]] = {
    "tensorrt": pytest.mark.gpu,  # tests/test_trt.py holds it to the same, on fakes
    "onnxruntime-cuda": pytest.mark.gpu,
    "onnxruntime-tensorrt": pytest.mark.gpu,
    "openvino-gpu": pytest.mark.gpu,
    # a C++ compiler runs for every shape; PyTorch's compiler warns of PyTorch
    "pytorch-compile": (pytest.mark.slow, pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")),
    "transformers-compile": (pytest.mark.slow, pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")),
    # each opening exports; tests/test_peers.py opens each once
    "transformers-onnxruntime": pytest.mark.slow,
    "transformers-openvino": pytest.mark.slow,
}
SQUARE_ALONE = {name for name in BACKENDS if name.startswith("transformers")}
# What a row is asked for, where its own choice would be an error on most machines, and how exact it can then be.
PRECISIONS: dict[str, Executed] = {"onnxruntime-tensorrt": "tf32"}
TOLERANCES = {"onnxruntime-tensorrt": 1e-2}
NAMES = [pytest.param(name, marks=MARKS.get(name, ())) for name in BACKENDS]
FOLDERS = [  # tests/test_peers.py has square bundles of other batches
    pytest.param(name, folder, marks=MARKS.get(name, ()))
    for name in BACKENDS
    for folder in (("exported",) if name in SQUARE_ALONE else ("exported", "in_threes", "dynamic"))
]
Opener = Callable[..., Backend]


@pytest.fixture(scope="module")
def open_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    """A function that opens a folder in a backend, or skips the test and says what this machine lacks."""
    opened: list[Backend] = []
    engines = tmp_path_factory.mktemp("engines")

    def open_it(folder: Path, name: str) -> Backend:
        bundle = Bundle.open(folder)
        if name == "tensorrt" and choice.find_missing(name) is None:
            bundle = with_engine(folder, engines)
        missing = choice.find_missing(name, bundle=bundle)
        if missing:
            pytest.skip(missing)
        opened.append(open_backend(bundle, name, precision=PRECISIONS.get(name)))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield open_it
    for backend in opened:
        backend.close()


def with_engine(folder: Path, place: Path) -> Bundle:
    """A copy of a bundle, once for all tests, with the engine that is compiled for this machine's GPU."""
    copy = place / hashlib.sha256(str(folder).encode()).hexdigest()
    if not copy.exists():
        compiling = import_module("vjepa2.export.compile")  # imports tensorrt
        request = import_module("vjepa2.export.compile_request").CompileRequest
        watching = import_module("vjepa2.export.build_watch")
        bundle = Bundle.open(shutil.copytree(folder, copy))
        most = 4 if bundle.manifest.batch == "dynamic" else None
        asked = request(bundles=(bundle,), timings=place / "timings", max_batch=most)
        console = Console(quiet=True)
        compiling.compile_engine(asked, show=lambda what: watching.show_build(console, what), tell=print)
    return Bundle.open(copy)


def test_the_engine_that_the_suite_needs_is_compiled_once(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with a GPU and TensorRT, so that the suite is skipped for want of these alone."""
    compiled: list[Path] = []

    class Compiling:
        @staticmethod
        def compile_engine(request: Any, **_: object) -> object:
            compiled.extend(bundle.path for bundle in request.bundles)
            return request

    monkeypatch.setitem(sys.modules, "vjepa2.export.compile", Compiling)
    for _ in range(2):
        bundle = with_engine(exported, tmp_path)
    assert compiled == [bundle.path]
    assert bundle.path != exported
    assert bundle.manifest == Bundle.open(exported).manifest


def find_folder(name: str, request: pytest.FixtureRequest) -> Path:
    """A bundle of one clip a call that the backend has a model for; the test is skipped where its library is not."""
    if name in SQUARE_ALONE and (missing := choice.find_missing(name)):
        pytest.skip(missing)
    folder: Path = request.getfixturevalue("square" if name in SQUARE_ALONE else "exported")
    return folder


@pytest.fixture(scope="module", params=NAMES)
def backend(request: pytest.FixtureRequest, open_one: Opener) -> Backend:
    """A bundle in one backend, opened once for all tests."""
    return open_one(find_folder(request.param, request), request.param)


def frames_of(backend: Backend, count: int, seed: int = 0) -> FramesArray:
    shape = (count, *backend.bundle.manifest.frames_shape)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_outputs_are_pytorchs(backend: Backend) -> None:
    reference = Reference.load(backend.bundle)
    tolerance = TOLERANCES.get(backend.name, 1e-4)
    outputs = backend.run(reference.frames_BTHWC, ("tokens", "embedding")).by_name()
    assert set(outputs) == {"tokens", "embedding"}
    for name, expected in reference.outputs.by_name().items():
        assert outputs[name].dtype == np.float32
        np.testing.assert_allclose(outputs[name], expected, atol=tolerance)


def test_only_what_was_asked_for_is_returned(backend: Backend) -> None:
    assert backend.run(frames_of(backend, 1)).tokens_BND is None
    assert backend.run(frames_of(backend, 1), ("tokens",)).embeddings_BD is None


def test_result_survives_the_next_call(backend: Backend) -> None:
    first = backend.run(frames_of(backend, 1)).embeddings_BD
    assert first is not None
    kept = first.copy()
    backend.run(frames_of(backend, 1, seed=1))
    np.testing.assert_array_equal(first, kept)
    first += 1  # the caller's to change


def test_held_clips_compute_what_run_gives_again_and_again(backend: Backend) -> None:
    frames = [frames_of(backend, 1), frames_of(backend, 1, seed=1)]
    expected = [backend.run(each, ("tokens", "embedding")).by_name() for each in frames]
    for each, wanted in zip(frames, expected, strict=True):
        held = backend.hold(each, ("tokens", "embedding"))
        for calls in (1, 2):
            events_ms = held.compute(calls)
            assert events_ms is None or len(events_ms) == calls
            results = held.fetch()
            assert set(results) == {"tokens", "embedding"}
            for name, array in wanted.items():
                np.testing.assert_array_equal(results[name], array)
    assert backend.count_clips_a_call(1) == 1
    if backend.count_clips_a_call(2) == 1:
        with pytest.raises(BackendError, match="2 clips cannot be held; the graph takes 1 at once"):
            backend.hold(frames_of(backend, 2))


def test_frames_may_lie_anywhere_in_memory_and_are_not_written_to(backend: Backend) -> None:
    frames = frames_of(backend, 2)
    backwards = np.ascontiguousarray(frames[..., ::-1])[..., ::-1]
    backwards.setflags(write=False)
    assert not backwards.flags.c_contiguous
    np.testing.assert_array_equal(backend.run(backwards).embeddings_BD, backend.run(frames).embeddings_BD)
    np.testing.assert_array_equal(backwards, frames)


@pytest.mark.parametrize(("name", "folder"), FOLDERS)
def test_any_number_of_clips_whatever_the_graph_takes(
    name: str, folder: str, request: pytest.FixtureRequest, open_one: Opener
) -> None:
    path = find_folder(name, request) if folder == "exported" else request.getfixturevalue(folder)
    backend = open_one(path, name)
    reference = Reference.load(backend.bundle)
    assert reference.outputs.embeddings_BD is not None
    for count in (1, 2, 3, 4):
        chosen = np.arange(count) % len(reference.frames_BTHWC)
        embeddings = backend.run(reference.frames_BTHWC[chosen]).embeddings_BD
        assert embeddings is not None
        np.testing.assert_allclose(
            embeddings, reference.outputs.embeddings_BD[chosen], atol=TOLERANCES.get(backend.name, 1e-5)
        )


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 4, 64, 96, 3), np.float32),
        np.zeros((4, 64, 96, 3), np.uint8),
        np.zeros((1, 4, 96, 64, 3), np.uint8),
        np.zeros((0, 4, 64, 96, 3), np.uint8),
        [[1]],
    ],
    ids=["dtype", "rank", "size", "none", "list"],
)
def test_other_frames_are_refused(frames: FramesArray, backend: Backend) -> None:
    must = ", ".join(map(str, backend.bundle.manifest.frames_shape))
    with pytest.raises(BackendError, match=rf"they must be uint8 \[B, {must}\]"):
        backend.run(frames)


def test_an_output_that_is_not_there_is_refused(backend: Backend) -> None:
    with pytest.raises(BackendError, match=r"no output \['logits'\]; it has tokens, embedding"):
        backend.run(frames_of(backend, 1), ("logits",))


@pytest.mark.parametrize("name", NAMES)
def test_closing_twice_is_fine_and_use_after_it_an_error(
    name: str, request: pytest.FixtureRequest, open_one: Opener
) -> None:
    backend = open_one(find_folder(name, request), name)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match=f"the {name} backend is closed"):
        backend.run(frames_of(backend, 1))


def test_each_says_what_ran_where_and_in_what(backend: Backend) -> None:
    backend.run(frames_of(backend, 1))
    asked = PRECISIONS.get(backend.name, "fp32")
    assert backend.device.partition(":")[0] == backend.devices[0]
    assert backend.precision == asked
    assert BACKENDS[backend.name].class_name == type(backend).__name__
    products = {row.precision for row in backend.placement if row.products}
    assert products == {asked}
    assert len({row.place for row in backend.placement}) == 1
    assert sum(row.products for row in backend.placement) >= 8  # qkv, projection and MLP of two blocks
    assert backend.describe()["precision"] == asked


@pytest.mark.parametrize("name", NAMES)
def test_a_device_that_a_backend_does_not_know_is_refused(
    name: str, request: pytest.FixtureRequest, open_one: Opener
) -> None:
    bundle = open_one(find_folder(name, request), name).bundle
    for device in ("tpu", "cpu:1", "cuda:x"):
        with pytest.raises(BackendError, match=f"{name} has no device '{device}'; it has"):
            open_backend(bundle, name, device=device)
    with pytest.raises(BackendError, match=rf"{name} runs this fp32 bundle in fp32.*; fp8 was asked for: export one"):
        open_backend(bundle, name, precision="fp8")


def test_an_unknown_backend_is_told_the_known_ones(exported: Path) -> None:
    with pytest.raises(UnknownNameError, match="no backend is named 'tpu'; choose auto or one of tensorrt, onnx"):
        open_backend(Bundle.open(exported), "tpu")


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs onnxruntime; pip install 'vjepa2-edge\[onnxruntime\]'"):
        open_backend(Bundle.open(exported), "onnxruntime")
    with pytest.raises(MissingDependencyError, match=r"no backend is usable \(.*onnxruntime needs .*; pytorch needs"):
        open_backend(Bundle.open(exported))


def test_a_library_that_does_not_load_is_an_error_that_names_it(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: str) -> None:
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr("vjepa2.extras.import_module", fail)
    with pytest.raises(MissingDependencyError, match=r"\[onnxruntime\] does not load \(libgomp.*\); install it again"):
        open_backend(Bundle.open(exported), "onnxruntime")


def test_auto_says_what_it_takes_and_why(
    exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "list_gpus", list)
    monkeypatch.setattr(choice, "explain_no_gpu", lambda: "a GPU")
    taken = choice.choose_backend().name
    with caplog.at_level(logging.INFO, "vjepa2"), open_backend(Bundle.open(exported)) as opened:
        assert opened.name == taken
    assert opened.reason.startswith("auto: no usable GPU")
    assert opened.reason.endswith("(cuda needs a GPU)")
    assert f"{taken} on cpu in fp32: {opened.reason}" in caplog.text


@pytest.mark.parametrize(
    ("usable", "has_gpu", "taken"),
    [
        ({"onnxruntime", "openvino", "pytorch"}, False, ("openvino", "cpu")),
        ({"onnxruntime", "pytorch"}, False, ("onnxruntime", "cpu")),
        ({"openvino", "pytorch"}, False, ("openvino", "cpu")),
        ({"pytorch", "pytorch-compile"}, False, ("pytorch", "cpu")),
        ({"onnxruntime-cuda", "onnxruntime", "pytorch"}, True, ("onnxruntime-cuda", "cuda")),
        ({"onnxruntime", "pytorch"}, True, ("pytorch", "cuda")),
        ({"onnxruntime-cuda", "onnxruntime", "pytorch"}, False, ("onnxruntime", "cpu")),
    ],
)
def test_auto_takes_the_first_that_this_machine_has(
    usable: set[str], has_gpu: bool, taken: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [Gpu(name="a GPU", capability=(9, 0), driver=13000)] if has_gpu else []
    monkeypatch.setattr(choice, "list_gpus", lambda: gpus)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(choice, "find_missing", lambda name, *_: None if name in usable else f"{name} needs more")
    found = choice.choose_backend()
    assert (found.name, found.device) == taken


def test_where_nothing_was_measured_the_fused_graph_goes_before_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "list_gpus", list)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(choice, "find_missing", lambda *_: None)
    assert choice.choose_backend().name == "onnxruntime"


def test_auto_keeps_to_a_device_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "list_gpus", list)
    monkeypatch.setattr(choice, "explain_no_gpu", lambda: "a GPU")
    assert choice.choose_backend(device="cpu").device == "cpu"
    with pytest.raises(MissingDependencyError, match=r"no backend is usable \(cuda needs a GPU\)"):
        choice.choose_backend(device="cuda:1")
    with pytest.raises(BackendError, match="auto has no device 'tpu'; it has cuda, cpu"):
        choice.choose_backend(device="tpu")
