"""One contract, every backend: what is not promised here is not promised."""

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.conftest import TINY_CLIP, tiny_encoder, tiny_request
from vjepa2.bundle import ONNXRUNTIME, Bundle
from vjepa2.errors import BackendError, MissingDependencyError, UnknownNameError
from vjepa2.export.pipeline import export_bundle
from vjepa2.headed import PlainEncoder
from vjepa2.runtime import Backend, backends, open_backend
from vjepa2.runtime.backends import BACKENDS
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.backends.pytorch import rebuild_model
from vjepa2.spec import RGB_MEAN, RGB_STD


@pytest.fixture(scope="session")
def in_threes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose graphs take three clips a call."""
    path = tmp_path_factory.mktemp("in_threes") / "bundle"
    return export_bundle(tiny_request(batch=3, simplify=False), path).bundle.path


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, exported: Path) -> Iterator[Backend]:
    with open_backend(Bundle.open(exported), request.param) as opened:
        yield opened


def frames_of(count: int, seed: int = 0) -> FramesArray:
    return np.random.default_rng(seed).integers(0, 256, TINY_CLIP.frames_shape(count), dtype=np.uint8)


def expected(frames: FramesArray) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with torch.no_grad():
        tokens: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = tiny_encoder()(
            torch.from_numpy(normalise(frames, RGB_MEAN, RGB_STD))
        ).numpy()
    return tokens


def test_tokens_and_embeddings_are_the_encoders(backend: Backend) -> None:
    frames = frames_of(1)
    outputs = backend.run(frames, ("tokens", "embedding"))
    tokens = expected(frames)
    assert outputs.tokens_BND is not None
    assert outputs.embeddings_BD is not None
    assert outputs.tokens_BND.dtype == outputs.embeddings_BD.dtype == np.float32
    np.testing.assert_allclose(outputs.tokens_BND, tokens, atol=1e-4)
    np.testing.assert_allclose(outputs.embeddings_BD, tokens.mean(1), atol=1e-5)


def test_only_what_was_asked_for_is_returned(backend: Backend) -> None:
    assert backend.run(frames_of(1)).tokens_BND is None
    assert backend.run(frames_of(1), ("tokens",)).embeddings_BD is None


def test_result_survives_the_next_call(backend: Backend) -> None:
    first = backend.run(frames_of(1)).embeddings_BD
    assert first is not None
    kept = first.copy()
    backend.run(frames_of(1, seed=1))
    np.testing.assert_array_equal(first, kept)
    first += 1  # the caller's to change


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("folder", ["exported", "in_threes", "dynamic"])
@pytest.mark.parametrize("name", BACKENDS)
def test_any_number_of_clips_whatever_the_graph_takes(
    name: str, folder: str, count: int, request: pytest.FixtureRequest
) -> None:
    frames = frames_of(count)
    with open_backend(Bundle.open(request.getfixturevalue(folder)), name) as opened:
        embeddings = opened.run(frames).embeddings_BD
    assert embeddings is not None
    np.testing.assert_allclose(embeddings, expected(frames).mean(1), atol=1e-5)


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
    with pytest.raises(BackendError, match=r"they must be uint8 \[B, 4, 64, 96, 3\]"):
        backend.run(frames)


def test_an_output_that_is_not_there_is_refused(backend: Backend) -> None:
    with pytest.raises(BackendError, match=r"no output \['logits'\]; it has tokens, embedding"):
        backend.run(frames_of(1), ("logits",))


def test_closing_twice_is_fine_and_use_after_it_an_error(backend: Backend) -> None:
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match=f"the {backend.name} backend is closed"):
        backend.run(frames_of(1))


def test_each_says_what_it_runs_on(backend: Backend) -> None:
    assert (backend.device, backend.precision) == ("cpu", "fp32")
    assert BACKENDS[backend.name].class_name == type(backend).__name__


def test_the_module_is_rebuilt_from_the_bundle_alone(exported: Path) -> None:
    model = rebuild_model(Bundle.open(exported))
    assert isinstance(model, PlainEncoder)
    for name, value in tiny_encoder().state_dict().items():
        torch.testing.assert_close(model.encoder.state_dict()[name], value, rtol=2e-7, atol=1e-6, msg=name)


def test_an_unknown_backend_is_told_the_known_ones(exported: Path) -> None:
    with pytest.raises(UnknownNameError, match="no backend is named 'tpu'; choose auto or one of onnxruntime, pytorch"):
        open_backend(Bundle.open(exported), "tpu")


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs onnxruntime; pip install 'vjepa2-edge\[onnxruntime\]'"):
        open_backend(Bundle.open(exported), "onnxruntime")
    with pytest.raises(MissingDependencyError, match=r"no backend is installed: onnxruntime needs .*; pytorch needs"):
        open_backend(Bundle.open(exported))


def test_auto_takes_the_first_that_is_installed(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_backend(Bundle.open(exported)) as opened:
        assert opened.name == "onnxruntime"
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with open_backend(Bundle.open(exported)) as opened:
        assert opened.name == "pytorch"


def test_both_onnxruntimes_installed_is_an_error(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        def __init__(self, name: str) -> None:
            self.metadata = {"Name": name}

    both = [Installed("onnxruntime"), Installed("onnxruntime-gpu")]
    monkeypatch.setattr(metadata, "distributions", lambda: both)
    with pytest.raises(BackendError, match="onnxruntime and onnxruntime-gpu are both installed and overwrite"):
        open_backend(Bundle.open(exported), "onnxruntime")


def test_a_provider_that_was_not_asked_for_is_an_error(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def get_providers(self) -> list[str]:
            return ["AzureExecutionProvider"]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    with pytest.raises(BackendError, match=r"took \['AzureExecutionProvider'\]; CPUExecutionProvider was asked for"):
        open_backend(Bundle.open(exported), "onnxruntime")


def test_a_graph_that_onnxruntime_cannot_read_is_an_error(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    (bundle_copy / ONNXRUNTIME).write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"onnxruntime \S+ refuses onnxruntime.onnx: "):
        open_backend(bundle, "onnxruntime")
