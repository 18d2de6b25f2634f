"""Does what is deployed run where it is deployed: Python 3.10, numpy, inference libraries, no torch?

`make edge` makes that environment, from a wheel, where a Python 3.10 is found. In it runs every test of the runtime
that needs neither torch nor export; the bundles that they open are made here and handed over.
"""

import ast
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.test_imports import MAY_IMPORT, ROOT
from vjepa2.runtime import EmbeddingEngine
from vjepa2.runtime.backends.base import FramesArray

EDGE = ROOT / ".venv-edge" / "bin"
ABSENT = {
    "torch", "torchvision", "onnx", "onnx_ir", "onnxsim", "safetensors", "transformers", "huggingface_hub", "faiss",
    "fastapi", "uvicorn", "duckdb", "pandas",
}  # fmt: skip
# read files that are not deployed
OF_THE_CHECKOUT = {
    "test_corpus_proofs.py",
    "test_edge.py",
    "test_examples.py",
    "test_imports.py",
    "test_makefile.py",
    "test_readme.py",
    "test_serve.py",
}
needs_edge = pytest.mark.skipif(not (EDGE / "vjepa2").exists(), reason="no .venv-edge: make edge found no Python 3.10")

_SCRIPT = """
import json, sys
from vjepa2.runtime import EmbeddingEngine, Reference, check_parity, open_backend
from vjepa2.runtime.parity import GATES
from vjepa2.bundle import Bundle
bundle = Bundle.open(sys.argv[1])
passed = {}
for name in ("onnxruntime", "onnxruntime-portable", "openvino"):
    with open_backend(bundle, name) as backend:
        passed[name] = check_parity(Reference.load(bundle), backend, GATES["fp32"]).passed
heavy = sorted({"torch", "onnx", "transformers"} & set(sys.modules))
print(json.dumps({"python": sys.version_info[:2], "passed": passed, "heavy": heavy}))
"""


def run(*command: object, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run something of the edge environment, away from the sources."""
    words = [str(word) for word in command]
    environment = {"PATH": "/usr/bin:/bin", **variables}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@needs_edge
def test_the_device_proves_itself_with_the_stored_reference(exported: Path, tmp_path: Path) -> None:
    done = run(EDGE / "python", "-c", _SCRIPT, exported, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["python"] == [3, 10]
    assert record["passed"] == {"onnxruntime": True, "onnxruntime-portable": True, "openvino": True}
    assert record["heavy"] == []


@needs_edge
def test_it_embeds_as_the_build_machine_does(
    exported: Path, write_video: Callable[..., Path], scene: FramesArray, tmp_path: Path
) -> None:
    video, target = write_video(scene), tmp_path / "out.npy"
    done = run(EDGE / "vjepa2", "embed", exported, video, "-o", target, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with EmbeddingEngine.open(exported) as engine:
        np.testing.assert_allclose(np.load(target), engine.encode([video]), atol=1e-4)


@needs_edge
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "random", "-o", "x"], "needs torch; pip install 'vjepa2-edge[export]'"),
        (["compile", "."], "has no manifest.json; it is not a bundle"),
        (["embed", "BUNDLE", "none.mp4", "-o", "x.npy", "--backend", "pytorch"], "pytorch needs torch"),
    ],
)
def test_what_is_not_there_is_named(arguments: list[str], message: str, exported: Path, tmp_path: Path) -> None:
    words = [str(exported) if word == "BUNDLE" else word for word in arguments]
    done = run(EDGE / "vjepa2", *words, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def imported_names(file: Path) -> set[str]:
    """What a file imports when it is read: inside a function it is skipped where it lacks, or imported late."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_of(names: set[str]) -> set[str]:
    """Our folders and files among them."""
    return {name.split(".")[1] for name in names if name.startswith("vjepa2.")}


def can_be_read(file: Path) -> bool:
    """Whether a file of tests, and what it imports of the others, imports nothing that the edge lacks."""
    names = imported_names(file)
    lacks = {name.split(".")[0] for name in names} & ABSENT
    needs = {library for room in rooms_of(names) for library in MAY_IMPORT.get(f"vjepa2/{room}.py", set())}
    others = [ROOT / "tests" / f"{name.split('.')[1]}.py" for name in names if name.startswith("tests.")]
    return (
        "export" not in rooms_of(names)
        and not lacks
        and not needs & ABSENT
        and all(other.name in ("conftest.py", "test_imports.py") or can_be_read(other) for other in others)
    )


def is_for_the_edge(file: Path) -> bool:
    """Whether a file of tests is of the runtime, and can be read there."""
    return "runtime" in rooms_of(imported_names(file)) and can_be_read(file)


FILES = sorted(file.name for file in (ROOT / "tests").glob("test_*.py") if is_for_the_edge(file))
FILES = [name for name in FILES if name not in OF_THE_CHECKOUT]
# why a test may be skipped there: what it compares with, or a device, is not there
EXCUSES = (
    "torch", "transformers", "tensorrt", "onnx'", "'ray'", "'s3fs'", "'fsspec'", "'jinja2'", "'jsonschema'",
    "'playwright'", "'duckdb'", "'lancedb'", "'pandas'", "GPU", "CUDA", "ExecutionProvider", "bfloat16", "float16",
)  # fmt: skip


_READ = """
import importlib, json, sys
import pytest
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
read = []
for name in json.loads(sys.argv[2]):
    try:
        importlib.import_module("tests." + name)
    except ImportError:
        continue
    except pytest.skip.Exception:  # it asks for a library itself
        pass
    read.append(name + ".py")
print(json.dumps(read))
"""


def test_the_tests_of_the_runtime_are_found() -> None:
    """By trying: with what the edge lacks blocked, each file that names the runtime is read, or is not for the edge."""
    files = [file for file in (ROOT / "tests").glob("test_*.py") if "vjepa2.runtime" in file.read_text()]
    words = [json.dumps(sorted(ABSENT)), json.dumps([file.stem for file in files])]
    done = subprocess.run([sys.executable, "-c", _READ, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = set(json.loads(done.stdout))
    exports = {file.name for file in files if "export" in rooms_of(imported_names(file))}
    assert read - exports - OF_THE_CHECKOUT == set(FILES)
    assert {"test_stream.py", "test_decode_process.py", "test_video_index.py"} <= set(FILES)
    assert not {"test_pytorch.py", "test_export.py", "test_cli.py", "test_classify.py", "test_encoder.py"} & set(FILES)


@needs_edge
@pytest.mark.timeout(1500)
def test_every_test_of_the_runtime_passes(
    exported: Path, in_threes: Path, dynamic: Path, smallest: Path, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    handed = {"exported": exported, "in_threes": in_threes, "dynamic": dynamic, "smallest": smallest}
    for name, folder in handed.items():
        (bundles / name).symlink_to(folder)
    report = tmp_path / "report.xml"
    files = [f"tests/{name}" for name in FILES]
    command = [
        EDGE / "python",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--durations=15",
        f"--junitxml={report}",
        *files,
    ]
    done = run(*command, folder=tmp_path, VJEPA2_TEST_BUNDLES=str(bundles), HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    cases = list(ET.parse(report).iter("testcase"))
    # the text is the place and then the reason, also of a file skipped whole, whose message says only that it was
    skipped = [str(skip.text).rpartition(".py")[2] for case in cases for skip in case.iter("skipped")]
    assert [reason for reason in skipped if not any(excuse in reason for excuse in EXCUSES)] == []
    assert len(cases) - len(skipped) > 100
