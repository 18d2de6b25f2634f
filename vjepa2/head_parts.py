"""What does a bundle have to say of an encoder's head, so that the same model can be built of it again?"""

from dataclasses import replace

import torch

from vjepa2.action_predictor import ActionPredictor
from vjepa2.anticipation import ActionAnticipation
from vjepa2.encoder import Encoder
from vjepa2.head_specs import HeadParts, ProbeSpec
from vjepa2.headed import ActionEncoder, Headed, PlainEncoder, PredictiveEncoder
from vjepa2.heads import AttentivePooler, ImageClassifier, VideoClassifier
from vjepa2.predictor import Predictor
from vjepa2.spec import ClipSpec, Head, ModelSpec


def describe_parts(model: Headed) -> HeadParts:
    """What `build_headed` needs to build `model` again, beside its encoder and its classes."""
    if isinstance(model, VideoClassifier):
        probe = _describe_probe(model.pooler, (model.linear.out_features,))
        return HeadParts(probe=replace(probe, layers=model.layers, segments=model.segments))
    if isinstance(model, PredictiveEncoder):
        predictor = model.predictor
        return HeadParts(predictor=predictor.spec, clip=predictor.clip, context_only=model.context_only)
    if isinstance(model, ActionEncoder):
        return HeadParts(action=model.predictor.spec, clip=model.predictor.clip)
    if isinstance(model, ActionAnticipation):
        layers = (model.verb_classifier, model.noun_classifier, model.action_classifier)
        probe = _describe_probe(model.pooler, tuple(layer.out_features for layer in layers))
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
            return VideoClassifier(
                encoder,
                probe.classes[0],
                heads=probe.heads,
                eps=probe.eps,
                layers=probe.layers,
                segments=probe.segments,
            )
        assert parts.clip is not None
        if head == "action":
            assert parts.action is not None
            return ActionEncoder(encoder, ActionPredictor(parts.action, parts.clip))
        assert parts.predictor is not None
        predictor = Predictor(parts.predictor, parts.clip)
        if head == "predictor":
            return PredictiveEncoder(encoder, predictor, context_only=parts.context_only)
        assert parts.probe is not None
        assert parts.ahead is not None
        verbs, nouns, actions = parts.probe.classes
        heads, eps = parts.probe.heads, parts.probe.eps
        return ActionAnticipation(encoder, predictor, (verbs, nouns, actions), ahead=parts.ahead, heads=heads, eps=eps)


def _describe_probe(pooler: AttentivePooler, classes: tuple[int, ...]) -> ProbeSpec:
    cross = pooler.cross_attention_block
    return ProbeSpec(queries=len(classes), classes=classes, heads=cross.xattn.heads, eps=cross.norm1.eps)
