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
from vjepa2.head_specs import HeadParts, ProbeSpec
from vjepa2.heads import ImageClassifier, VideoClassifier
from vjepa2.layers import LAYER_NORM_EPS
from vjepa2.masks import take_tokens
from vjepa2.predictor import Predictor
from vjepa2.spec import ClipSpec, Head, ModelSpec, OutputName


class PlainEncoder(nn.Module):
    """The encoder alone: its tokens, or with `has_mean` their mean too."""

    def __init__(self, encoder: Encoder, *, has_mean: bool = True) -> None:
        super().__init__()
        self.encoder, self.has_mean = encoder, has_mean


class PredictiveEncoder(nn.Module):
    """An encoder of whole clips, and the masked predictor of some tokens from others, as in transformers."""

    def __init__(self, encoder: Encoder, predictor: Predictor) -> None:
        super().__init__()
        spec = predictor.spec
        if spec.encoder_dim != encoder.spec.dim or predictor.clip != encoder.clip:
            raise SpecError(
                f"the predictor takes {spec.encoder_dim} channels of {predictor.clip}; {encoder.spec.name} gives "
                f"{encoder.spec.dim} of {encoder.clip}: take the predictor of the same file, for the same clip"
            )
        self.encoder, self.predictor = encoder, predictor


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


def embed_clips(model: Headed, clips_BTCHW: Tensor) -> Tensor:
    """Projected patches of normalised clips; before actions, of each of their images doubled: `[B * S, G, D]`."""
    return model.encoder.embed_patches(double_images(clips_BTCHW) if isinstance(model, ActionEncoder) else clips_BTCHW)


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
        *given, tokens_BND = model.encoder.encode_patch_layers(patches_BND, [*model.layers, last])
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


def describe_parts(model: Headed) -> HeadParts:
    """What `build_headed` needs to build `model` again, beside its encoder and its classes."""
    if isinstance(model, VideoClassifier):
        return HeadParts(probe=_describe_probe(model, (model.linear.out_features,), model.layers))
    if isinstance(model, PredictiveEncoder):
        return HeadParts(predictor=model.predictor.spec, clip=model.predictor.clip)
    if isinstance(model, ActionEncoder):
        return HeadParts(action=model.predictor.spec, clip=model.predictor.clip)
    if isinstance(model, ActionAnticipation):
        layers = (model.verb_classifier, model.noun_classifier, model.action_classifier)
        probe = _describe_probe(model, tuple(layer.out_features for layer in layers))
        return HeadParts(probe=probe, predictor=model.predictor.spec, clip=model.predictor.clip, ahead=model.ahead)
    return HeadParts()


def build_headed(spec: ModelSpec, clip: ClipSpec, head: Head, parts: HeadParts, classes: int | None) -> Headed:
    """A model without values."""
    with torch.device("meta"):
        encoder = Encoder(spec, clip)
        if head in ("tokens", "embedding"):
            return PlainEncoder(encoder, has_mean=head == "embedding")
        if head == "classifier" and parts.probe is None:
            return ImageClassifier(encoder, classes or 0)
        if head == "classifier" and parts.probe is not None:
            probe = parts.probe
            return VideoClassifier(encoder, probe.classes[0], heads=probe.heads, eps=probe.eps, layers=probe.layers)
        assert parts.clip is not None
        if head == "action":
            assert parts.action is not None
            return ActionEncoder(encoder, ActionPredictor(parts.action, parts.clip))
        assert parts.predictor is not None
        predictor = Predictor(parts.predictor, parts.clip)
        if head == "predictor":
            return PredictiveEncoder(encoder, predictor)
        assert parts.probe is not None
        assert parts.ahead is not None
        verbs, nouns, actions = parts.probe.classes
        heads, eps = parts.probe.heads, parts.probe.eps
        return ActionAnticipation(encoder, predictor, (verbs, nouns, actions), ahead=parts.ahead, heads=heads, eps=eps)


def _predict_masked(
    model: PredictiveEncoder, patches_BND: Tensor, context_ids_BK: Tensor, target_ids_BL: Tensor
) -> dict[OutputName, Tensor]:
    encoder, last = model.encoder, model.encoder.spec.depth - 1
    layers = encoder.spec.levels if model.predictor.spec.levels > 1 else (last,)
    levels = encoder.encode_patch_layers(patches_BND, layers)
    given_BND = torch.cat(levels, dim=-1) if len(levels) > 1 else levels[0]
    context_BKD = take_tokens(given_BND, context_ids_BK)
    return {"tokens": levels[-1], "predicted": model.predictor(context_BKD, context_ids_BK, target_ids_BL)}


def _describe_probe(
    model: VideoClassifier | ActionAnticipation, classes: tuple[int, ...], layers: tuple[int, ...] = ()
) -> ProbeSpec:
    cross = model.pooler.cross_attention_block
    return ProbeSpec(queries=len(classes), classes=classes, heads=cross.xattn.heads, eps=cross.norm1.eps, layers=layers)
