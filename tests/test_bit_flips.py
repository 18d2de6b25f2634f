"""Is a bundle with a single bit wrong, wherever it is, refused before any inference library is called?"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch

from tests.test_export_heads import request_for
from tests.test_trt import Rig, make_rig
from vjepa2.bundle import MANIFEST, Bundle
from vjepa2.engine_folder import ENGINES, PLAN
from vjepa2.errors import BundleError
from vjepa2.export.pipeline import export_bundle
from vjepa2.runtime import EmbeddingEngine

FLIPS = 1000
Opener = Callable[[], object]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A bundle with an engine, both as small as they come."""
    folder = export_bundle(request_for("embedding"), tmp_path / "bundle").bundle.path
    with make_rig("10.3", folder, monkeypatch) as made:
        yield made


@pytest.fixture
def reached(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions that hand bytes to an inference library, as they are reached: none gets any."""
    found: list[str] = []

    def block(owner: Any, name: str) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            found.append(name)
            raise RuntimeError(f"{name} was reached")

        monkeypatch.setattr(owner, name, refuse)

    block(onnxruntime, "InferenceSession")
    block(openvino.Core, "read_model")
    block(rig.module, "Runtime")
    block(torch, "from_numpy")
    block(np, "load")
    return found


def openers(rig: Rig) -> dict[str, Opener]:
    """How an app opens the bundle in each library."""
    path = rig.bundle.path
    return {
        "onnxruntime": lambda: EmbeddingEngine.open(path, "onnxruntime"),
        "onnxruntime-portable": lambda: EmbeddingEngine.open(path, "onnxruntime-portable"),
        "openvino": lambda: EmbeddingEngine.open(path, "openvino"),
        "pytorch": lambda: EmbeddingEngine.open(path, "pytorch"),
        "tensorrt": lambda: EmbeddingEngine.open(path, "tensorrt"),
        "auto": lambda: EmbeddingEngine.open(path),
    }


def flip(file: Path, bit: int) -> None:
    """Change one bit where it lies; twice is not at all."""
    with file.open("r+b") as stream:
        stream.seek(bit // 8)
        (byte,) = stream.read(1)
        stream.seek(bit // 8)
        stream.write(bytes([byte ^ 1 << bit % 8]))


def test_a_whole_bundle_reaches_every_library(rig: Rig, reached: list[str]) -> None:
    for open_it in openers(rig).values():
        with pytest.raises(Exception, match="was reached"):
            open_it()
    assert reached == ["InferenceSession", "InferenceSession", "read_model", "from_numpy", "Runtime", "Runtime"]


def test_of_1000_flipped_bits_every_one_is_refused_before_a_library_is_called(rig: Rig, reached: list[str]) -> None:
    choose, opens = random.Random(0), openers(rig)
    engine = rig.bundle.path / ENGINES / rig.engine_name
    of_all = [rig.bundle.path / name for name in (MANIFEST, *rig.bundle.manifest.files)]
    files = [*of_all, engine / MANIFEST, engine / PLAN]
    assert {file.name for file in files} == {
        "manifest.json", "portable.onnx", "onnxruntime.onnx", "weights.data", "reference.npz", "engine.plan"
    }  # fmt: skip
    refusals = 0
    for turn in range(FLIPS):
        file = files[turn % len(files)]
        bit = choose.randrange(8 * file.stat().st_size)
        name = choose.choice(list(opens) if file in of_all else ["tensorrt", "auto"])
        flip(file, bit)
        with pytest.raises(BundleError):
            opens[name]()
        refusals += 1
        flip(file, bit)
    assert (refusals, reached) == (FLIPS, [])
    assert Bundle.open(rig.bundle.path).manifest == rig.bundle.manifest, "and nothing else was wrong"
