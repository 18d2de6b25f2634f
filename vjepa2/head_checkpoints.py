"""Where do the weights of predictors and probes come from: as those of encoders, a released file or a seed."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from vjepa2.action_predictor import ActionPredictor
from vjepa2.anticipation import AHEAD, ActionAnticipation
from vjepa2.checkpoint_files import fetch_repository
from vjepa2.checkpoints import HARD, RANDOM, find_repository, load_encoder
from vjepa2.encoder import Encoder
from vjepa2.errors import CheckpointError
from vjepa2.folder_model import read_config, read_model, read_predictor
from vjepa2.head_specs import ActionSpec, PredictorSpec, ProbeSpec
from vjepa2.heads import VideoClassifier
from vjepa2.part_tensors import PartPlace, count_classes, fill_part, refuse_other_width
from vjepa2.predictor import Predictor
from vjepa2.registry import RELEASES, Release, find_release
from vjepa2.spec import ClipSpec

# Whose probe: of 16 heads over the layers it was trained on, or with its encoder's heads over the last layer alone.
ProbeOf = Literal["meta", "transformers"]


def load_predictor(
    source: str | Path,
    *,
    model: str | PredictorSpec | None = None,
    clip: ClipSpec | None = None,
    side: int | None = None,
    revision: str | None = None,
    seed: int | None = None,
) -> Predictor:
    """A masked predictor in evaluation mode for tokens of clips of shape `clip`, or of the trained shape.

    `source` is what `load_encoder` takes; a Meta `.pt` file and "random" need `model`. `side` rescales V-JEPA 2.1's
    rows and columns as the encoder's are with 16, which its training did; None is as its makers publish it: not.
    """
    folder = _find_folder(source, revision)
    release = _release_of(source, model)
    spec = model if isinstance(model, PredictorSpec) else release and release.predictor
    if folder:
        spec, clip = spec or read_predictor(folder), clip or read_model(folder, folder.name).clip
    clip = clip or (release.spec.clip if release else None)
    if not spec or not clip:
        raise CheckpointError(f"{source} does not say which predictor it is; give model, or model and clip")
    if side is not None:
        if spec.positions != "interleaved":
            raise CheckpointError(f"side is {side}; only V-JEPA 2.1's positions are rescaled: leave it out")
        spec = replace(spec, side=side)
    with torch.device("meta"):
        predictor = Predictor(spec, clip)
    fill_part(predictor, PartPlace(source, folder, "predictor", ("predictor.",)), seed)
    return predictor.eval()


def load_action_predictor(
    source: str | Path,
    *,
    model: str | ActionSpec = "vitg-ac",
    steps: int = 8,
    size: tuple[int, int] = (256, 256),
    seed: int | None = None,
) -> ActionPredictor:
    """V-JEPA 2-AC's predictor for at most `steps` images of `size` pixels, from its `.pt` file, or "random"."""
    spec = model if isinstance(model, ActionSpec) else find_release(model).action
    if spec is None:
        raise CheckpointError(f"{model} has no action-conditioned predictor; vitg-ac has one")
    if source != RANDOM and not Path(source).is_file():
        raise CheckpointError(f"{source} is no file; V-JEPA 2-AC is released as a .pt file alone")
    with torch.device("meta"):
        predictor = ActionPredictor(spec, ClipSpec(frames=2 * steps, height=size[0], width=size[1]))
    fill_part(predictor, PartPlace(source, None, "predictor"), seed)
    return predictor.eval()


def load_classifier(
    source: str | Path,
    *,
    model: str | ProbeSpec | None = None,
    encoder: Encoder | None = None,
    probe: ProbeOf = "meta",
    classes: int | None = None,
    clip: ClipSpec | None = None,
    segments: int = 1,
    revision: str | None = None,
    seed: int | None = None,
) -> VideoClassifier:
    """A video classifier in evaluation mode.

    `source` is what `load_encoder` takes. Meta's `.pt` files hold the probe alone and need the `encoder`, and `model`,
    the row of the table or a `ProbeSpec`; a folder, a Hugging Face id or a released name brings its own encoder. A row
    refuses an encoder that it does not stand on; of a `ProbeSpec` only the width is compared. A folder does not say
    which layers its probe took: without `model` it is the last alone, which is right for all but Diving48's. `classes`
    is for random weights; a file says them itself. The pooler takes the tokens of `segments` clips together; with how
    many a released probe was evaluated, its row says.
    """
    folder, name = _find_folder(source, revision), model if isinstance(model, str) else None
    if encoder is None:
        if not folder and source != RANDOM:
            raise CheckpointError(f"{source} holds a probe and no encoder; load the encoder first and give it")
        encoder = load_encoder(source, model=name, clip=clip, revision=revision, seed=seed)
    known = _find_probe(source, model, encoder)
    if probe == "transformers":
        known = replace(known, heads=encoder.spec.heads, eps=1e-6, layers=())
    place = PartPlace(source, folder, "classifiers", ("pooler.", "classifier."))
    count = count_classes(place, ("linear",), (classes,) if classes else known.classes)[0]
    refuse_other_width(place, encoder)
    _refuse_other_classes(source, known, (count,))
    with torch.device("meta"):
        module = VideoClassifier(
            encoder, count, heads=known.heads, eps=known.eps, layers=known.layers, segments=segments
        )
    fill_part(nn.ModuleDict({"pooler": module.pooler, "linear": module.linear}), place, seed)
    return module.eval()


def load_anticipation(
    source: str | Path,
    *,
    encoder: Encoder,
    predictor: Predictor,
    model: str | ProbeSpec | None = None,
    classes: tuple[int, int, int] | None = None,
    ahead: int = AHEAD,
    seed: int | None = None,
) -> ActionAnticipation:
    """The EPIC-KITCHENS-100 probe of a Meta `.pt` file, or "random" with counts of `classes`, on what it stands on.

    A file needs `model`, the row of the table or a `ProbeSpec`, as in `load_classifier`. What is anticipated is `ahead`
    frames from the end of the clip; the `predictor` must be built for a clip that reaches so far, and a tubelet more.
    """
    known = _find_probe(source, model, encoder)
    if source != RANDOM and not Path(source).is_file():
        raise CheckpointError(f"{source} is no file; anticipation is released as .pt files alone")
    place = PartPlace(source, None, "classifiers")
    parts = ("verb_classifier", "noun_classifier", "action_classifier")
    verbs, nouns, actions = count_classes(place, parts, classes or ())
    refuse_other_width(place, encoder)
    with torch.device("meta"):
        module = ActionAnticipation(
            encoder, predictor, (verbs, nouns, actions), ahead=ahead, heads=known.heads, eps=known.eps
        )
    fill_part(
        nn.ModuleDict({"pooler": module.pooler, **{part: module.get_submodule(part) for part in parts}}), place, seed
    )
    return module.eval()


def read_labels(source: str | Path, revision: str | None, classes: int) -> tuple[str, ...] | None:
    """What a folder in Hugging Face's layout calls its `classes` classes; None if it does not name each."""
    folder = _find_folder(source, revision)
    table = read_config(folder).get("id2label") if folder else None
    if not isinstance(table, dict) or set(table) != {str(number) for number in range(classes)}:
        return None
    return tuple(str(table[str(number)]) for number in range(classes))


def read_evaluation(source: str | Path, model: object) -> ProbeSpec | None:
    """How a released probe was evaluated, as its row of the table says; None of random weights and of other probes."""
    release = None if str(source) in (RANDOM, HARD) else _release_of(source, model)
    return release.probe if release else None


def _find_folder(source: str | Path, revision: str | None) -> Path | None:
    """The folder in Hugging Face's layout that `source` is, or names; None for random weights and single files."""
    if source == RANDOM or Path(source).is_file():
        if revision is not None:
            raise CheckpointError(f"{source} has no revisions; it was given {revision!r}")
        return None
    if Path(source).is_dir():
        return Path(source)
    return fetch_repository(*find_repository(str(source), revision))[0]


def _release_of(source: str | Path, model: object) -> Release | None:
    """The table's row that `model` names, or if nothing else says what it is `source`, as a name or a repository."""
    if isinstance(model, str):
        return find_release(model)
    rows = (row for row in RELEASES.values() if str(source) in (row.spec.name, row.repository))
    return next(rows, None)


def _find_probe(source: str | Path, model: str | ProbeSpec | None, encoder: Encoder) -> ProbeSpec:
    """What the probe is; a row of the table refuses an encoder that it was not trained on."""
    if isinstance(model, ProbeSpec):
        return model
    release = _release_of(source, model)
    if release is None and Path(source).is_file():
        probes = ", ".join(name for name, row in RELEASES.items() if row.probe)
        raise CheckpointError(
            f"{source} does not say on which encoder its probe was trained; give model, one of {probes}, or of a "
            "probe of your own a ProbeSpec"
        )
    if release:
        _refuse_other_encoder(release, encoder)
    return release.probe if release and release.probe else ProbeSpec()


def _refuse_other_encoder(release: Release, encoder: Encoder) -> None:
    """Encoders of one width differ in other things, which the probe's file cannot show and its row can.

    ViT-g was trained for two sizes, and then it is the name alone that tells them apart.
    """
    named = RELEASES.get(encoder.spec.name)
    base = release.base or release.spec.name
    is_other = replace(release.spec, name="", clip=encoder.spec.clip) != replace(encoder.spec, name="")
    if is_other or (named and (named.base or named.spec.name) != base):
        raise CheckpointError(
            f"{release.spec.name} stands on {base}; the encoder given is {encoder.spec.name}, {encoder.spec}"
        )


def _refuse_other_classes(source: str | Path, known: ProbeSpec, classes: tuple[int, ...]) -> None:
    if source != RANDOM and known.classes and known.classes != classes:
        raise CheckpointError(
            f"{source} holds a probe of {classes[0]} classes; the one that was named has {known.classes[0]}: name the "
            "model that the file is of"
        )
