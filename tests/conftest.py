"""What do the tests work on: tiny random models, bundles of them, small videos."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vjepa2.checkpoints import Request, load_encoder
from vjepa2.encoder import Encoder
from vjepa2.export.describe import ExportRequest
from vjepa2.export.pipeline import export_bundle
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.scenes import generate_scene
from vjepa2.spec import ClipSpec, ModelSpec

torch.set_num_threads(max(1, min(2, os.cpu_count() or 1)))

TINY_CLIP = ClipSpec(frames=4, height=64, width=96)
SQUARE_CLIP = ClipSpec(frames=8, height=64, width=64)


def tiny_spec(head_dim: int = 64, *, heads: int = 3, depth: int = 2, clip: ClipSpec = TINY_CLIP) -> ModelSpec:
    """A model of the same make as the released ones, a thousand times smaller."""
    dim = head_dim * heads
    return ModelSpec(name="tiny", family="vjepa2", dim=dim, depth=depth, heads=heads, mlp_dim=2 * dim, clip=clip)


def tiny_encoder(spec: ModelSpec | None = None, clip: ClipSpec | None = None, seed: int = 0) -> Encoder:
    """A tiny encoder with the seeded weights under which mistakes show."""
    return load_encoder("random", model=spec or tiny_spec(), clip=clip, seed=seed)


def tiny_request(**options: object) -> ExportRequest:
    """What exports a tiny model; `options` are ExportRequest's."""
    return ExportRequest(weights=Request(source="random", model=tiny_spec()), **options)  # type: ignore[arg-type]


def assert_equal(left: nn.Module, right: nn.Module) -> None:
    """The same parameters and buffers, bit for bit."""
    assert list(left.state_dict()) == list(right.state_dict())
    for name, value in left.state_dict().items():
        assert torch.equal(value, right.state_dict()[name]), name


def probe_state(module: nn.Module) -> dict[str, Tensor]:
    """What a probe's file holds of a model: neither its encoder nor its predictor."""
    return {
        name: value for name, value in module.state_dict().items() if not name.startswith(("encoder.", "predictor."))
    }


def meta_file(file: Path, states: Mapping[str, Mapping[str, Tensor]], wrapper: str = "module.") -> Path:
    """A checkpoint as Meta writes them: state dicts by key, names with the wrappers' prefixes, probes in a list."""
    named = {key: {wrapper + name: value for name, value in state.items()} for key, state in states.items()}
    content = {key: [state, {}] if key == "classifiers" else state for key, state in named.items()}
    torch.save({**content, "epoch": 3, "loss": 0.5}, file)
    return file


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bundle of a tiny model, not to be changed."""
    return export_bundle(tiny_request(), tmp_path_factory.mktemp("exported") / "bundle").bundle.path


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
