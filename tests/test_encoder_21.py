"""Is V-JEPA 2.1 what its specification says, and the masked encoder too? Against numpy: transformers has neither."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import version_21
from tests.numpy_family import DTYPES, Array, assert_same, default_dtype, encoder, sharpen, state_of
from vjepa2.bundle import ONNXRUNTIME, PORTABLE, Bundle
from vjepa2.checkpoints import Request, load_encoder
from vjepa2.encoder import Encoder
from vjepa2.errors import SpecError
from vjepa2.export.describe import ExportRequest
from vjepa2.export.pipeline import export_bundle
from vjepa2.layers import RotaryTable
from vjepa2.masks import check_ids
from vjepa2.runtime.backends import open_backend
from vjepa2.runtime.parity import GATES, Reference, check_parity
from vjepa2.spec import ClipSpec, ModelSpec

LEVELS = (0, 1, 3)
WIDE = ClipSpec(frames=4, height=48, width=64)
IMAGE = ClipSpec(frames=1, height=48, width=64, tubelet=1)
THIN = ClipSpec(frames=4, height=16, width=64)
OLD = ModelSpec(name="tiny-2", family="vjepa2", dim=48, depth=4, heads=2, mlp_dim=96, clip=WIDE)
SPEC = version_21(OLD, LEVELS)


def make(spec: ModelSpec, clip: ClipSpec, dtype: torch.dtype = torch.float32) -> tuple[Encoder, Tensor]:
    """A random encoder, and two clips for it."""
    with default_dtype(dtype):
        model = load_encoder("random", model=spec, clip=clip, seed=3)
        sharpen(model)
        return model, torch.randn(clip.shape(2), generator=torch.Generator().manual_seed(1))


def expected(model: Encoder, clips: Tensor, layers: tuple[int, ...], ids: Tensor | None = None) -> list[Array]:
    return encoder(
        state_of(model),
        clips.double().numpy(),
        heads=model.spec.heads,
        version="2.1" if model.spec.levels else "2",
        layers=list(layers),
        ids_BK=None if ids is None else ids.numpy(),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("clip", [WIDE, IMAGE, THIN], ids=["video", "image", "one row"])
def test_version_21_is_the_one_written_from_the_specification(clip: ClipSpec, dtype: torch.dtype) -> None:
    model, clips = make(SPEC, clip, dtype)
    must = expected(model, clips, LEVELS)
    with torch.inference_mode():
        assert_same(model(clips), must[-1])
        assert_same(model.encode_levels(clips), np.concatenate(must, axis=-1))
        for tokens, level in zip(model.encode_layers(clips, LEVELS), must, strict=True):
            assert_same(tokens, level)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", [SPEC, OLD], ids=["2.1", "2"])
def test_a_masked_encoder_sees_the_context_only(spec: ModelSpec, dtype: torch.dtype) -> None:
    model, clips = make(spec, WIDE, dtype)
    ids = torch.stack([torch.randperm(24, generator=torch.Generator().manual_seed(row))[:7] for row in (1, 2)])
    layers = spec.levels or (3,)
    with torch.inference_mode():
        tokens = model(clips, ids)
        assert_same(tokens, expected(model, clips, layers, ids)[-1])
        leaked = model(clips).take_along_dim(ids[..., None], dim=1)
    assert (tokens - leaked).abs().max() > 0.1


def test_the_order_of_a_mask_is_the_order_of_its_tokens() -> None:
    model, clips = make(SPEC, WIDE, torch.float64)
    ids = torch.tensor([[3, 20, 7, 11], [0, 23, 5, 9]])
    with torch.inference_mode():
        there, back = model(clips, ids), model(clips, ids.flip(1)).flip(1)
    assert (there - back).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layers_of_version_2_share_the_final_norm(dtype: torch.dtype) -> None:
    model, clips = make(OLD, WIDE, dtype)
    with torch.inference_mode():
        given = model.encode_layers(clips, (2, 0, 3))
        assert torch.equal(given[2], model(clips))
    for tokens, must in zip(given, [expected(model, clips, (layer,))[0] for layer in (2, 0, 3)], strict=True):
        assert_same(tokens, must)


@pytest.mark.parametrize(("layout", "side"), [("tiled", 16), ("interleaved", None)])
def test_the_wrong_rotary_tables_are_clearly_wrong(layout: str, side: int | None) -> None:
    model, clips = make(SPEC, WIDE)
    with torch.inference_mode():
        right = model(clips)
        model.rotary = RotaryTable(WIDE, SPEC.head_dim, layout, side)  # type: ignore[arg-type]
        assert (model(clips) - right).abs().max() > 0.05


def test_rows_and_columns_span_the_trained_grid() -> None:
    """The corner of any grid turns as the corner of 16 x 16 does; a grid of one as the first row does."""
    trained, wide = RotaryTable(ClipSpec(frames=2, height=256, width=256), 24, "interleaved"), make(SPEC, WIDE)[0]
    thin = make(SPEC, THIN)[0]
    assert wide.rotary is not None
    assert thin.rotary is not None
    torch.testing.assert_close(wide.rotary.cos_N1K[11], trained.cos_N1K[255])
    torch.testing.assert_close(thin.rotary.cos_N1K[3], trained.cos_N1K[15])
    assert torch.isfinite(thin.rotary.cos_N1K).all()


def test_an_image_is_not_a_video_of_two_equal_frames() -> None:
    image, frames = make(SPEC, IMAGE)
    video, _ = make(SPEC, replace(WIDE, frames=2))
    with torch.inference_mode():
        assert (image(frames) - video(frames.expand(-1, 2, -1, -1, -1))).abs().max() > 0.1


def test_half_precision_keeps_its_dtype() -> None:
    """The positions are real numbers, and yet neither q nor k is promoted."""
    model, clips = make(SPEC, WIDE)
    with torch.inference_mode():
        exact, rounded = model(clips), model.bfloat16()(clips.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.2


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[0, 24], [1, 2]]), "context_ids are from 0 to 24; this model's tokens are 0 to 23"),
        (torch.tensor([[0, -1], [1, 2]]), "context_ids are from -1 to 2"),
        (torch.tensor([[0, 3], [5, 5]]), "context_ids name token 5 twice in one row"),
        (torch.tensor([[0, 3]]), r"int64 \[1, 2\]; they must be int64 \[2, K\], a row for each clip"),
        (torch.zeros(2, 0, dtype=torch.int64), r"int64 \[2, 0\]; they must be"),
        (torch.ones(2, 4), r"float32 \[2, 4\]; they must be"),
    ],
)
def test_masks_that_name_no_token_or_one_twice_are_refused(ids: Tensor, message: str) -> None:
    model, clips = make(SPEC, WIDE)
    with pytest.raises(SpecError, match=message):
        model(clips, ids)


def test_equal_ids_in_different_rows_are_no_repetition() -> None:
    check_ids("context_ids", torch.tensor([[1, 2], [1, 2]]), 2, 24)


def test_layers_that_give_no_tokens_are_refused() -> None:
    model, clips = make(SPEC, WIDE)
    with pytest.raises(SpecError, match=r"layer is 2; tiny-2.1 gives tokens after 0, 1, 3"):
        model.encode_layers(clips, [2])
    old, _ = make(OLD, WIDE)
    with pytest.raises(SpecError, match="layer is 4; tiny-2 gives tokens after 0, 1, 2, 3"):
        old.encode_layers(clips, [4])
    with pytest.raises(SpecError, match="tiny-2 has no levels"):
        old.encode_levels(clips)


@pytest.mark.parametrize(
    ("spec", "clip", "message"),
    [
        (OLD, IMAGE, "tubelets of 1 frames and patches of 16 pixels; tiny-2 takes 2 and 16$"),
        (SPEC, replace(IMAGE, frames=2), "tiny-2.1 takes 2 and 16, or one frame with tubelets of 1$"),
        (SPEC, replace(IMAGE, patch=8), "patches of 8 pixels"),
    ],
)
def test_a_clip_of_another_make_is_refused(spec: ModelSpec, clip: ClipSpec, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Encoder(spec, clip)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": (0, 1)}, r"levels are \(0, 1\); they must ascend to the last block, 3"),
        ({"levels": (1, 0, 3)}, "must ascend"),
        ({"levels": (1, 1, 3)}, "must ascend"),
        ({"side": 0}, "side is 0; it must be at least 1"),
        ({"positions": "sincos"}, "only rotary positions are rescaled"),
    ],
)
def test_levels_and_sides_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        replace(SPEC, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("clip", [WIDE, IMAGE], ids=["video", "image"])
def test_version_21_exports_and_comes_back_whole(clip: ClipSpec, tmp_path: Path) -> None:
    """Parameters that the clip does not need are in the bundle too, and a flipped image is noticed by the gate."""
    spec = replace(SPEC, depth=2, levels=(0, 1))
    request = ExportRequest(weights=Request(source="random", model=spec, clip=clip, seed=3), simplify=False)
    bundle = Bundle.open(export_bundle(request, tmp_path / "bundle").bundle.path)
    assert bundle.manifest.model == spec
    assert {*bundle.manifest.parameters} == {name for name, _ in Encoder(spec).named_parameters()}
    assert bundle.manifest.parity[PORTABLE].probe_cosine < 0.99
    assert bundle.manifest.parity[ONNXRUNTIME].passed
    with open_backend(bundle, "pytorch") as backend:
        assert check_parity(Reference.load(bundle), backend, GATES["fp32"]).passed
