"""Do the predictors predict what transformers' does, and what the specification says where it has none?"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import VJEPA2Config, VJEPA2Model

from tests.numpy_family import (
    DTYPES,
    action_predictor,
    assert_same,
    default_dtype,
    normalise,
    predictor,
    sharpen,
    state_of,
)
from tests.released_files import config_of
from vjepa2.action_predictor import ActionPredictor, encode_steps, normalise_tokens
from vjepa2.checkpoints import load_encoder
from vjepa2.errors import SpecError, Vjepa2Error
from vjepa2.head_specs import ActionSpec, PredictorSpec
from vjepa2.layers import RotaryTable
from vjepa2.names import to_huggingface
from vjepa2.predictor import Predictor
from vjepa2.spec import ClipSpec, ModelSpec
from vjepa2.weights import fill_random

SQUARE = ClipSpec(frames=4, height=64, width=64)
WIDE = ClipSpec(frames=4, height=48, width=64)
IMAGE = ClipSpec(frames=1, height=48, width=64, tubelet=1)
OLD = PredictorSpec(encoder_dim=48, dim=64, depth=2, heads=2, mlp_dim=128)
NEW = replace(OLD, positions="interleaved", mask_tokens=8, has_modalities=True, out_dim=40)
JOINED = replace(NEW, levels=4, out_dim=4 * 48)
ACTION = ActionSpec(encoder_dim=48, dim=64, depth=2, heads=2, mlp_dim=128)
STEPS = ClipSpec(frames=6, height=32, width=48)


def make(spec: PredictorSpec, clip: ClipSpec, dtype: torch.dtype = torch.float32) -> Predictor:
    with default_dtype(dtype), torch.device("meta"):
        model = Predictor(spec, clip)
    with default_dtype(dtype):
        fill_random(model, seed=4)
    sharpen(model)
    return model.eval()


def choose(clip: ClipSpec, count: int, seed: int) -> Tensor:
    """`count` ids in no order, other ones in each of two rows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(clip.tokens, generator=generator)[:count] for _ in range(2)])


def tokens_like(ids: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*ids.shape, channels, generator=torch.Generator().manual_seed(2), dtype=dtype)


def transformers_model(model: Predictor, encoder_state: dict[str, Tensor], encoder: ModelSpec) -> VJEPA2Model:
    config = VJEPA2Config(**config_of(encoder, encoder.clip, model.spec))
    theirs = VJEPA2Model(config)
    theirs.load_state_dict(to_huggingface(encoder_state) | to_huggingface(model.state_dict()), strict=True)
    theirs.train(False)
    return theirs


@pytest.mark.parametrize("masks", ["default", "partial", "unsorted"])
def test_the_predictor_equals_transformers(masks: str) -> None:
    """The default masks name every token as context and as target."""
    spec = ModelSpec(name="tiny", family="vjepa2", dim=48, depth=1, heads=2, mlp_dim=96, clip=SQUARE)
    encoder, model = load_encoder("random", model=spec, seed=1), make(OLD, SQUARE)
    theirs = transformers_model(model, encoder.state_dict(), spec)
    clips = torch.randn(SQUARE.shape(2), generator=torch.Generator().manual_seed(5))
    everything = torch.arange(SQUARE.tokens).expand(2, -1)
    context, target = {
        "default": (everything, everything),
        "partial": (everything[:, :20], everything[:, 24:]),
        "unsorted": (choose(SQUARE, 11, 1), choose(SQUARE, 9, 2)),
    }[masks]
    given = {} if masks == "default" else {"context_mask": [context], "target_mask": [target]}
    with torch.inference_mode():
        must = theirs(clips, **given)
        got = model.predict(encoder(clips).take_along_dim(context[..., None], dim=1), context, target)
    assert (got - must.predictor_output.last_hidden_state).abs().max() <= 1e-5
    assert (got - got.flip(0)).abs().max() > 0.1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", [OLD, NEW, JOINED, replace(NEW, side=16)], ids=["2", "2.1", "joined", "rescaled"])
def test_every_predictor_is_the_one_written_from_the_specification(spec: PredictorSpec, dtype: torch.dtype) -> None:
    model, context, target = make(spec, WIDE, dtype), choose(WIDE, 9, 1), choose(WIDE, 7, 2)
    tokens = tokens_like(context, spec.levels * 48, dtype)
    predicted, at_context = predictor(
        state_of(model),
        tokens.double().numpy(),
        context.numpy(),
        target.numpy(),
        heads=2,
        grid=(3, 4),
        version="2.1" if spec.has_modalities else "2",
        side=spec.side,
    )
    with torch.inference_mode():
        assert_same(model.predict(tokens, context, target), predicted)
        if at_context is not None:
            both = model.predict_both(tokens, context, target)
            assert_same(both[0], predicted)
            assert_same(both[1], at_context)


def test_an_image_has_a_vector_of_its_own() -> None:
    model, context, target = make(NEW, IMAGE, torch.float64), choose(IMAGE, 5, 1), choose(IMAGE, 4, 2)
    tokens = tokens_like(context, 48, torch.float64)
    ids = context.numpy(), target.numpy()
    must, _ = predictor(
        state_of(model), tokens.numpy(), *ids, heads=2, grid=(3, 4), version="2.1", modality="img_mod_embed"
    )
    with torch.inference_mode():
        assert_same(model.predict(tokens, context, target), must)


@pytest.mark.parametrize(
    ("spec", "layout", "side"), [(OLD, "interleaved", None), (NEW, "tiled", None), (NEW, "interleaved", 16)]
)
def test_the_wrong_rotary_tables_are_clearly_wrong(spec: PredictorSpec, layout: str, side: int | None) -> None:
    model, context, target = make(spec, WIDE), choose(WIDE, 9, 1), choose(WIDE, 7, 2)
    tokens = tokens_like(context, 48, torch.float32)
    with torch.inference_mode():
        right = model.predict(tokens, context, target)
        model.rotary = RotaryTable(WIDE, 32, layout, side)  # type: ignore[arg-type]
        assert (model.predict(tokens, context, target) - right).abs().max() > 0.02


def test_mask_tokens_differ_and_number_one_is_the_default() -> None:
    model, context, target = make(OLD, WIDE), choose(WIDE, 9, 1), choose(WIDE, 7, 2)
    tokens = tokens_like(context, 48, torch.float32)
    with torch.inference_mode():
        default, first = (model.predict(tokens, context, target, mask_index=index) for index in (1, 0))
        assert torch.equal(model.predict(tokens, context, target), default)
    assert (default - first).abs().max() > 0.05


def test_the_graph_sorts_nothing() -> None:
    model, context, target = make(OLD, WIDE), choose(WIDE, 9, 1), choose(WIDE, 7, 2)
    program = torch.export.export(model, (tokens_like(context, 48, torch.float32), context, target))
    names = {str(node.target) for node in program.graph.nodes}
    assert any("scaled_dot_product_attention" in name for name in names)
    assert not [name for name in names if "sort" in name]


GOOD = torch.tensor([[0, 5], [3, 23]])


@pytest.mark.parametrize(
    ("context", "target", "options", "message"),
    [
        (GOOD, GOOD + 1, {}, "target_ids are from 1 to 24; this model's tokens are 0 to 23"),
        (GOOD - 1, GOOD, {}, "context_ids are from -1 to 22"),
        (torch.tensor([[4, 4], [0, 1]]), GOOD, {}, "context_ids name token 4 twice in one row"),
        (GOOD, torch.tensor([[4, 5], [7, 7]]), {}, "target_ids name token 7 twice in one row"),
        (GOOD, GOOD[:1], {}, r"target_ids are torch.int64 \[1, 2\]; they must be int64 \[2, K\]"),
        (
            choose(WIDE, 3, 1),
            GOOD,
            {},
            r"tokens have shape \[2, 2, 48\]; for these context_ids it must be \[2, 3, 48\]",
        ),
        (GOOD, GOOD, {"mask_index": 10}, "mask_index is 10; this predictor has 0 to 9"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    context: Tensor, target: Tensor, options: dict[str, int], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        make(OLD, WIDE).predict(tokens_like(GOOD, 48, torch.float32), context, target, **options)


def test_only_version_21_predicts_its_context() -> None:
    with pytest.raises(SpecError, match=r"only V-JEPA 2.1's predictor has a projection for context tokens"):
        make(OLD, WIDE).predict_both(tokens_like(GOOD, 48, torch.float32), GOOD, GOOD)


@pytest.mark.parametrize(("field", "value", "message"), [("heads", 5, "dim is 64"), ("levels", 0, "levels is 0")])
def test_a_predictor_that_cannot_be_built_is_refused(field: str, value: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        replace(OLD, **{field: value})  # type: ignore[arg-type]


def make_action(dtype: torch.dtype = torch.float32, clip: ClipSpec = STEPS) -> ActionPredictor:
    with default_dtype(dtype), torch.device("meta"):
        model = ActionPredictor(ACTION, clip)
    with default_dtype(dtype):
        fill_random(model, seed=4)
    sharpen(model)
    return model.eval()


def act(steps: int, dtype: torch.dtype = torch.float32, images: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of images, and actions and states of `steps`."""
    generator = torch.Generator().manual_seed(6)
    tokens = torch.randn(2, (images or steps) * 6, 48, generator=generator, dtype=dtype)
    actions, states = (torch.randn(2, steps, 7, generator=generator, dtype=dtype) for _ in range(2))
    return tokens, actions, states


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_action_predictor_is_the_one_written_from_the_specification(steps: int, dtype: torch.dtype) -> None:
    model, given = make_action(dtype), act(steps, dtype)
    must = action_predictor(state_of(model), *(x.double().numpy() for x in given), heads=2, grid=(2, 3))
    with torch.inference_mode():
        assert_same(model.predict(*given), must)


def test_no_step_sees_a_later_one() -> None:
    model, (tokens, actions, states) = make_action(torch.float64), act(3, torch.float64)
    later = tokens.clone(), actions.clone(), states.clone()
    for x, first in zip(later, (12, 2, 2), strict=True):
        x[:, first:] += 1
    with torch.inference_mode():
        changed = (model.predict(*later) - model.predict(tokens, actions, states)).abs().amax(dim=(0, 2))
    assert changed[:12].max() == 0
    assert changed[12:].min() > 1e-3


def test_the_mask_is_a_buffer_of_the_size_needed() -> None:
    small, state = make_action(), make_action().state_dict()
    assert small.order.mask_11MM.shape == (1, 1, 3 * 8, 3 * 8)
    assert not [name for name in state if "mask" in name or "rotary" in name]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("images", [1, 2])
def test_a_rollout_feeds_its_own_predictions_back(images: int, dtype: torch.dtype) -> None:
    model, (tokens, actions, states) = make_action(dtype), act(3, dtype, images)
    known, numbers = tokens.double().numpy(), [actions.double().numpy(), states.double().numpy()]
    for step in range(images, 4):
        past = [x[:, :step] for x in numbers]
        predicted = action_predictor(state_of(model), known, *past, heads=2, grid=(2, 3))
        known = np.concatenate([known, normalise(predicted[:, -6:], 1e-5)], axis=1)
    with torch.inference_mode():
        got = model.rollout(tokens, actions, states)
    assert got.shape == (2, (4 - images) * 6, 48)
    assert_same(got, known[:, images * 6 :])


def test_images_are_encoded_one_by_one_as_two_equal_frames() -> None:
    spec = ModelSpec(name="tiny", family="vjepa2", dim=48, depth=1, heads=2, mlp_dim=96, clip=replace(STEPS, frames=2))
    encoder = load_encoder("random", model=spec, seed=1)
    images = torch.randn(2, 3, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        tokens = encode_steps(encoder, images)
        one = normalise_tokens(encoder(images[1:, 2:].expand(-1, 2, -1, -1, -1)))
    assert tokens.shape == (2, 18, 48)
    assert (tokens[1, 12:] - one[0]).abs().max() < 1e-5
    assert tokens.mean(dim=-1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("tokens", "actions", "states", "message"),
    [
        ((2, 12, 48), (2, 2, 6), (2, 2, 7), r"actions have shape \[2, 2, 6\]; they must be \[2, 2, 7\]"),
        ((2, 12, 48), (2, 2, 7), (2, 1, 7), r"states have shape \[2, 1, 7\]; they must be \[2, 2, 7\]"),
        ((2, 13, 48), (2, 2, 7), (2, 2, 7), r"tokens have shape \[2, 13, 48\]; they must be \[B, steps \* 6, 48\]"),
        ((2, 24, 48), (2, 4, 7), (2, 4, 7), "of 1 to 3 steps"),
        ((2, 12, 40), (2, 2, 7), (2, 2, 7), r"tokens have shape \[2, 12, 40\]"),
    ],
)
def test_actions_that_do_not_fit_are_refused(
    tokens: tuple[int, ...], actions: tuple[int, ...], states: tuple[int, ...], message: str
) -> None:
    with pytest.raises(Vjepa2Error, match=message):
        make_action().predict(torch.zeros(tokens), torch.zeros(actions), torch.zeros(states))


@pytest.mark.parametrize(
    ("images", "steps", "message"),
    [(3, 2, "images of 3 steps and actions of 2; give 1 to 2 images"), (1, 4, "actions of 4 steps; .* made for 3")],
)
def test_rollouts_that_do_not_fit_are_refused(images: int, steps: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_action().rollout(*act(steps, images=images))


def test_a_rollout_from_part_of_an_image_is_refused() -> None:
    tokens, actions, states = act(3, images=1)
    with pytest.raises(SpecError, match=r"tokens have shape \[2, 7, 48\]; they must be \[B, steps \* 6, 48\]"):
        make_action().rollout(torch.cat([tokens, tokens[:, :1]], dim=1), actions, states)
