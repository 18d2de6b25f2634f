"""Does the gate let through what is the same, and nothing that is not?"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import usable_backends
from vjepa2.bundle import REFERENCE, Bundle
from vjepa2.errors import BundleError, SpecError
from vjepa2.manifest import Precision
from vjepa2.runtime import Backend, Outputs, Reference, check_parity, open_backend
from vjepa2.runtime.backends.base import FloatArray, FramesArray, InputArray
from vjepa2.runtime.backends.placement import EXECUTED
from vjepa2.runtime.parity import GATES, compare_outputs, find_faults, measure, shuffle_frames
from vjepa2.spec import OutputName

GATE = GATES["fp32"]


class Fake:
    """A backend that answers from the reference, with something wrong if asked for."""

    name = "fake"

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


@pytest.mark.parametrize("name", usable_backends())
def test_what_export_wrote_passes(name: str, reference: Reference, exported: Path) -> None:
    with open_backend(Bundle.open(exported), name) as backend:
        verdict = check_parity(reference, backend, GATE)
    assert verdict.passed
    assert verdict.clips == 4
    assert verdict.probe_cosine < 0.9


def test_the_same_numbers_pass(reference: Reference) -> None:
    backend: Backend = Fake(reference)  # type: ignore[assignment]
    for gate in GATES.values():
        verdict = check_parity(reference, backend, gate)
        assert verdict.passed
        assert (verdict.relative_max, verdict.proved_by, verdict.accepted) == (0, "fake", {})


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
    cosines, relative = measure(np.array([[[1, 0], [3, 4]]], np.float32), np.array([[[1, 0], [3, 0]]], np.float32))
    assert cosines.tolist() == [[1.0, pytest.approx(0.6)]]
    assert relative == pytest.approx(1.0)


def test_nothing_but_zeros_is_not_a_number() -> None:
    cosines, _ = measure(np.ones((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.float32))
    assert np.isnan(cosines).all()


def test_shuffled_frames_are_the_same_frames_elsewhere() -> None:
    frames = np.arange(6, dtype=np.uint8).reshape(1, 6, 1, 1, 1)
    assert shuffle_frames(frames).ravel().tolist() == [1, 3, 5, 0, 2, 4]
    assert shuffle_frames(frames[:, :2]).ravel().tolist() == [1, 0]


def test_the_probe_is_the_clip_that_moves_most(reference: Reference) -> None:
    frames = reference.frames_BTHWC.copy()
    assert reference.probe == 3, "the fast clip, the last one"
    frames[[0, 1, 3]] = frames[[0, 1, 3], :1]
    assert replace(reference, frames_BTHWC=frames).probe == 2


def test_norms_are_those_before_the_final_layer_norm(reference: Reference) -> None:
    assert reference.outputs.tokens_BND is not None
    assert reference.norms_BN.shape == reference.outputs.tokens_BND.shape[:2]
    assert (reference.norms_BN > 0).all()


def test_a_reference_with_something_missing_is_refused(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    np.savez(bundle_copy / REFERENCE, frames_BTHWC=np.zeros(1))
    with pytest.raises(BundleError, match=r"lacks \['block_embeddings_BD', .*'tokens_BND'\]; export again"):
        Reference.load(bundle)


def test_a_reference_with_something_foreign_is_refused(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    with np.load(bundle_copy / REFERENCE) as arrays:
        held = dict(arrays)
    np.savez(bundle_copy / REFERENCE, **held, more=np.zeros(1))
    with pytest.raises(BundleError, match=r"lacks \[\] and has \['more'\], which nothing reads; export again"):
        Reference.load(bundle)


RNG = np.random.default_rng(0)
TOKENS_BND = RNG.standard_normal((1, 200, 16)).astype(np.float32)
NORMS_BN = np.ones((1, 200), np.float32)


def spoil(count: int, size: float, *, seed: int = 1) -> FloatArray:
    """The tokens with noise of `size` on the first `count`."""
    noise = np.random.default_rng(seed).standard_normal((count, 16)) * size
    spoilt = TOKENS_BND.copy()
    spoilt[0, :count] += noise.astype(np.float32)
    return spoilt


def judge(precision: Precision, tokens_BND: FloatArray, norms_BN: FloatArray = NORMS_BN) -> list[str]:
    gate = GATES[precision]
    return compare_outputs({"tokens": TOKENS_BND}, {"tokens": tokens_BND}, norms_BN, gate.quiet).faults(gate)


@pytest.mark.parametrize(
    ("count", "size", "wrong"),
    [
        (200, 0.005, []),
        (1, 0.05, []),
        (1, 3.0, ["token_worst"]),
        (4, 0.08, ["token_p01"]),
        (150, 0.02, ["token_median"]),
        (1, float("nan"), ["token_worst", "token_p01", "token_median", "token_cosine", "token_p01", "token_median"]),
    ],
)
def test_sixteen_bits_lose_little_of_any_token(count: int, size: float, wrong: list[str]) -> None:
    faults = judge("fp16", spoil(count, size))
    assert [fault.split()[0] for fault in faults][: len(wrong)] == wrong
    assert bool(faults) == bool(wrong)


def test_quiet_tokens_are_counted_and_told_but_do_not_count() -> None:
    norms = NORMS_BN.copy()
    norms[0, :5] = 0.09
    gate = GATES["bf16"]
    figures = compare_outputs({"tokens": TOKENS_BND}, {"tokens": spoil(5, 3.0)}, norms, gate.quiet)
    assert not figures.faults(gate)
    assert figures.quiet_tokens == 5
    assert figures.quiet_cosine is not None
    assert figures.quiet_cosine < 0.9
    norms[0, :5] = 0.11
    assert judge("bf16", spoil(5, 3.0), norms)
    norms[0, :5] = 0.09
    assert judge("fp32", spoil(5, 3.0), norms), "in float32 every token counts"
    assert judge("int8", spoil(5, 3.0), norms), "in 8 bits too"


def test_a_quiet_token_that_is_no_number_fails() -> None:
    norms = NORMS_BN.copy()
    norms[0, 0] = 0.01
    assert "quiet_cosine is no number" in judge("fp16", spoil(1, float("nan")), norms)


def test_a_reference_that_is_no_number_passes_nothing() -> None:
    norms = np.full_like(NORMS_BN, np.nan)
    assert not judge("fp16", TOKENS_BND, norms), "the norms alone make no token quiet"
    broken = np.full_like(TOKENS_BND, np.nan)
    figures = compare_outputs({"tokens": broken}, {"tokens": TOKENS_BND}, norms, 0.1)
    assert figures.faults(GATES["fp16"])
    assert figures.finite, "what was given is"


def test_of_few_tokens_there_is_no_first_percentile_and_the_worst_is_held_to_its_limit() -> None:
    gate = GATES["int8"]
    few, spoilt = TOKENS_BND[:, :99], spoil(1, 3.0)[:, :99]
    figures = compare_outputs({"tokens": few}, {"tokens": spoilt}, NORMS_BN[:, :99], gate.quiet)
    assert (figures.token_p01, figures.counted_tokens, figures.worst_token) == (None, 99, 0)
    assert [fault.split()[0] for fault in figures.faults(gate)] == ["token_p01"]
    assert not judge("int8", spoil(1, 3.0)), "of 200 one is not the first percentile"


def test_the_frobenius_norm_is_that_of_the_textbook() -> None:
    tokens = np.array([[[3.0, 0.0], [0.0, 4.0]]], np.float32)
    figures = compare_outputs({"tokens": tokens}, {"tokens": tokens + 1}, np.ones((1, 2), np.float32), 0)
    assert figures.relative_frobenius == pytest.approx(2 / 5)


def test_whatever_a_library_computes_in_has_a_gate() -> None:
    assert set(GATES) == set(EXECUTED)
    assert GATES["tf32"] == GATES["fp16"], "it has its fraction"


def test_every_gate_says_where_it_comes_from() -> None:
    assert all(gate.source for gate in GATES.values())
    assert GATES["fp32"].limits == {"embedding": 0.99999, "token_worst": 0.99999, "relative_max": 1e-4}


def test_eight_bits_keep_the_class() -> None:
    gate = GATES["int8"]
    logits = np.array([[0.0, 1.0, 2.0, 40.0, 40.1]], np.float32)
    swapped = np.array([[0.0, 1.0, 2.0, 40.1, 40.0]], np.float32)
    expected: dict[OutputName, FloatArray] = {"tokens": TOKENS_BND, "logits": logits}
    figures = compare_outputs(expected, {"tokens": TOKENS_BND, "logits": swapped}, NORMS_BN, gate.quiet)
    assert figures.faults(gate) == ["agreement is 0, must be at least 0.99"]


def test_less_is_accepted_by_name_and_the_verdict_says_so(reference: Reference) -> None:
    backend: Backend = Fake(reference, wrong="one token")  # type: ignore[assignment]
    gate = GATES["fp16"]
    refused = check_parity(reference, backend, gate)
    assert not refused.passed
    limits = {"token_worst": -0.5, "token_p01": -0.5}  # of 48 tokens the worst is held to both
    verdict = check_parity(reference, backend, gate.accept(limits))
    assert verdict.passed
    assert verdict.accepted == limits
    assert any(fault.startswith("token_worst is") for fault in find_faults(refused, gate))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"token_worst": 0.995}, "token_worst=0.995 asks for no less than the gate's 0.99; leave it out"),
        ({"token_worst": float("nan")}, "token_worst=nan asks for no less"),
        ({"tokens": 0.5}, "has no limit tokens; it has embedding=0.9999, token_worst=0.99"),
        ({"relative_max": 1.0}, "has no limit relative_max"),
        ({"quiet": 0.5}, "has no limit quiet"),
    ],
)
def test_what_is_not_less_is_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        GATES["fp16"].accept(limits)


def test_a_larger_difference_may_be_accepted() -> None:
    assert GATES["fp32"].accept({"relative_max": 1e-3}).accepted == {"relative_max": 1e-3}
