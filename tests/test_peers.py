"""Are the baselines what they say: transformers' own model, with the bundle's weights, for bundles that it can run?"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.conftest import SQUARE_CLIP, make_bundle, tiny_spec
from vjepa2.bundle import Bundle
from vjepa2.errors import MissingDependencyError
from vjepa2.runtime import Reference, check_parity, open_backend
from vjepa2.runtime.backends import BACKENDS, choice
from vjepa2.runtime.backends.base import normalise
from vjepa2.runtime.gates import GATES

if TYPE_CHECKING:
    from torch import Tensor

pytest.importorskip("transformers", reason="the baselines need torch and transformers")
F = pytest.importorskip("torch.nn.functional")
PEERS = [name for name in BACKENDS if name.startswith("transformers")]
SQUARE = tiny_spec(clip=SQUARE_CLIP)
EXPORTED = ["transformers-onnxruntime", "transformers-openvino"]


def test_they_are_the_five() -> None:
    assert ["transformers", "transformers-eager", "transformers-compile", *EXPORTED] == PEERS


def test_auto_takes_none_of_them() -> None:
    assert not {candidate.name for candidate in choice.AUTO} & set(PEERS)


@pytest.mark.parametrize(("name", "fused"), [("transformers", 2), ("transformers-eager", 0)])
def test_attention_is_the_one_that_was_asked_for(
    name: str, fused: int, square: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = [], F.scaled_dot_product_attention

    def count(*tensors: "Tensor", **options: object) -> "Tensor":
        calls.append(options)
        result: Tensor = real(*tensors, **options)
        return result

    monkeypatch.setattr(F, "scaled_dot_product_attention", count)
    bundle = Bundle.open(square)
    with open_backend(bundle, name) as backend:
        backend.run(np.zeros((1, *bundle.manifest.frames_shape), np.uint8))
    assert len(calls) == fused


@pytest.mark.parametrize("name", EXPORTED)
def test_a_plain_export_is_in_parity_and_its_graph_goes_with_it(name: str, square: Path) -> None:
    if missing := choice.find_missing(name):
        pytest.skip(missing)
    bundle = Bundle.open(square)
    with open_backend(bundle, name) as backend:
        verdict = check_parity(Reference.load(bundle), backend, GATES["fp32"])
        graph: Path = backend._graph_file()  # type: ignore[attr-defined]
        assert graph.exists()
        assert graph.parent != bundle.path
        assert backend.build_ms > 0
        reference = Reference.load(bundle)
        held = backend.hold(reference.frames_BTHWC[:1])
        held.compute()
        expected = reference.outputs.embeddings_BD
        assert expected is not None
        np.testing.assert_allclose(held.fetch()["embedding"], expected[:1], atol=1e-4)
    assert verdict.passed
    assert not graph.exists()


@pytest.mark.parametrize(
    ("name", "normalised"), [("transformers", 1), *((name, 1) for name in EXPORTED), ("pytorch", 1), ("onnxruntime", 0)]
)
def test_pixels_are_normalised_before_computing_or_in_the_graph(
    name: str, normalised: int, square: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the note beside every table of times says."""
    if missing := choice.find_missing(name):
        pytest.skip(missing)
    calls = []
    for module in ("base", "peers", "peers_export", "pytorch"):
        monkeypatch.setattr(
            f"vjepa2.runtime.backends.{module}.normalise",
            lambda *given: calls.append(given) or normalise(*given),  # type: ignore[func-returns-value]
        )
    bundle = Bundle.open(square)
    with open_backend(bundle, name) as backend:
        held = backend.hold(np.zeros((1, *bundle.manifest.frames_shape), np.uint8))
        assert len(calls) == normalised
        held.compute()
    assert len(calls) == normalised


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_16_bits_all_of_it_is(precision: str, square: Path) -> None:
    bundle = Bundle.open(square)
    with open_backend(bundle, "transformers", precision=precision) as backend:  # type: ignore[arg-type]
        assert backend.precision == precision
        assert {row.precision for row in backend.placement} == {precision}
        embeddings = backend.run(Reference.load(bundle).frames_BTHWC).embeddings_BD
    expected = Reference.load(bundle).outputs.embeddings_BD
    assert embeddings is not None
    assert expected is not None
    assert 0 < np.abs(embeddings - expected).max() < 0.1


@pytest.mark.parametrize("name", PEERS)
def test_what_transformers_has_no_model_for_is_refused(name: str, exported: Path) -> None:
    if missing := choice.find_missing(name):
        pytest.skip(missing)
    with pytest.raises(
        MissingDependencyError,
        match=f"{name} needs a bundle of square frames, and bundle is vjepa2 with head embedding in fp32 of 64 x 96",
    ):
        open_backend(Bundle.open(exported), name)


def test_a_head_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(
        "square-classifier", tmp_path, SQUARE, head="classifier", classes=3, pooling="linear", simplify=False
    )
    missing = choice.find_missing("transformers", bundle=Bundle.open(folder))
    assert missing is not None
    assert "needs a bundle of head tokens or embedding, and bundle is vjepa2 with head classifier" in missing


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("batch", [3, "dynamic"])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_any_number_of_clips_whatever_the_bundle_takes(name: str, batch: object, tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle("square-batch", tmp_path, SQUARE, batch=batch, simplify=False))
    reference = Reference.load(bundle)
    assert reference.outputs.embeddings_BD is not None
    with open_backend(bundle, name) as backend:
        for count in (1, 2, 4):
            chosen = np.arange(count) % len(reference.frames_BTHWC)
            embeddings = backend.run(reference.frames_BTHWC[chosen]).embeddings_BD
            assert embeddings is not None
            np.testing.assert_allclose(embeddings, reference.outputs.embeddings_BD[chosen], atol=1e-4)
