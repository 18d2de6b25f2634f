"""Does every mistake fail every gate, and is each one the mistake that it is called after?"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from tests.conftest import TINY_CLIP, tiny_encoder, tiny_spec
from vjepa2.bundle import Bundle
from vjepa2.checkpoints import Request
from vjepa2.encoder import Encoder
from vjepa2.export.canaries import compute_mistaken, wrong_block, wrong_layout
from vjepa2.export.describe import ExportRequest
from vjepa2.export.pipeline import compute_reference, export_bundle, gather_clips
from vjepa2.headed import PlainEncoder
from vjepa2.manifest import Precision
from vjepa2.runtime import Outputs, Reference
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.backends.onnxrt import OnnxRuntimeBackend
from vjepa2.runtime.canaries import NAMES, forget_normalisation, step_frames, swap_colours
from vjepa2.runtime.gates import GATES
from vjepa2.runtime.neighbours import FEWEST
from vjepa2.runtime.parity_report import ParityReport
from vjepa2.runtime.parity_run import ParityRequest, run_parity
from vjepa2.runtime.reference import measure_change
from vjepa2.runtime.scenes import generate_scene
from vjepa2.spec import RGB_MEAN, RGB_STD

# what makes blocks of 192 channels weigh as much as ViT-L's of 1024: without it a layout hardly matters in a tiny model
_GAIN = (1024 / 192) ** 0.5
RUNNERS: Mapping[Precision, str] = {"fp32": "onnxruntime", "int8": "onnxruntime"}  # others need the evaluator


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose blocks matter, as a file of Meta's."""
    state = tiny_encoder().state_dict()
    sharp = {name: value * (_GAIN if _is_matrix(name, value) else 1) for name, value in state.items()}
    file = tmp_path_factory.mktemp("sharp") / "sharp.pt"
    torch.save({"encoder": sharp}, file)
    return file


def _is_matrix(name: str, value: torch.Tensor) -> bool:
    return name.startswith("blocks.") and name.endswith("weight") and value.ndim == 2


@pytest.fixture(scope="module")
def make_sharp(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Precision], Bundle]:
    """A function that exports it once in each precision."""
    made: dict[Precision, Bundle] = {}

    def make(precision: Precision) -> Bundle:
        if precision not in made:
            weights = Request(source=str(checkpoint), model=tiny_spec(), key="encoder")
            request = ExportRequest(weights=weights, precision=precision, simplify=False)
            made[precision] = export_bundle(request, tmp_path_factory.mktemp("sharp") / precision).bundle
        return made[precision]

    return make


def run(bundle: Bundle, **options: object) -> ParityReport:
    backend = RUNNERS.get(bundle.manifest.precision, "evaluator")
    request = ParityRequest(bundles=(bundle,), backends=(backend,), **options)  # type: ignore[arg-type]
    return run_parity(request, save=lambda _: None)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_every_canary_fails_on_every_precision(precision: Precision, make_sharp: Callable[..., Bundle]) -> None:
    report = run(make_sharp(precision))
    assert report.passed, (report.invalid, [row.clips for row in report.candidates])
    assert {canary.name for canary in report.canaries} == set(NAMES)
    assert len(report.canaries) == 8
    for canary in report.canaries:
        assert not canary.passed
        assert canary.faults
        assert canary.limits == GATES[precision].limits
    origins = [canary.origin for canary in report.canaries]
    assert (origins.count("run here"), origins.count("computed at export")) == (5, 3)
    assert {canary.clip for canary in report.canaries[:7]} == {"stored 3"}, "the fast one"


def test_a_sibling_in_float32_is_the_reference_of_sixteen_bits(make_sharp: Callable[..., Bundle]) -> None:
    report = run(make_sharp("fp16"), reference=make_sharp("fp32"))
    (row,) = report.candidates
    assert report.passed
    assert report.reference.bundle == "fp32"
    assert set(report.reference.anchors) == {"fp16"}
    assert [clip.name for clip in row.clips[4:]] == [
        "motion", "static", "black", "flashing", "noise", "saturated", "short", "long",
    ]  # fmt: skip
    assert {clip.expected_by for clip in row.clips[4:]} == {"PyTorch float32, rebuilt from fp32"}
    assert 0 < row.worst.relative_frobenius < 0.01


def test_sixteen_bits_alone_are_compared_on_what_they_carry_and_the_report_says_so(
    make_sharp: Callable[..., Bundle],
) -> None:
    report = run(make_sharp("fp16"))
    (row,) = report.candidates
    assert [clip.expected_by for clip in row.clips] == ["reference.npz of fp16"] * 4
    assert row.neighbours is None
    assert "k-NN overlap@10: 1.000 is what chance alone gives of 4 clips, which is too much; it takes 31" in row.said
    assert "no other clip is compared" in report.reference.says[1]


@pytest.fixture
def videos(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """A folder of as many videos as, with the clips that are always there, neighbours are told of."""
    for number in range(FEWEST - 12):
        write_video(generate_scene(4, 64, 96, seed=100 + number), f"{number:02}.mp4")
    return tmp_path


def test_neighbours_are_told_of_enough_clips_and_a_candidate_that_mixes_clips_up_shares_few(
    make_sharp: Callable[..., Bundle], videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = run(make_sharp("int8"), reference=make_sharp("fp32"), clips=videos).candidates
    assert len(row.clips) == FEWEST
    assert row.neighbours is not None
    assert row.neighbours > 0.8
    assert "k-NN overlap@10: 0.333 is what chance alone gives of 31 clips" in row.said
    given: list[Outputs] = []
    run_rightly = OnnxRuntimeBackend.run

    def slip(backend: OnnxRuntimeBackend, *words: Any) -> Outputs:
        """What the clip before gave, as if the lines of a table had slipped."""
        given.append(run_rightly(backend, *words))
        return given[max(0, len(given) - 2)]

    monkeypatch.setattr(OnnxRuntimeBackend, "run", slip)
    (row,) = run(make_sharp("int8"), reference=make_sharp("fp32"), clips=videos).candidates
    assert row.neighbours is not None
    assert row.neighbours < 0.5


def test_in_a_tiny_model_that_is_not_sharpened_a_layout_hardly_matters() -> None:
    """Why the tests above sharpen: a loose gate is right to let it through, and such a report is invalid."""
    model = PlainEncoder(tiny_encoder())
    reference = compute_reference(model, gather_clips(model.encoder.clip, None), {})
    stored = replace(reference, mistaken=compute_mistaken(model, reference))
    assert stored.mistaken is not None
    tokens, wrong = stored.outputs.tokens_BND, stored.mistaken.of_probe["layout"].tokens_BND
    assert tokens is not None
    assert wrong is not None
    near = np.abs(tokens[stored.probe] - wrong[0]).max() / np.abs(tokens).max()
    assert 1e-4 < near < 0.05


def other_layout(encoder: Encoder) -> Encoder:
    """The same weights in a model that is built with the other layout."""
    other = Encoder(replace(encoder.spec, positions="interleaved"), encoder.clip)
    other.load_state_dict(encoder.state_dict())
    return other.eval()


def test_the_wrong_layout_is_the_other_models_and_is_taken_back() -> None:
    encoder = tiny_encoder()
    clip = torch.randn(TINY_CLIP.shape())
    with torch.inference_mode():
        right, wrong = encoder(clip), other_layout(encoder)(clip)
        with wrong_layout(encoder):
            assert torch.equal(encoder(clip), wrong)
        assert torch.equal(encoder(clip), right)
    assert not torch.equal(right, wrong)


def test_added_positions_have_a_wrong_layout_too() -> None:
    encoder = tiny_encoder(replace(tiny_spec(), positions="sincos"))
    clip = torch.randn(TINY_CLIP.shape())
    with torch.inference_mode():
        right = encoder(clip)
        with wrong_layout(encoder):
            assert not torch.allclose(encoder(clip), right, atol=1e-2)
        assert torch.equal(encoder(clip), right)


def test_a_block_with_queries_for_values_is_another_and_is_taken_back() -> None:
    encoder = tiny_encoder()
    weight = encoder.get_parameter("blocks.0.attn.qkv.weight")
    with wrong_block(encoder):
        swapped = encoder.get_parameter("blocks.0.attn.qkv.weight")
        dim = encoder.spec.dim
        assert torch.equal(swapped[:dim], weight[2 * dim :])
        assert torch.equal(swapped[dim : 2 * dim], weight[dim : 2 * dim])
        assert torch.equal(swapped[2 * dim :], weight[:dim])
    assert encoder.get_parameter("blocks.0.attn.qkv.weight") is weight


def test_naive_results_are_in_fp16_and_the_exact_ones_are_not(exported: Path) -> None:
    mistaken = Reference.load(Bundle.open(exported)).mistaken
    assert mistaken is not None
    exact, naive = mistaken.naive.exact.tokens_BND, mistaken.naive.naive.tokens_BND
    assert exact is not None
    assert naive is not None
    assert naive.dtype == exact.dtype == np.float32
    assert np.array_equal(naive.astype(np.float16).astype(np.float32), naive)
    assert not np.array_equal(exact.astype(np.float16).astype(np.float32), exact)


@pytest.fixture
def frames() -> FramesArray:
    return generate_scene(6, 32, 48, seed=5)[None]


def test_what_is_normalised_after_all_is_only_divided(frames: FramesArray) -> None:
    got = normalise(forget_normalisation(frames), RGB_MEAN, RGB_STD)
    must = frames.transpose(0, 1, 4, 2, 3) / 255
    assert np.abs(got - must).max() <= 0.5 / (255 * min(RGB_STD)) + 1e-6, "half a step of 8 bits"
    extremes = forget_normalisation(np.array([0, 255], np.uint8).reshape(1, 1, 1, 2, 1).repeat(3, axis=-1))
    assert extremes.min() > 0
    assert extremes.max() < 255


def test_one_frame_off_is_the_next_frame(frames: FramesArray) -> None:
    stepped = step_frames(frames)
    assert np.array_equal(stepped[:, :-1], frames[:, 1:])
    assert np.array_equal(stepped[:, -1], frames[:, -1])
    assert not np.array_equal(step_frames(frames[:, :1]), frames[:, :1]), "a single image moves"


def test_red_and_blue_change_places(frames: FramesArray) -> None:
    swapped = swap_colours(frames)
    assert np.array_equal(swapped[..., 0], frames[..., 2])
    assert np.array_equal(swapped[..., 1], frames[..., 1])


def test_the_clip_of_the_canaries_is_the_one_that_changes_most() -> None:
    frames = gather_clips(TINY_CLIP, None)
    changes = [measure_change(clip) for clip in frames]
    assert len(frames) == 4
    assert np.argmax(changes) == 3
    assert changes[3] > 3 * max(changes[:3])
