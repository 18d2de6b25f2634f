"""Is PyTorch the reference that it is held to be, and does it keep to the precision that was asked for?"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import TINY_CLIP, tiny_encoder
from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError, MissingDependencyError
from vjepa2.headed import PlainEncoder
from vjepa2.runtime import Reference, open_backend
from vjepa2.runtime.backends import find_missing
from vjepa2.runtime.backends.base import normalise
from vjepa2.runtime.backends.placement import Executed
from vjepa2.runtime.backends.pytorch import PyTorchBackend, rebuild_model
from vjepa2.runtime.backends.torch_rates import measure_torch_rates
from vjepa2.runtime.roofline import Rates
from vjepa2.spec import RGB_MEAN, RGB_STD


def test_the_module_is_rebuilt_from_the_bundle_alone(exported: Path) -> None:
    model = rebuild_model(Bundle.open(exported))
    assert isinstance(model, PlainEncoder)
    for name, value in tiny_encoder().state_dict().items():
        torch.testing.assert_close(model.encoder.state_dict()[name], value, rtol=2e-7, atol=1e-6, msg=name)


def test_tokens_and_embeddings_are_the_encoders(exported: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, TINY_CLIP.frames_shape(2), dtype=np.uint8)
    with torch.no_grad():
        tokens = tiny_encoder()(torch.from_numpy(normalise(frames, RGB_MEAN, RGB_STD))).numpy()
    with open_backend(Bundle.open(exported), "pytorch") as backend:
        outputs = backend.run(frames, ("tokens", "embedding"))
    assert outputs.tokens_BND is not None
    assert outputs.embeddings_BD is not None
    np.testing.assert_allclose(outputs.tokens_BND, tokens, atol=1e-4)
    np.testing.assert_allclose(outputs.embeddings_BD, tokens.mean(1), atol=1e-5)


@pytest.mark.parametrize(("precision", "most"), [("bf16", 0.1), ("fp16", 0.01)])
def test_half_precisions_are_to_be_had_by_name(precision: Executed, most: float, exported: Path) -> None:
    bundle = Bundle.open(exported)
    reference = Reference.load(bundle)
    with open_backend(bundle, "pytorch", precision=precision) as backend:
        assert isinstance(backend, PyTorchBackend)
        assert backend._model is not None
        kinds = {type(layer): layer.weight.dtype for layer in backend._model.modules() if hasattr(layer, "weight")}
        embeddings = backend.run(reference.frames_BTHWC).embeddings_BD
        assert backend.precision == precision
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert kinds == {nn.Conv3d: half, nn.Linear: half, nn.LayerNorm: torch.float32}
    assert embeddings is not None
    assert reference.outputs.embeddings_BD is not None
    assert embeddings.dtype == np.float32
    assert 1e-5 < np.abs(embeddings - reference.outputs.embeddings_BD).max() < most


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_what_the_first_run_computed_is_told_by_products(precision: Executed, exported: Path) -> None:
    with open_backend(Bundle.open(exported), "pytorch", precision=precision) as backend:
        backend.run(np.zeros(TINY_CLIP.frames_shape(), np.uint8))
        (row,) = backend.placement
    # a convolution; qkv, scores and values in one, projection and two of the MLP in each of two blocks
    assert (row.place, row.precision, row.products, row.nodes) == ("cpu", precision, 11, 11)


def test_a_product_in_another_precision_than_asked_is_found_at_each_run(exported: Path) -> None:
    frames = np.zeros(TINY_CLIP.frames_shape(), np.uint8)

    def multiply(*_: object) -> None:
        with torch.autocast("cpu", enabled=False):
            torch.ones(2, 2) @ torch.ones(2, 2)

    bundle = Bundle.open(exported)
    for allow in ((), ("fp32",)):
        with open_backend(bundle, "pytorch", precision="bf16", allow=allow) as backend:
            assert isinstance(backend, PyTorchBackend)
            assert backend._model is not None
            hook = backend._model.encoder.patch_embed.register_forward_hook(multiply)
            for _ in range(2):
                if allow:
                    backend.run(frames)
                else:
                    with pytest.raises(BackendError, match=r"computed 1 products of matrices in fp32, and bf16 was"):
                        backend.run(frames)
            products = {row.precision: row.products for row in backend.placement}
            assert products == {"bf16": 11, "fp32": 1}
            hook.remove()
            backend.run(frames)


@pytest.mark.parametrize("name", ["exported", "in_threes", "dynamic"])
def test_norms_beside_the_outputs_are_those_that_export_stored(name: str, request: pytest.FixtureRequest) -> None:
    bundle = Bundle.open(request.getfixturevalue(name))
    reference = Reference.load(bundle)
    assert reference.outputs.tokens_BND is not None
    with open_backend(bundle, "pytorch") as backend:
        assert isinstance(backend, PyTorchBackend)
        results, norms_BN = backend.run_with_norms(reference.frames_BTHWC[1], ("tokens",), {})
    assert results.tokens_BND is not None
    np.testing.assert_allclose(norms_BN, reference.norms_BN[1:2], rtol=1e-4)
    np.testing.assert_allclose(results.tokens_BND, reference.outputs.tokens_BND[1:2], atol=1e-4)


@pytest.fixture
def coarse() -> Iterator[None]:
    """An app that told PyTorch to be quick about float32."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("coarse")
def test_float32_that_the_app_made_coarser_is_an_error(exported: Path) -> None:
    frames = np.zeros(TINY_CLIP.frames_shape(), np.uint8)
    with (
        open_backend(Bundle.open(exported), "pytorch") as backend,
        pytest.raises(BackendError, match=r"was told to multiply float32 as .*, and pytorch runs in fp32; call torch"),
    ):
        backend.run(frames)


def test_cudnn_does_not_round_convolutions_of_float32(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.zeros(TINY_CLIP.frames_shape(), np.uint8)
    seen: list[bool] = []
    with open_backend(Bundle.open(exported), "pytorch") as backend:
        assert isinstance(backend, PyTorchBackend)
        assert backend._model is not None
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        backend._model.encoder.patch_embed.register_forward_hook(
            lambda *_: seen.append(torch.backends.cudnn.allow_tf32)
        )
        before = torch.backends.cudnn.allow_tf32
        backend.run(frames)
        assert (seen, torch.backends.cudnn.allow_tf32) == ([False], before)


def test_a_gpu_that_is_not_there_is_told_so(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(MissingDependencyError, match=r"pytorch needs (a PyTorch with CUDA|an NVIDIA GPU numbered 0)"):
        open_backend(Bundle.open(exported), "pytorch", device="cuda")


def test_rates_of_products_and_copies_are_measured_in_the_precision_asked_for() -> None:
    rates = measure_torch_rates("cpu", "bf16", side=64, count=2**16)
    assert isinstance(rates, Rates)
    assert rates.precision == "bf16"
    assert rates.gemm_flops > 0
    assert rates.copy_bytes > 0
    assert measure_torch_rates("cpu", "int8") == "PyTorch has no plain product of matrices in int8"


def test_compiling_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "c++-that-is-not-there")
    missing = find_missing("pytorch-compile")
    assert missing is not None
    assert missing.startswith("pytorch-compile needs a C++ compiler (c++-that-is-not-there is not found); install g++")
    monkeypatch.setenv("CXX", "sh")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    missing = find_missing("pytorch-compile")
    assert missing is not None
    assert "needs the headers of this Python" in missing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's compiler warns of PyTorch
def test_one_compilation_serves_every_block(exported: Path) -> None:
    counters = torch._dynamo.utils.counters
    counters.clear()
    frames = np.zeros(TINY_CLIP.frames_shape(), np.uint8)
    with open_backend(Bundle.open(exported), "pytorch-compile") as backend:
        backend.run(frames)
        backend.run(frames)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_gpu_gives_what_the_cpu_gives(precision: Executed, exported: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    bundle = Bundle.open(exported)
    reference = Reference.load(bundle)
    with open_backend(bundle, "pytorch", device="cuda", precision=precision) as backend:
        embeddings = backend.run(reference.frames_BTHWC).embeddings_BD
        assert (backend.device, backend.precision) == ("cuda:0", precision)
    assert embeddings is not None
    assert reference.outputs.embeddings_BD is not None
    tolerance = {"fp32": 1e-5, "fp16": 0.01, "bf16": 0.1}[precision]
    np.testing.assert_allclose(embeddings, reference.outputs.embeddings_BD, atol=tolerance)
