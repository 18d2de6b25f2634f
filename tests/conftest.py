"""What do the tests work on: tiny random models, bundles of them, small videos."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from vjepa2.runtime.backends import BACKENDS, find_missing
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.scenes import generate_scene
from vjepa2.spec import ClipSpec, ModelSpec

if TYPE_CHECKING:
    from vjepa2.encoder import Encoder
    from vjepa2.export.describe import ExportRequest

if find_spec("torch") is not None:  # on the edge there is none
    import_module("torch").set_num_threads(max(1, min(2, os.cpu_count() or 1)))

TINY_CLIP = ClipSpec(frames=4, height=64, width=96)
SQUARE_CLIP = ClipSpec(frames=8, height=64, width=64)


def tiny_spec(head_dim: int = 64, *, heads: int = 3, depth: int = 2, clip: ClipSpec = TINY_CLIP) -> ModelSpec:
    """A model of the same make as the released ones, a thousand times smaller."""
    dim = head_dim * heads
    return ModelSpec(name="tiny", family="vjepa2", dim=dim, depth=depth, heads=heads, mlp_dim=2 * dim, clip=clip)


def version_21(spec: ModelSpec, levels: tuple[int, ...]) -> ModelSpec:
    """The same integers as a model of V-JEPA 2.1."""
    return replace(spec, name="tiny-2.1", family="vjepa2.1", positions="interleaved", side=16, levels=levels)


def tiny_encoder(spec: ModelSpec | None = None, clip: ClipSpec | None = None, seed: int = 0) -> "Encoder":
    """A tiny encoder with the seeded weights under which mistakes show; without torch the test is skipped."""
    pytest.importorskip("torch")
    from vjepa2.checkpoints import load_encoder  # noqa: PLC0415

    return load_encoder("random", model=spec or tiny_spec(), clip=clip, seed=seed)


def tiny_request(**options: object) -> "ExportRequest":
    """What exports a tiny model; `options` are ExportRequest's."""
    from vjepa2.checkpoints import Request  # noqa: PLC0415
    from vjepa2.export.describe import ExportRequest  # noqa: PLC0415

    return ExportRequest(weights=Request(source="random", model=tiny_spec()), **options)  # type: ignore[arg-type]


@cache
def usable_backends() -> tuple[str, ...]:
    """Every backend of ours that this machine has, but for the one that compiles for seconds."""
    ours = (name for name in BACKENDS if name != "pytorch-compile" and not name.startswith("transformers"))
    return tuple(name for name in ours if find_missing(name) is None)


# where tests/test_edge.py put the bundles below, for an environment that cannot export
PREBUILT = os.environ.get("VJEPA2_TEST_BUNDLES")


def make_bundle(name: str, folder: Path, model: ModelSpec | None = None, **options: object) -> Path:
    """A finished bundle of a tiny model, exported with `options`, or the one that was handed over under `name`."""
    if PREBUILT:
        return Path(PREBUILT) / name
    from vjepa2.checkpoints import Request  # noqa: PLC0415
    from vjepa2.export.pipeline import export_bundle  # noqa: PLC0415

    request = tiny_request(**options)
    if model is not None:
        request = replace(request, weights=Request(source="random", model=model))
    return export_bundle(request, folder / "bundle").bundle.path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """What is this small takes twenty times as long on two cores that others use, too."""
    torch = import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bundle of a tiny model, not to be changed."""
    return make_bundle("exported", tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def in_threes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose graphs take three clips a call."""
    return make_bundle("in_threes", tmp_path_factory.mktemp("in_threes"), batch=3, simplify=False)


@pytest.fixture(scope="session")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose graphs take any number of clips a call, as normalised floats."""
    folder = tmp_path_factory.mktemp("dynamic")
    return make_bundle("dynamic", folder, batch="dynamic", graph_input="pixel_values_videos", simplify=False)


@pytest.fixture(scope="session")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for square frames, which is all that transformers has positions for."""
    return make_bundle("square", tmp_path_factory.mktemp("square"), tiny_spec(clip=SQUARE_CLIP), simplify=False)


@pytest.fixture(scope="session")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose calls take a tenth of a millisecond, of any number of clips."""
    model = tiny_spec(32, heads=1, depth=1, clip=ClipSpec(frames=2, height=32, width=32))
    folder = tmp_path_factory.mktemp("smallest")
    return make_bundle("smallest", folder, model, batch="dynamic", simplify=False)


@pytest.fixture(scope="session")
def measured(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in which every report lies, not to be changed."""
    from tests.measured import measure_everything  # noqa: PLC0415

    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("measured") / "bundle"))
    measure_everything(folder)
    return folder


@pytest.fixture
def bundle_copy(exported: Path, tmp_path: Path) -> Path:
    """A bundle that a test may spoil."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def scene() -> FramesArray:
    """A moving scene of 24 frames of 120 x 160 pixels."""
    return generate_scene(24, 120, 160, seed=3)


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes frames to a file of `name`, whose ending chooses the container."""

    def write(frames: FramesArray, name: str = "scene.mp4", codec: str = "mpeg4") -> Path:
        file = tmp_path / name
        with av.open(str(file), "w") as container:
            stream = container.add_stream(codec, rate=8)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            container.mux(stream.encode())
        return file

    return write
