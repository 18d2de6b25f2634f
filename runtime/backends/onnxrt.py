"""ONNX Runtime: the fused graph and the portable one, on the CPU and by its providers for NVIDIA GPUs."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from vjepa2.bundle import ONNXRUNTIME, PORTABLE, Bundle
from vjepa2.errors import BackendError
from vjepa2.runtime.gpus import explain_no_gpu, list_gpus
from vjepa2.spec import OutputName

from .base import Backend, FloatArray, FramesArray, InputArray, RunOptions
from .engine_cache import prepare_cache
from .held import HeldCall, HeldClips
from .ort_binding import HeldBinding
from .ort_profile import read_profile
from .placement import Executed, check_placement

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_Settings = dict[str, str]
# y = x + x, to see whether a provider that is offered can be had (see tests/test_onnxruntime.py)
_PROBE = (
    b'\x08\x08\x12\x00:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08'
    b"\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x12"
)


class OnnxRuntimeBackend(Backend):
    """Runs `onnxruntime.onnx`, whose attention is one operator that needs no N x N memory."""

    name: ClassVar[str] = "onnxruntime"
    graph: ClassVar[str] = ONNXRUNTIME
    provider: ClassVar[str] = CPU

    def __init__(self, bundle: Bundle, options: RunOptions = RunOptions()) -> None:  # noqa: B008  (frozen)
        super().__init__(bundle, options)
        self._asked = self.precision
        self._lock = threading.Lock()  # over the first run, which is profiled
        self._refusal: str | None = None  # what that run did otherwise than asked
        self._notes: TemporaryDirectory[str] | None = TemporaryDirectory(prefix="vjepa2-profile-")
        try:
            self._session: ort.InferenceSession | None = self._open(Path(self._notes.name))
        except BaseException:
            self._notes.cleanup()
            raise

    @classmethod
    def find_obstacle(cls, device: str | None = None, bundle: Bundle | None = None) -> str | None:
        """A graph that the bundle lacks, a second installation, or on a GPU: no provider, driver, or library of it."""
        if bundle is not None and cls.graph not in bundle.manifest.graphs:
            held = ", ".join(bundle.manifest.graphs)
            return (
                f"{cls.graph}, and {bundle.path.name}, which is {bundle.manifest.precision}, holds {held} alone: what "
                "could not be proved was not exported; compile the bundle, or export fp32"
            )
        return _find_double_install() or (None if cls.provider == CPU else _find_no_provider(cls.provider))

    def _open(self, notes: Path) -> ort.InferenceSession:
        options = session_options()
        options.enable_profiling, options.profile_file_prefix = True, str(notes / "run")
        options.intra_op_num_threads = self.options.threads or 0
        if self._asked == "int8":
            # it makes a float32 Gemm of MatMul and Add before the 8 bits around them are looked for
            options.add_session_config_entry("optimization.disable_specified_optimizers", "MatMulAddFusion")
        if self.provider != CPU and CPU not in self.options.allow:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        wanted = [(self.provider, self._settings())]
        if self.provider == TENSORRT and CUDA in self.options.allow:
            wanted.append((CUDA, _cuda_settings(self.device, self._asked)))
        return open_session(self._graph_file(), options, wanted)

    def _graph_file(self) -> Path:
        return self.bundle.path / self.graph

    def _settings(self) -> _Settings:
        return {}

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        return self._run(self._graph_inputs(frames_BTHWC, extras), outputs)

    def _hold(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> HeldClips:
        inputs = self._graph_inputs(frames_BTHWC, extras)
        if self.provider == CPU:
            return HeldCall(lambda: self._run(inputs, outputs))
        if self._notes is not None:
            self._run_first(outputs, inputs)
        self._refuse_again()
        return HeldBinding(self._session, inputs, outputs, self.device)

    def _run(self, inputs: Mapping[str, InputArray], outputs: Sequence[OutputName]) -> dict[OutputName, FloatArray]:
        assert self._session is not None
        if self._notes is not None:
            return dict(zip(outputs, self._run_first(outputs, inputs), strict=True))
        self._refuse_again()
        return dict(zip(outputs, self._call(list(outputs), dict(inputs)), strict=True))

    def _call(self, outputs: list[OutputName], inputs: dict[str, npt.NDArray[np.generic]]) -> list[FloatArray]:
        """Run, in a thread that ends with the call where the session has threads of its own.

        Its profile ends, but for ONNX Runtime's threads (1.23 to 1.32), which go on to note 8 bytes for each loop they
        share, in memory that belongs to the calling thread: 2 kB a call of ViT-L, until that thread is gone.
        """
        assert self._session is not None
        run: Callable[[], list[FloatArray]] = partial(self._session.run, outputs, inputs)
        return run() if self.options.threads == 1 or self.provider != CPU else _call_in_thread(run)

    def _run_first(
        self, outputs: Sequence[OutputName], inputs: Mapping[str, npt.NDArray[np.generic]]
    ) -> list[FloatArray]:
        """Run under the profiler, and give nothing that ran otherwise than asked."""
        with self._lock:
            self._refuse_again()
            assert self._session is not None
            results: list[FloatArray] = self._session.run(list(outputs), dict(inputs))
            if self._notes is not None:
                try:
                    self._judge(self._session.end_profiling())
                except BackendError as error:
                    self._refusal = str(error)
                    raise
                finally:
                    self._forget_notes()
        return results

    def _judge(self, profile: str) -> None:
        try:
            self.placement = read_profile(Path(profile), exact="tf32" if self._asked == "tf32" else "fp32")
        except (OSError, ValueError) as error:  # a full disk
            raise BackendError(
                f"onnxruntime's profile cannot be read ({error}); see that {profile} has room"
            ) from error
        self.precision = check_placement(
            self.name, self.placement, place=self.provider, precision=self._asked, allow=self.options.allow
        )

    def _refuse_again(self) -> None:
        """What ran otherwise than asked once does so always, and its profile is gone."""
        if self._refusal is not None:
            raise BackendError(self._refusal)

    def _release(self) -> None:
        self._session = None
        self._forget_notes()

    def _forget_notes(self) -> None:
        if self._notes is not None:
            self._notes.cleanup()
            self._notes = None


class OnnxRuntimePortableBackend(OnnxRuntimeBackend):
    """Runs `portable.onnx`: plain operators, N x N scores in memory."""

    name: ClassVar[str] = "onnxruntime-portable"
    graph: ClassVar[str] = PORTABLE


class OnnxRuntimeCudaBackend(OnnxRuntimeBackend):
    """Runs `onnxruntime.onnx` on an NVIDIA GPU, float32 in float32 unless tf32 is asked for."""

    name: ClassVar[str] = "onnxruntime-cuda"
    provider: ClassVar[str] = CUDA
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    casts: ClassVar[tuple[Executed, ...]] = ("tf32",)

    def _settings(self) -> _Settings:
        return _cuda_settings(self.device, self._asked)


class OnnxRuntimeTensorRtBackend(OnnxRuntimeCudaBackend):
    """Runs `portable.onnx` by TensorRT's provider, which builds its engines on the first run and keeps them."""

    name: ClassVar[str] = "onnxruntime-tensorrt"
    graph: ClassVar[str] = PORTABLE
    provider: ClassVar[str] = TENSORRT

    def _settings(self) -> _Settings:
        if self._asked == "fp32" and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
            raise BackendError(
                f"{self.name} rounds float32 to tf32, and has no setting against it but the environment's: start with "
                "NVIDIA_TF32_OVERRIDE=0, or ask for precision tf32"
            )
        number = int(self.device.partition(":")[2])
        cache = prepare_cache(self.bundle, self.graph, self._asked, list_gpus()[number], ort.__version__)
        settings = {"device_id": str(number), "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
        settings |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(cache)}
        # weak typing takes a type of the graph only where its flag allows it
        flags = {"fp16": "trt_fp16_enable", "bf16": "trt_bf16_enable", "int8": "trt_int8_enable"}
        return settings | ({flags[self._asked]: "1"} if self._asked in flags else {})


def session_options() -> ort.SessionOptions:
    """What every session of ours has."""
    options = ort.SessionOptions()
    # The arena keeps what the largest call needed, and grows once more on the second call (`make bench-arena`).
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3  # errors only
    return options


def open_session(
    graph: Path | bytes, options: ort.SessionOptions, wanted: Sequence[tuple[str, _Settings]] = ((CPU, {}),)
) -> ort.InferenceSession:
    """A session on the `wanted` providers; `BackendError` if ONNX Runtime refuses the graph or takes others.

    The CPU's is always among those it takes; `session.disable_cpu_ep_fallback` keeps nodes from it.
    """
    name, source = (graph.name, str(graph)) if isinstance(graph, Path) else ("a graph of one node", graph)
    try:
        session = ort.InferenceSession(
            source, options, providers=[provider for provider, _ in wanted],
            provider_options=[settings for _, settings in wanted], enable_fallback=0,
        )  # fmt: skip
    except Exception as error:  # its exceptions share no other base
        reason = str(error).splitlines()[0]
        raise BackendError(f"onnxruntime {ort.__version__} refuses {name}: {reason}") from error
    asked, taken = [provider for provider, _ in wanted], session.get_providers()
    if [provider for provider in taken if provider != CPU] != [provider for provider in asked if provider != CPU]:
        raise BackendError(f"onnxruntime took {taken}; {', '.join(asked)} was asked for")
    return session


def run_graph(graph: Path, inputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, FloatArray]:
    """Every output of a graph by name, computed once on the CPU."""
    session = open_session(graph, session_options())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _call_in_thread(call: Callable[[], list[FloatArray]]) -> list[FloatArray]:
    # not a daemon: Python that ends beneath a call of C++ aborts, so it waits for this one and takes no other
    with ThreadPoolExecutor(1, "vjepa2-onnxruntime") as thread:
        try:
            future = thread.submit(call)
        except RuntimeError as error:
            raise BackendError(
                f"onnxruntime takes no clip while Python ends ({error}); run before, and close"
            ) from error
        return future.result()


def _cuda_settings(device: str, precision: str) -> _Settings:
    # tf32 is on by default; it would make float32 products as coarse as fp16's
    return {"device_id": device.partition(":")[2], "use_tf32": "1" if precision == "tf32" else "0"}


def _find_double_install() -> str | None:
    """Both distributions write into one folder, and what is then imported is a mixture of the two."""
    found = {name for item in metadata.distributions() if (name := item.metadata["Name"]) is not None}
    if {"onnxruntime", "onnxruntime-gpu"} <= found:
        return (
            "one onnxruntime: onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "pip uninstall both, then install one"
        )
    return None


def _find_no_provider(provider: str) -> str | None:
    offered = ort.get_available_providers()
    if provider not in offered:
        return (
            f"{provider} (this onnxruntime has {', '.join(offered)}); "
            "pip uninstall onnxruntime, then pip install 'vjepa2-edge[onnxruntime-gpu]'"
        )
    if not list_gpus():
        return explain_no_gpu()
    options = session_options()
    options.log_severity_level = 4  # it prints what cannot be loaded; the sentence below says it
    try:
        open_session(_PROBE, options, [(provider, {})])
    except BackendError as error:
        return f"libraries that {provider} loads ({error}); install the CUDA and TensorRT that this onnxruntime names"
    return None
