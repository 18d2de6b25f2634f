"""Does the gate let through what is the same, and nothing that is not?"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vjepa2.bundle import REFERENCE, Bundle
from vjepa2.errors import BundleError
from vjepa2.runtime import Backend, Outputs, Reference, check_parity, open_backend
from vjepa2.runtime.backends.base import FramesArray, InputArray
from vjepa2.runtime.parity import GATES, measure, shuffle_frames
from vjepa2.spec import OutputName

GATE = GATES["fp32"]


class Fake:
    """A backend that answers from the reference, with something wrong if asked for."""

    def __init__(self, reference: Reference, *, wrong: str = "") -> None:
        self.reference = reference
        self.wrong = wrong
        assert reference.outputs.embeddings_BD is not None
        assert reference.outputs.tokens_BND is not None
        self.tokens_BND, self.embeddings_BD = reference.outputs.tokens_BND, reference.outputs.embeddings_BD

    def run(
        self, frames: FramesArray, outputs: tuple[OutputName, ...], inputs: Mapping[str, InputArray] | None
    ) -> Outputs:
        known = [index for index, clip in enumerate(self.reference.frames_BTHWC) if np.array_equal(clip, frames[0])]
        index = known[0] if known else 0
        tokens, embeddings = self.tokens_BND[[index]].copy(), self.embeddings_BD[[index]].copy()
        if not known and self.wrong != "blind":
            tokens, embeddings = np.roll(tokens, 1, axis=1), -embeddings
        if not known and self.wrong == "blind":
            tokens = self.tokens_BND[[self.reference.probe]]
            embeddings = self.embeddings_BD[[self.reference.probe]]
        if self.wrong == "one token" and index == 2:
            tokens[0, 5] = tokens[0, 6]
        if self.wrong == "nan":
            tokens[0, 0, 0] = np.nan
        if self.wrong == "scaled":
            tokens *= 1.001
        if self.wrong == "embedding":
            embeddings = embeddings[:, ::-1]
        return Outputs(tokens_BND=tokens, embeddings_BD=embeddings)


@pytest.fixture(scope="module")
def reference(exported: Path) -> Reference:
    return Reference.load(Bundle.open(exported))


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-portable", "pytorch"])
def test_what_export_wrote_passes(name: str, reference: Reference, exported: Path) -> None:
    with open_backend(Bundle.open(exported), name) as backend:
        verdict = check_parity(reference, backend, GATE)
    assert verdict.passed
    assert verdict.clips == 3
    assert verdict.probe_cosine < 0.9


def test_the_same_numbers_pass(reference: Reference) -> None:
    backend: Backend = Fake(reference)  # type: ignore[assignment]
    verdict = check_parity(reference, backend, GATE)
    assert verdict.passed
    assert verdict.relative_max == 0


@pytest.mark.parametrize("wrong", ["one token", "nan", "scaled", "embedding", "blind"])
def test_one_mistake_fails(wrong: str, reference: Reference) -> None:
    backend: Backend = Fake(reference, wrong=wrong)  # type: ignore[assignment]
    assert not check_parity(reference, backend, GATE).passed


def test_a_single_wrong_token_hides_in_the_mean(reference: Reference) -> None:
    """Why the worst token is looked at: the embedding alone would pass at a looser limit."""
    backend: Backend = Fake(reference, wrong="one token")  # type: ignore[assignment]
    verdict = check_parity(reference, backend, GATE)
    assert verdict.embedding_cosine is not None
    assert verdict.embedding_cosine > 0.99999
    assert verdict.token_cosine < 0.99


def test_figures_are_those_of_the_textbook() -> None:
    cosine, relative = measure(np.array([[[1, 0], [3, 4]]], np.float32), np.array([[[1, 0], [3, 0]]], np.float32))
    assert cosine == pytest.approx(0.6)
    assert relative == pytest.approx(1.0)


def test_nothing_but_zeros_is_not_a_number() -> None:
    cosine, _ = measure(np.ones((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.float32))
    assert np.isnan(cosine)


def test_shuffled_frames_are_the_same_frames_elsewhere() -> None:
    frames = np.arange(6, dtype=np.uint8).reshape(1, 6, 1, 1, 1)
    assert shuffle_frames(frames).ravel().tolist() == [1, 3, 5, 0, 2, 4]
    assert shuffle_frames(frames[:, :2]).ravel().tolist() == [1, 0]


def test_the_probe_is_the_clip_that_moves_most(reference: Reference) -> None:
    frames = reference.frames_BTHWC.copy()
    frames[:2] = frames[:2, :1]
    assert replace(reference, frames_BTHWC=frames).probe == 2


def test_norms_are_those_before_the_final_layer_norm(reference: Reference) -> None:
    assert reference.outputs.tokens_BND is not None
    assert reference.norms_BN.shape == reference.outputs.tokens_BND.shape[:2]
    assert (reference.norms_BN > 0).all()


def test_a_reference_with_something_missing_is_refused(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    np.savez(bundle_copy / REFERENCE, frames_BTHWC=np.zeros(1))
    with pytest.raises(BundleError, match=r"lacks \['embeddings_BD', 'norms_BN', 'tokens_BND'\]; export again"):
        Reference.load(bundle)
