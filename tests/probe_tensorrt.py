"""Are the committed lists those of the real bindings, and does our probing find in them what it should?

`make probe-tensorrt` runs this: it fetches the Python bindings of five TensorRTs, leaves their libraries of gigabytes
out, puts a stub in the place of each, and imports them in a Python 3.10 of their own. Without a GPU nothing is built.
"""

import difflib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
EDGE = ROOT / ".venv-edge" / "lib" / "python3.10" / "site-packages"  # numpy for Python 3.10
# what a list is called -> the package that has the bindings, its version
RELEASES = {
    "8.6": ("tensorrt", "8.6.0"),
    "10.3": ("tensorrt_cu12_bindings", "10.3.0"),
    "10.13": ("tensorrt_cu12_bindings", "10.13.3.9"),
    "10.16": ("tensorrt_cu12_bindings", "10.16.1.11"),
    "11.4": ("tensorrt_cu12_bindings", "11.4.0.106"),
}
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")
# what the bindings want of the libraries: none of it makes anything, as on a machine without a GPU
_ENTRIES = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry",
    "getPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins", "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi", "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)  # fmt: skip
_PROBE = """
import tensorrt as trt
from pathlib import Path
from vjepa2.errors import CompileError
from vjepa2.export.tensorrt_api import BuildRequest, build_plan, make_monitor
from vjepa2.export.tensorrt_features import describe_features, probe_features
from vjepa2.export.tensorrt_log import BuildLog
from vjepa2.runtime.backends import trt_log

class Watch:
    told = []
    def start(self, *words): self.told.append(words)
    def step(self, *words): return self.told.append(words)
    def finish(self, *words): self.told.append(words)

print(*describe_features(), sep="\\n")
log = BuildLog()
trt_log.LOGGER.log(trt.ILogger.Severity.ERROR, "the reason")
assert log.explain("it failed") == "it failed: the reason", log.explain("it failed")
layer = trt.ILayer.__new__(trt.ILayer)
layer.__class__ = trt.ICastLayer
if probe_features().has_monitor:
    monitor = make_monitor(Watch())
    monitor.phase_start("build", None, 2)
    assert not monitor.step_complete("build", 0) and monitor.was_stopped
    monitor.phase_finish("build")
    assert Watch.told == [("build", None, 2), ("build", 0), ("build",)], Watch.told
request = BuildRequest(graph=Path("x"), precision="fp32", profile={}, level=3, workspace_bytes=None, timing_cache=b"")
try:
    build_plan(request, BuildLog(), None)
except CompileError as error:
    print("  without a GPU:", error)
"""


# the runtime's side: its logger is taken, its names are there, and no GPU is an error of ours
_RUNTIME_PROBE = """
import tensorrt as trt
from vjepa2.errors import BackendError
from vjepa2.runtime.backends import trt_log, trt_session
log = trt_log.LogTail()
for severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INFO):
    trt_log.LOGGER.log(severity, f"of {severity.name}")
assert log.tail() == "of ERROR", log.tail()
used = {
    trt.ICudaEngine: "num_io_tensors get_tensor_name get_tensor_dtype get_tensor_location get_tensor_format "
    "get_tensor_mode get_tensor_shape get_tensor_profile_shape create_execution_context",
    trt.IExecutionContext: "set_input_shape infer_shapes get_tensor_shape set_tensor_address execute_async_v3",
    trt.Runtime: "deserialize_cuda_engine engine_host_code_allowed",
}
for kind, names in used.items():
    assert not [name for name in names.split() if not hasattr(kind, name)], kind
assert {"FLOAT", "HALF", "UINT8", "INT32"} <= set(trt.DataType.__members__)
try:
    trt_session._create_runtime(log)
except BackendError as error:
    print("  the runtime without a GPU:", error)
"""


def main(python310: str, folder: Path) -> int:
    """Probe every release in environments below `folder`; 0 if every list is what its bindings have."""
    wrong = [version for version in RELEASES if not probe(version, make_environment(version, python310, folder))]
    print(f"{len(RELEASES) - len(wrong)} of {len(RELEASES)} lists are those of the real bindings")
    return 1 if wrong else 0


def make_environment(version: str, python310: str, folder: Path) -> Path:
    """The Python of an environment that has the bindings of `version` over stubs."""
    home = folder / version
    python = home / "bin" / "python"
    site = home / "lib" / "python3.10" / "site-packages"
    if not (site / "tensorrt.stamp").exists():
        subprocess.run([python310, "-m", "venv", "--clear", "--without-pip", home], check=True)
        bindings = fetch(*RELEASES[version], site)
        write_stubs(bindings, version.partition(".")[0])
        if bindings.name != "tensorrt":  # what the package that has the libraries would bring
            (site / "tensorrt.py").write_text(
                "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
            )
        (site / "tensorrt.stamp").touch()
    return python


def fetch(package: str, version: str, site: Path) -> Path:
    """Put the bindings of a wheel into `site`, and nothing that is a library of TensorRT's own; their folder."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.10", "--dest", folder]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, f"{package}=={version}"], check=True)
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not Path(name).name.startswith("lib")]
            archive.extractall(site, [name for name in names if ".dist-info/" not in name])
    return next(path.parent for path in site.glob("tensorrt*/tensorrt*.so"))


def write_stubs(bindings: Path, major: str) -> None:
    """Beside the bindings, where they look first, a library for each that they are linked with."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "stub.c"
        source.write_text("".join(f"void *{entry}(void) {{ return 0; }}\n" for entry in _ENTRIES))
        for library in _LIBRARIES:
            target = bindings / f"lib{library}.so.{major}"
            subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", target, source], check=True)


def probe(version: str, python: Path) -> bool:
    """Print what our probing finds; whether the committed list is what the script writes here."""

    def run(*words: str) -> str:
        done = subprocess.run(
            [python, *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        return done.stdout

    environment = os.environ | {"PYTHONPATH": str(EDGE)}
    print(run("-c", _PROBE), end="")
    print(run("-c", _RUNTIME_PROBE), end="")
    written = run("tests/tensorrt_surfaces.py")
    committed = ROOT / "tests" / "tensorrt_api" / f"{version}.txt"
    name = str(committed.relative_to(ROOT))
    ours, theirs = committed.read_text().splitlines(), written.splitlines()
    difference = list(difflib.unified_diff(ours, theirs, name, "the real bindings", lineterm=""))
    print(*(difference or [f"  {name} is what the real bindings have"]), sep="\n")
    return not difference


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
