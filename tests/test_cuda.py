"""Does the driver do what is asked of it, through ctypes and through cuda-python, and who frees what?"""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.fake_cuda import CAPTURE_INVALIDATED, NO_DEVICE, OUT_OF_MEMORY, FakeLibcuda, fake_bindings, install
from vjepa2.engine_manifest import Version
from vjepa2.errors import BackendError
from vjepa2.runtime.backends import cuda, cuda_driver
from vjepa2.runtime.backends.cuda import CudaDevice, PinnedArray, find_runtime_version
from vjepa2.runtime.backends.cuda_driver import BindingsDriver, CtypesDriver, load_driver
from vjepa2.runtime.backends.cuda_release import find_driver_release


@pytest.fixture(params=["ctypes", "cuda-python"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeLibcuda:
    library = install(FakeLibcuda(), monkeypatch)
    if request.param == "cuda-python":
        monkeypatch.setattr(cuda_driver, "_find_bindings", lambda: fake_bindings(library))
    return library


@pytest.fixture
def device(library: FakeLibcuda) -> Iterator[CudaDevice]:
    with CudaDevice.open() as opened:
        yield opened
    assert library.live() == 0


def pinned_of(device: CudaDevice, values: list[float]) -> PinnedArray:
    pinned = device.allocate_pinned((len(values),), np.float32)
    pinned.array[:] = values
    return pinned


def test_a_gpu_says_what_it_is(device: CudaDevice) -> None:
    machine = device.describe("8.6.0")
    assert (machine.gpu, machine.sm) == ("NVIDIA Fake", 87)
    assert (machine.os, machine.tensorrt.number) == ("linux", (8, 6, 0))
    assert machine.cuda_driver == Version.of_cuda(12020)
    assert device.measure_memory() == (2**30, 2**30)


def test_bytes_go_to_the_gpu_and_back(device: CudaDevice) -> None:
    source, target = pinned_of(device, [1, 2, 3]), pinned_of(device, [0, 0, 0])
    stream, address = device.create_stream(), device.allocate(12)
    stream.copy_in(address, source, 12)
    stream.copy_out(target, address, 8)
    assert list(target.array) == [0, 0, 0], "nothing happens before somebody waits"
    stream.synchronize()
    assert list(target.array) == [1, 2, 0]


def test_a_captured_graph_is_done_when_it_is_launched_and_as_often(device: CudaDevice, library: FakeLibcuda) -> None:
    source, target = pinned_of(device, [1]), pinned_of(device, [0])
    stream, address = device.create_stream(), device.allocate(4)

    def work() -> None:
        stream.copy_in(address, source, 4)
        stream.copy_out(target, address, 4)

    graph = stream.capture(work)
    stream.synchronize()
    assert target.array[0] == 0
    for value in (5, 6):
        source.array[0] = value
        graph.launch()
        stream.synchronize()
        assert target.array[0] == value
    graph.close()
    assert not library.graphs
    assert not library.executables


def test_a_capture_that_fails_ends(device: CudaDevice, library: FakeLibcuda) -> None:
    stream = device.create_stream()

    def work() -> None:
        raise ValueError("no")

    library.fail["cuStreamEndCapture"] = CAPTURE_INVALIDATED
    with pytest.raises(ValueError, match="no"):
        stream.capture(work)
    assert library.calls[-2:] == ["cuStreamEndCapture", "cuGetErrorName"]


def test_events_measure_what_the_stream_did_between_them(device: CudaDevice) -> None:
    stream, start, end = device.create_stream(), device.create_event(), device.create_event()
    pinned, address = pinned_of(device, [1]), device.allocate(4)
    start.record(stream)
    stream.copy_in(address, pinned, 4)
    end.record(stream)
    assert end.elapsed_ms(start) == pytest.approx(1.0)


def test_closing_twice_is_fine_and_from_another_thread_too(library: FakeLibcuda) -> None:
    device = CudaDevice.open()
    device.allocate(8)
    thread = threading.Thread(target=device.close)
    thread.start()
    thread.join()
    before = len(library.calls)
    device.close()
    assert library.live() == 0
    assert len(library.calls) == before
    assert library.calls[-3] == "cuCtxSetCurrent", "the context is the thread's, and its last"
    assert library.calls[-1] == "cuDevicePrimaryCtxRelease_v2"


@pytest.mark.parametrize(
    ("symbol", "status", "message"),
    [
        ("cuInit", NO_DEVICE, r"CUDA's cuInit failed: CUDA_ERROR_NO_DEVICE \(100\); no NVIDIA GPU is visible here"),
        (
            "cuMemAlloc_v2",
            OUT_OF_MEMORY,
            r"cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY \(2\); the GPU's memory is full",
        ),
    ],
)
def test_a_failure_has_its_name_and_advice(symbol: str, status: int, message: str, library: FakeLibcuda) -> None:
    library.fail[symbol] = status
    with pytest.raises(BackendError, match=message):
        CudaDevice.open().allocate(1)


def test_a_failure_without_a_name_has_its_number(library: FakeLibcuda, monkeypatch: pytest.MonkeyPatch) -> None:
    library.fail["cuInit"] = 4711
    with pytest.raises(BackendError, match=r"cuInit failed: unknown error \(4711\)"):
        CtypesDriver(library).call("cuInit", 0)


def test_a_gpu_that_is_not_there_is_named(library: FakeLibcuda) -> None:
    with pytest.raises(BackendError, match="there is no GPU 3; the driver shows 1"):
        CudaDevice.open(3)


def test_no_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not.so.1")
    with pytest.raises(BackendError, match=r"^libcuda-that-is-not.so.1 not found: no NVIDIA driver here$"):
        load_driver()


def test_a_driver_too_old_for_a_function_is_said() -> None:
    with pytest.raises(BackendError, match=r"the NVIDIA driver has no cuStreamBeginCapture_v2; it is too old, update"):
        CtypesDriver(ctypes.CDLL(None)).call("cuStreamBeginCapture", 0, 0)


def forget_cuda() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "cuda"]:
        del sys.modules[name]


@pytest.fixture
def no_cuda_python() -> Iterator[None]:
    forget_cuda()
    yield
    forget_cuda()


@pytest.mark.usefixtures("no_cuda_python")
def test_cuda_python_is_taken_in_both_of_its_layouts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = FakeLibcuda()
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *_: library)
    for layout in ("cuda/cuda.py", "cuda/bindings/driver.py"):
        file = tmp_path / layout
        file.parent.mkdir(exist_ok=True)
        file.write_text("def cuInit(flags):\n    return (0,)\n")
        monkeypatch.syspath_prepend(tmp_path)
        forget_cuda()
        driver = load_driver()
        assert isinstance(driver, BindingsDriver)
        assert isinstance(driver._bindings, ModuleType)
        assert driver._bindings.__file__ == str(file)


@pytest.mark.usefixtures("no_cuda_python")
def test_without_cuda_python_ctypes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *_: FakeLibcuda())
    assert isinstance(load_driver(), CtypesDriver)


def test_the_runtime_that_is_loaded_tells_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7f0-7f1 r-xp 00000000 08:01 17     /usr/lib/libcudart.so.12.2.140\n7f1-7f2 rw-p 0 0 0 [heap]\n")

    def answer(pointer: int) -> int:
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int))[0] = 12020
        return 0

    class Runtime:
        cudaRuntimeGetVersion = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(answer)

    def load(name: str, mode: int) -> Runtime:
        assert (name, mode) == ("/usr/lib/libcudart.so.12.2.140", os.RTLD_NOLOAD)
        return Runtime()

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert find_runtime_version(maps) == Version.of_cuda(12020)
    maps.write_text("7f0-7f1 r-xp 00000000 08:01 17     /usr/lib/libc.so.6\n")
    assert find_runtime_version(maps) is None


RELEASES = {
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    "GCC version:  gcc version 12.3.0\n": "550.54.15",
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build  (dvs@b)  Fri Aug 16\n": (
        "560.35.03"
    ),
    "something else\n": None,
}


@pytest.mark.parametrize(("text", "release"), RELEASES.items())
def test_the_drivers_own_release_is_read_from_the_kernel(text: str, release: str | None, tmp_path: Path) -> None:
    assert find_driver_release(tmp_path) is None
    (tmp_path / "proc" / "driver" / "nvidia").mkdir(parents=True)
    (tmp_path / "proc" / "driver" / "nvidia" / "version").write_text(text)
    assert find_driver_release(tmp_path) == release


def test_on_a_jetson_the_release_is_the_systems(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    text = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"
    (tmp_path / "etc" / "nv_tegra_release").write_text(text)
    assert find_driver_release(tmp_path) == "L4T 36.4.3"


def test_a_machine_has_both_versions_of_its_driver(device: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "find_driver_release", lambda: "550.54.15")
    machine = device.describe("8.6.0")
    assert (machine.driver, machine.cuda_driver.name) == ("550.54.15", "12.2")
