"""Which weights are exported, and which head stands on them?"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from vjepa2.anticipation import AHEAD
from vjepa2.checkpoints import HARD, RANDOM, load_checkpoint
from vjepa2.classifier_files import is_image_classifier, load_image_classifier
from vjepa2.encoder import Encoder
from vjepa2.errors import ExportError
from vjepa2.head_checkpoints import (
    load_action_predictor,
    load_anticipation,
    load_classifier,
    load_predictor,
    read_labels,
)
from vjepa2.head_specs import ProbeSpec
from vjepa2.headed import ActionEncoder, Headed, PlainEncoder, PredictiveEncoder, with_pooler
from vjepa2.heads import ImageClassifier
from vjepa2.manifest import Source
from vjepa2.publish import sha256_of
from vjepa2.registry import RELEASES
from vjepa2.spec import Head, ModelSpec
from vjepa2.weights import fill_random

from .describe import ExportRequest

_STEPS = 8  # images before an action-conditioned predictor, as it was trained
_IMAGE_FRAMES = 2  # an image is a clip of two equal frames


def load_model(request: ExportRequest) -> tuple[Headed, Source, tuple[str, ...] | None]:
    """The encoder with its head, where its weights came from, and what its classes are called if that is known."""
    head = choose_head(request)
    _refuse_options(request, head)
    if head == "action":
        if request.weights.source == HARD:
            raise ExportError("hard weights are those of an encoder of clips; before actions, export random ones")
        return (*_load_action(request), None)
    encoder, source = _load_encoder(request)
    request = _with_random_head(request)
    if head == "classifier":
        return _load_classifier(request, encoder, source)
    if head in ("tokens", "embedding"):
        return PlainEncoder(encoder, has_mean=head == "embedding"), source, None
    loaders: dict[Head, Callable[[ExportRequest, Encoder], Headed]] = {
        "predictor": _load_predictive,
        "anticipation": _load_anticipation,
    }
    return loaders[head](request, encoder), source, None


def choose_head(request: ExportRequest) -> Head:
    """The head that was asked for, or a classifier where that is what the source is or where classes are given."""
    if request.head is not None:
        return request.head
    is_classifier = request.classes is not None or is_image_classifier(request.weights.source)
    return "classifier" if is_classifier else "embedding"


def _refuse_options(request: ExportRequest, head: Head) -> None:
    given = {
        "classes": (request.classes is not None, ("classifier", "anticipation")),
        "encoder": (request.encoder is not None, ("classifier", "anticipation")),
        "context_only": (request.context_only, ("predictor",)),
        "predictor_side": (request.predictor_side is not None, ("predictor",)),
        "pooling": (request.pooling is not None, ("classifier",)),
        "probe": (request.probe is not None, ("classifier",)),
        "ahead": (request.ahead is not None, ("anticipation",)),
        "segments": (request.segments is not None, ("classifier",)),
    }
    for option, (is_given, heads) in given.items():
        if is_given and head not in heads:
            raise ExportError(f"{option} is not of the head {head}; leave it out, or export {' or '.join(heads)}")
    if request.encoder is not None and not Path(request.weights.source).is_file():
        raise ExportError(f"{request.weights.source} brings its own encoder; only a probe's .pt file needs another")
    if request.classes is not None and request.weights.source not in (RANDOM, HARD):
        raise ExportError(
            f"{request.weights.source} takes no classes but its own; leave them out, or export random weights"
        )


def _load_encoder(request: ExportRequest) -> tuple[Encoder, Source]:
    """The encoder from the source, or from the file that is given beside a probe's."""
    weights = request.weights
    release = RELEASES.get(weights.model) if isinstance(weights.model, str) else None
    if request.encoder is None:
        if release and release.base and weights.key is None and Path(weights.source).is_file():
            raise ExportError(
                f"{weights.source} is the file of a probe, which holds no encoder; say where that of {release.base} is "
                "with encoder"
            )
        return load_checkpoint(weights)
    encoder, source = load_checkpoint(
        replace(weights, source=request.encoder, model=release.base or weights.model if release else weights.model)
    )
    file = Path(weights.source)
    return encoder, replace(source, name=file.name, files=source.files | {file.name: sha256_of(file)})


def _load_classifier(
    request: ExportRequest, encoder: Encoder, source: Source
) -> tuple[Headed, Source, tuple[str, ...] | None]:
    weights = request.weights
    segments = 1 if request.segments is None else request.segments
    if is_image_classifier(weights.source):
        _refuse_segments(segments)
        trained = load_image_classifier(weights.source, encoder)
        return (trained if trained.pooler is None else with_pooler(trained)), source, trained.labels
    release = RELEASES.get(weights.model) if isinstance(weights.model, str) else None
    classes = _counts(request.classes, 1)
    pooling = request.pooling or ("attentive" if release and release.probe else "linear")
    if weights.source == RANDOM and pooling == "linear":
        _refuse_segments(segments)
        if not classes:
            raise ExportError("random weights need to know how many classes; give classes")
        with torch.device("meta"):
            image = ImageClassifier(encoder, classes[0])
        fill_random(image.head, source.seed or 0)
        return image.eval(), source, None
    if request.pooling == "linear":
        raise ExportError(f"{source.name} has an attentive classifier; leave pooling out")
    model = load_classifier(
        weights.source,
        model=_name_probe(request),
        encoder=encoder,
        probe=request.probe or "meta",
        classes=classes[0] if classes else None,
        revision=weights.revision,
        segments=segments,
        seed=weights.seed,
    )
    return model, source, read_labels(weights.source, weights.revision, model.linear.out_features)


def _refuse_segments(segments: int) -> None:
    if segments != 1:
        raise ExportError(f"segments is {segments}; an image classifier looks at one clip, a video's probe at several")


def _load_predictive(request: ExportRequest, encoder: Encoder) -> Headed:
    weights = request.weights
    model = request.predictor or (weights.model if isinstance(weights.model, str) else None)
    predictor = load_predictor(
        weights.source,
        model=model,
        clip=encoder.clip,
        side=request.predictor_side,
        revision=weights.revision,
        seed=weights.seed,
    )
    return PredictiveEncoder(encoder, predictor, context_only=request.context_only)


def _load_anticipation(request: ExportRequest, encoder: Encoder) -> Headed:
    weights, clip = request.weights, encoder.clip
    name = weights.model if isinstance(weights.model, str) else None
    ahead = AHEAD if request.ahead is None else request.ahead
    future = replace(clip, frames=clip.frames + (max(ahead, 0) // clip.tubelet + 1) * clip.tubelet)
    predictor = load_predictor(
        request.encoder or weights.source, model=request.predictor or name, clip=future, seed=weights.seed
    )
    counts = _counts(request.classes, 3)
    classes = (counts[0], counts[1], counts[2]) if counts else None
    return load_anticipation(
        weights.source,
        encoder=encoder,
        predictor=predictor,
        model=_name_probe(request),
        classes=classes,
        ahead=ahead,
        seed=weights.seed,
    )


def _load_action(request: ExportRequest) -> tuple[Headed, Source]:
    weights = request.weights
    steps = _STEPS if weights.frames is None else weights.frames
    encoder, source = load_checkpoint(replace(weights, frames=_IMAGE_FRAMES))
    predictor = load_action_predictor(
        weights.source,
        model=request.action or (weights.model if isinstance(weights.model, str) else "vitg-ac"),
        steps=steps,
        size=(encoder.clip.height, encoder.clip.width),
        seed=weights.seed,
    )
    return ActionEncoder(encoder, predictor), source


def _with_random_head(request: ExportRequest) -> ExportRequest:
    """What stands on an encoder of hard weights is random: hard ones are made for an encoder alone."""
    if request.weights.source != HARD:
        return request
    return replace(request, weights=replace(request.weights, source=RANDOM))


def _name_probe(request: ExportRequest) -> str | ProbeSpec | None:
    """The row of the table that a probe is held to; an encoder cut to fewer layers, or of no row, is that of none."""
    model = request.weights.model
    if request.weights.layers is None and not isinstance(model, ModelSpec):
        return model
    release = RELEASES.get(model) if isinstance(model, str) else None
    return replace(release.probe, layers=()) if release and release.probe else ProbeSpec()


def _counts(classes: int | tuple[int, ...] | None, needed: int) -> tuple[int, ...] | None:
    """As many counts as the head has layers; None if none was given."""
    if classes is None:
        return None
    counts = classes if isinstance(classes, tuple) else (classes,)
    if min(counts) < 1:
        raise ExportError(f"classes is {min(counts)}; it must be at least 1")
    if len(counts) != needed:
        raise ExportError(f"classes are {', '.join(map(str, counts))}; this head needs {needed}")
    return counts
