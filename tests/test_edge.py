"""Does what is deployed run where it is deployed: Python 3.10, numpy, one inference library, no torch?

`make edge` makes that environment, from a wheel, where a Python 3.10 is found.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vjepa2.runtime import EmbeddingEngine
from vjepa2.runtime.backends.base import FramesArray

EDGE = Path(__file__).parent.parent / ".venv-edge" / "bin"
pytestmark = pytest.mark.skipif(not (EDGE / "vjepa2").exists(), reason="no .venv-edge: make edge found no Python 3.10")

_SCRIPT = """
import json, sys
from vjepa2.runtime import EmbeddingEngine, Reference, check_parity, open_backend
from vjepa2.runtime.parity import GATES
from vjepa2.bundle import Bundle
bundle = Bundle.open(sys.argv[1])
passed = {}
for name in ("onnxruntime", "onnxruntime-portable"):
    with open_backend(bundle, name) as backend:
        passed[name] = check_parity(Reference.load(bundle), backend, GATES["fp32"]).passed
heavy = sorted({"torch", "onnx", "transformers"} & set(sys.modules))
print(json.dumps({"python": sys.version_info[:2], "passed": passed, "heavy": heavy}))
"""


def run(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run something of the edge environment, away from the sources."""
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"})


def test_the_device_proves_itself_with_the_stored_reference(exported: Path, tmp_path: Path) -> None:
    done = run(EDGE / "python", "-c", _SCRIPT, exported, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["python"] == [3, 10]
    assert record["passed"] == {"onnxruntime": True, "onnxruntime-portable": True}
    assert record["heavy"] == []


def test_it_embeds_as_the_build_machine_does(
    exported: Path, write_video: Callable[..., Path], scene: FramesArray, tmp_path: Path
) -> None:
    video, target = write_video(scene), tmp_path / "out.npy"
    done = run(EDGE / "vjepa2", "embed", exported, video, "-o", target, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with EmbeddingEngine.open(exported) as engine:
        np.testing.assert_allclose(np.load(target), engine.encode([video]), atol=1e-4)


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
