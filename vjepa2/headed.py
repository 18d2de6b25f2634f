"""What does an encoder give with each head on it: outputs by name.

Axes: B batch, S steps, T frames, C colours, H, W pixels, N tokens, K context tokens, L target tokens or classes,
G tokens of one step's image, D channels of a token.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vjepa2.action_predictor import ActionPredictor, double_images, normalise_tokens
from vjepa2.anticipation import ActionAnticipation
from vjepa2.encoder import Encoder
from vjepa2.errors import SpecError
from vjepa2.heads import ImageClassifier, VideoClassifier
from vjepa2.layers import LAYER_NORM_EPS
from vjepa2.masks import take_tokens
from vjepa2.predictor import Predictor
from vjepa2.spec import Head, OutputName


class PlainEncoder(nn.Module):
    """The encoder alone: its tokens, or with `has_mean` their mean too."""

    def __init__(self, encoder: Encoder, *, has_mean: bool = True) -> None:
        super().__init__()
        self.encoder, self.has_mean = encoder, has_mean


class PredictiveEncoder(nn.Module):
    """An encoder, and the masked predictor of some tokens from others.

    The encoder sees the whole clip, as in transformers, or with `context_only` nothing but the context's tokens, as in
    the original's training; then these are all the tokens that it gives.
    """

    def __init__(self, encoder: Encoder, predictor: Predictor, *, context_only: bool = False) -> None:
        super().__init__()
        spec = predictor.spec
        if spec.encoder_dim != encoder.spec.dim or predictor.clip != encoder.clip:
            raise SpecError(
                f"the predictor takes {spec.encoder_dim} channels of {predictor.clip}; {encoder.spec.name} gives "
                f"{encoder.spec.dim} of {encoder.clip}: take the predictor of the same file, for the same clip"
            )
        self.encoder, self.predictor, self.context_only = encoder, predictor, context_only


class ActionEncoder(nn.Module):
    """An encoder of single images, and the predictor of what actions make of them."""

    def __init__(self, encoder: Encoder, predictor: ActionPredictor) -> None:
        super().__init__()
        clip = encoder.clip
        if predictor.spec.encoder_dim != encoder.spec.dim or predictor.clip.grid[1:] != clip.grid[1:]:
            raise SpecError(
                f"the action predictor takes {predictor.spec.encoder_dim} channels of a grid "
                f"{predictor.clip.grid[1:]}; {encoder.spec.name} gives {encoder.spec.dim} of {clip.grid[1:]}"
            )
        if clip.frames != 2:
            raise SpecError(f"the encoder's clip has {clip.frames} frames; before actions it is an image, doubled: 2")
        self.encoder, self.predictor = encoder, predictor


Headed = PlainEncoder | ImageClassifier | VideoClassifier | PredictiveEncoder | ActionAnticipation | ActionEncoder


def head_of(model: Headed) -> Head:
    """What `vjepa2 export --head` calls it."""
    if isinstance(model, PlainEncoder):
        return "embedding" if model.has_mean else "tokens"
    if isinstance(model, PredictiveEncoder):
        return "predictor"
    if isinstance(model, ActionEncoder):
        return "action"
    return "anticipation" if isinstance(model, ActionAnticipation) else "classifier"


def count_frames(model: Headed) -> int:
    """Frames of one row of `model`'s input: before actions one a step, of a classifier those of all its segments."""
    if isinstance(model, ActionEncoder):
        return model.predictor.clip.grid[0]
    frames = model.encoder.clip.frames
    return model.segments * frames if isinstance(model, VideoClassifier) else frames


def cut_clips(model: Headed, frames: Tensor) -> Tensor:
    """What the encoder takes of the frames `[B, S * T, ...]`: each segment's clip, or each image doubled."""
    if isinstance(model, VideoClassifier) and model.segments > 1:
        return model.cut_segments(_as_floats(frames))
    return double_images(_as_floats(frames)) if isinstance(model, ActionEncoder) else frames


def _as_floats(frames: Tensor) -> Tensor:
    """TensorRT takes uint8 as an input, and does nothing with it but make it another type."""
    return frames if frames.is_floating_point() else frames.float()


def embed_clips(model: Headed, clips_BTCHW: Tensor) -> Tensor:
    """Projected patches `[B * S, N, D]` of normalised frames, of each clip that `cut_clips` makes of them."""
    return model.encoder.embed_patches(cut_clips(model, clips_BTCHW))


def mean_tokens(tokens_BND: Tensor) -> Tensor:
    """The embedding `[B, D]`."""
    return tokens_BND.mean(dim=1)


def compute_outputs(
    model: Headed, patches_BND: Tensor, inputs: Sequence[Tensor] = (), mean: Callable[[Tensor], Tensor] = mean_tokens
) -> dict[OutputName, Tensor]:
    """Every output of `model` by name: tokens of what `embed_clips` gives, and what the head makes of them.

    `inputs` are a predictor's: context_ids `[B, K]` and target_ids `[B, L]`, or actions and states `[B, S, C]`.
    """
    if isinstance(model, PredictiveEncoder):
        return _predict_masked(model, patches_BND, *inputs)
    if isinstance(model, ActionEncoder):
        actions_BSC, states_BSC = inputs
        tokens_BGD = model.encoder.encode_patches(patches_BND)
        count = actions_BSC.shape[1] * tokens_BGD.shape[1]
        tokens_BND = normalise_tokens(tokens_BGD.reshape(len(actions_BSC), count, tokens_BGD.shape[2]))
        return {"tokens": tokens_BND, "predicted": model.predictor(tokens_BND, actions_BSC, states_BSC)}
    if isinstance(model, VideoClassifier):
        last = model.encoder.spec.depth - 1
        of_layers = model.encoder.encode_patch_layers(patches_BND, [*model.layers, last])
        *given, tokens_BND = map(model.join_segments, of_layers)
        logits_BL = model.classify(torch.cat(given, dim=1) if len(given) > 1 else given[0])
        return {"tokens": tokens_BND, "embedding": mean(tokens_BND), "logits": logits_BL}
    tokens_BND = model.encoder.encode_patches(patches_BND)
    if isinstance(model, ActionAnticipation):
        verb_BL, noun_BL, action_BL = model.classify(model.look_ahead(tokens_BND))
        return {"tokens": tokens_BND, "verb": verb_BL, "noun": noun_BL, "action": action_BL}
    if isinstance(model, PlainEncoder) and not model.has_mean:
        return {"tokens": tokens_BND}
    outputs: dict[OutputName, Tensor] = {"tokens": tokens_BND, "embedding": mean(tokens_BND)}
    if isinstance(model, ImageClassifier):
        outputs["logits"] = model.classify(outputs["embedding"])
    return outputs


def idle_names(model: Headed) -> set[str]:
    """Parameters that no output depends on."""
    names = {f"encoder.{name}" for name in model.encoder.idle_parameters}
    if isinstance(model, PredictiveEncoder | ActionEncoder | ActionAnticipation):
        names |= {f"predictor.{name}" for name in model.predictor.idle_parameters}
    return names


def with_pooler(classifier: ImageClassifier) -> VideoClassifier:
    """The same weights as a classifier of videos: an image classifier's attentive pooler has its encoder's heads."""
    assert classifier.pooler is not None
    spec = classifier.encoder.spec
    with torch.device("meta"):
        video = VideoClassifier(classifier.encoder, classifier.head.out_features, heads=spec.heads, eps=LAYER_NORM_EPS)
    video.pooler, video.linear = classifier.pooler, classifier.head
    return video.eval()


def _predict_masked(
    model: PredictiveEncoder, patches_BND: Tensor, context_ids_BK: Tensor, target_ids_BL: Tensor
) -> dict[OutputName, Tensor]:
    encoder, last = model.encoder, model.encoder.spec.depth - 1
    layers = encoder.spec.levels if model.predictor.spec.levels > 1 else (last,)
    levels = encoder.encode_patch_layers(patches_BND, layers, context_ids_BK if model.context_only else None)
    given_BND = torch.cat(levels, dim=-1) if len(levels) > 1 else levels[0]
    context_BKD = given_BND if model.context_only else take_tokens(given_BND, context_ids_BK)
    return {"tokens": levels[-1], "predicted": model.predictor(context_BKD, context_ids_BK, target_ids_BL)}
