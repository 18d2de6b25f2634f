"""Does OpenVINO compute in the precision that was asked for, and keep to itself?"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY_CLIP
from vjepa2.bundle import PORTABLE, Bundle
from vjepa2.errors import BackendError, MissingDependencyError
from vjepa2.runtime import Reference, open_backend

openvino = pytest.importorskip("openvino", exc_type=ImportError)
FRAMES = np.zeros(TINY_CLIP.frames_shape(), np.uint8)
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16")

# what reaches out of the process, counted, around one statement
_WATCH = """
import json, os, sys, threading, time
seen = []
watched = ("socket.connect", "socket.getaddrinfo", "os.fork", "subprocess.Popen")
sys.addaudithook(lambda event, _: seen.append(event) if event in watched else None)
{statement}
end = time.monotonic() + 5
while threading.active_count() > 1 and not seen and time.monotonic() < end:
    time.sleep(0.01)
print(json.dumps(seen), flush=True)
os._exit(0)  # not to wait for what was caught sending
"""
_OURS = """
from vjepa2.bundle import Bundle
from vjepa2.runtime import Reference, open_backend
bundle = Bundle.open(sys.argv[1])
with open_backend(bundle, "openvino") as backend:
    backend.run(Reference.load(bundle).frames_BTHWC)
"""


def watch(statement: str, home: Path, *arguments: str) -> list[str]:
    """Which of the watched events a statement causes in a fresh process whose home is empty."""
    command = [sys.executable, "-c", _WATCH.format(statement=statement), *arguments]
    path = str(Path(__file__).parent.parent)
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": path, "no_proxy": "*"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    events: list[str] = json.loads(done.stdout.splitlines()[-1])
    return events


def test_nothing_is_sent_and_nothing_is_left_in_the_home_folder(exported: Path, tmp_path: Path) -> None:
    assert watch(_OURS, tmp_path, str(exported)) == []
    assert not list(tmp_path.iterdir())


def test_the_watch_above_sees_what_openvino_does_by_itself(tmp_path: Path) -> None:
    if not any(Path(folder, "openvino_telemetry").exists() for folder in sys.path):
        pytest.skip("openvino_telemetry is not installed")
    assert "os.fork" in watch("import openvino", tmp_path)  # its sender is a process
    assert list(tmp_path.iterdir())


@needs_bf16
def test_left_alone_openvino_would_compute_in_bf16(exported: Path) -> None:
    model = openvino.Core().compile_model(str(exported / PORTABLE), "CPU")
    kinds = {node.get_rt_info()["runtimePrecision"].astype(str) for node in model.get_runtime_model().get_ops()}
    assert "bf16" in kinds


def test_float32_stays_float32(exported: Path) -> None:
    with open_backend(Bundle.open(exported), "openvino") as backend:
        assert {row.precision for row in backend.placement} <= {"", "fp32"}
        assert backend.precision == "fp32"


@needs_bf16
def test_bf16_is_to_be_had_by_name(exported: Path) -> None:
    bundle = Bundle.open(exported)
    reference = Reference.load(bundle)
    with open_backend(bundle, "openvino", precision="bf16") as backend:
        assert backend.precision == "bf16"
        embeddings = backend.run(reference.frames_BTHWC).embeddings_BD
    assert embeddings is not None
    assert reference.outputs.embeddings_BD is not None
    error = np.abs(embeddings - reference.outputs.embeddings_BD).max()
    assert 1e-4 < error < 0.1


def test_fp16_which_the_cpu_turns_into_something_else_is_an_error(exported: Path) -> None:
    if "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has float16")
    with pytest.raises(BackendError, match=r"openvino ran \d+ .* in (bf16|fp32), and fp16 was asked for"):
        open_backend(Bundle.open(exported), "openvino", precision="fp16")
    other = "bf16" if HAS_BF16 else "fp32"
    with open_backend(Bundle.open(exported), "openvino", precision="fp16", allow=(other,)) as backend:
        assert backend.precision == other


def test_a_device_that_is_not_there_is_told_with_those_that_are(exported: Path) -> None:
    if any(name.startswith("GPU") for name in openvino.Core().available_devices):
        pytest.skip("there is one")
    with pytest.raises(MissingDependencyError, match="openvino-gpu needs a device that OpenVINO calls GPU"):
        open_backend(Bundle.open(exported), "openvino-gpu")
    with pytest.raises(BackendError, match="openvino has no device 'gpu'; it has cpu"):
        open_backend(Bundle.open(exported), "openvino", device="gpu")


def test_a_graph_that_it_cannot_read_is_an_error(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    (bundle_copy / PORTABLE).write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"openvino \S+ refuses portable.onnx on CPU: "):
        open_backend(bundle, "openvino")
