"""Where do weights come from: a released checkpoint, in either layout, strictly, or a seed."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vjepa2.checkpoint_files import SafetensorsState, fetch_repository, read_meta_checkpoint, weight_files
from vjepa2.encoder import Encoder
from vjepa2.errors import CheckpointError
from vjepa2.filling import fill_module
from vjepa2.folder_model import CONFIG, FolderModel, read_model
from vjepa2.hard_weights import HARD_WARNING, fill_hard
from vjepa2.manifest import Source
from vjepa2.names import HUGGING_FACE_OTHERS, META_OTHERS, huggingface_names, meta_name
from vjepa2.publish import sha256_of
from vjepa2.registry import FILES, RELEASES, find_release
from vjepa2.spec import ClipSpec, ModelSpec
from vjepa2.weights import RANDOM_WARNING, fill_random

RANDOM = "random"
HARD = "hard"  # random weights that are hard for 16 bits
META_KEYS = ("encoder", "target_encoder", "ema_encoder")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which weights, into which model, for which clip."""

    source: str
    model: str | ModelSpec | None = None
    key: str | None = None
    revision: str | None = None
    clip: ClipSpec | None = None  # or, where only a part of the trained clip is to change:
    frames: int | None = None  # one is V-JEPA 2.1's image
    is_image: bool = False  # as many frames as the model shows an image as, where `frames` does not say
    size: tuple[int, int] | None = None  # pixels, height and width
    seed: int | None = None
    layers: int | None = None  # keep only the first blocks


def load_encoder(
    source: str | Path,
    *,
    model: str | ModelSpec | None = None,
    key: str | None = None,
    revision: str | None = None,
    clip: ClipSpec | None = None,
    seed: int | None = None,
) -> Encoder:
    """A float32 encoder in evaluation mode for clips of shape `clip`, or of the trained shape.

    `source` is a model's name (its released checkpoint), a Hugging Face id, a folder in Hugging Face's layout, a
    Meta `.pt` file (needs `model`, and of V-JEPA 2 `key`, "encoder" or "target_encoder"), or "random" or "hard" (need
    `model`, take `seed`). A parameter that is missing, left over or of the wrong shape is a `CheckpointError` that
    lists it.
    """
    request = Request(source=str(source), model=model, key=key, revision=revision, clip=clip, seed=seed)
    return load_checkpoint(request)[0]


def load_checkpoint(request: Request) -> tuple[Encoder, Source]:
    """The encoder that was asked for, and where its weights came from."""
    path = Path(request.source)
    if request.source in (RANDOM, HARD):
        return _load_random(request)
    _refuse(request, "seed", "only random weights take a seed")
    if path.is_file():
        return _load_meta(path, request)
    _refuse(request, "key", "only a Meta .pt file takes a key")
    if path.is_dir():
        _refuse(request, "revision", "a local folder has no revisions")
        return _load_folder(path, request, Source(name=path.resolve().name, files={}, layers=request.layers))
    return _load_repository(request)


def _load_random(request: Request) -> tuple[Encoder, Source]:
    _refuse(request, "key", "random weights have no key")
    _refuse(request, "revision", "random weights have no revisions")
    seed = request.seed or 0
    if not 0 <= seed < 2**31:
        raise CheckpointError(f"seed is {seed}; it must be from 0 to {2**31 - 1}")
    encoder = _empty_encoder(_asked_spec(request), request)
    fill, warning = (fill_hard, HARD_WARNING) if request.source == HARD else (fill_random, RANDOM_WARNING)
    fill(encoder, seed)
    source = Source(name=request.source, seed=seed, files={}, layers=request.layers, warning=warning)
    return encoder.eval(), source


def _load_meta(file: Path, request: Request) -> tuple[Encoder, Source]:
    _refuse(request, "revision", "a local file has no revisions")
    key = request.key or _only_key(request)
    if key not in META_KEYS:
        raise CheckpointError(
            f"{file.name} may hold several encoders and key is {request.key!r}; choose {' or '.join(META_KEYS)}"
        )
    spec = _asked_spec(request)
    state = {meta_name(name): tensor for name, tensor in read_meta_checkpoint(file, key).items()}
    theirs = {name: (name,) for name in _parameter_names(spec)}
    encoder = _empty_encoder(spec, request)
    fill_module(encoder, spec.name, state, theirs, META_OTHERS, file)
    hashes = {file.name: sha256_of(file)}
    return encoder.eval(), Source(name=file.name, key=key, files=hashes, layers=request.layers)


def _load_repository(request: Request) -> tuple[Encoder, Source]:
    release = RELEASES.get(request.source)
    repository, revision = find_repository(request.source, request.revision)
    if release:
        request = replace(request, model=request.model or release.spec.name)
    folder, commit = fetch_repository(repository, revision)
    return _load_folder(folder, request, Source(name=repository, revision=commit, files={}, layers=request.layers))


def find_repository(source: str, revision: str | None) -> tuple[str, str | None]:
    """The Hugging Face id and revision of a released model's name, or of an id."""
    release = RELEASES.get(source)
    repository = release.repository if release else source
    if repository is not None and _REPOSITORY.fullmatch(repository):
        return repository, revision or (release.revision if release else None)
    if release and release.file:
        raise CheckpointError(
            f"{source} is released as a file alone: fetch {FILES}{release.file} and give its path with model {source}"
        )
    released = ", ".join(name for name, row in RELEASES.items() if row.repository)
    raise CheckpointError(f"{source!r} is no folder, no file, no Hugging Face id and no released model ({released})")


def _load_folder(folder: Path, request: Request, source: Source) -> tuple[Encoder, Source]:
    held = read_model(folder, source.name)
    spec = held.spec
    if request.model is not None:
        asked = _asked_spec(request)
        if replace(spec, name=asked.name, clip=asked.clip) != asked:
            raise CheckpointError(f"{source.name} holds {spec}; {asked.name} is {asked}")
        spec = replace(spec, name=asked.name)
    files = weight_files(folder)
    state = SafetensorsState(files)
    theirs, others = _names_in_folder(held, state)
    encoder = _empty_encoder(spec, request, held.clip)
    fill_module(encoder, spec.name, state, theirs, others, folder)
    hashes = {file.name: sha256_of(file) for file in [folder / CONFIG, *files]}
    return encoder.eval(), replace(source, files=hashes)


def _names_in_folder(held: FolderModel, state: SafetensorsState) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Which tensors each parameter of the encoder is, and what the names of others begin with."""
    names = _parameter_names(held.spec)
    if held.is_ours:
        return {name: (f"encoder.{name}",) for name in names}, ("pooler.", "head.")
    prefix = "vjepa2." if any(name.startswith("vjepa2.") for name in state) else ""
    theirs = {name: tuple(prefix + part for part in huggingface_names(name)) for name in names}
    return theirs, (*HUGGING_FACE_OTHERS, *(prefix + other for other in HUGGING_FACE_OTHERS))


def _only_key(request: Request) -> str | None:
    """The key of a released file that has one encoder for use, as V-JEPA 2.1's have."""
    keys = find_release(request.model).keys if isinstance(request.model, str) else ()
    return keys[0] if len(keys) == 1 else None


def _asked_spec(request: Request) -> ModelSpec:
    if request.model is None:
        raise CheckpointError(f"{request.source} does not say which model it is; name one of {', '.join(RELEASES)}")
    return request.model if isinstance(request.model, ModelSpec) else find_release(request.model).spec


def _empty_encoder(spec: ModelSpec, request: Request, trained: ClipSpec | None = None) -> Encoder:
    """The encoder without values, cut to the layers that were asked for."""
    if request.layers is not None:
        spec = spec.cut(request.layers)
    with torch.device("meta"):
        return Encoder(spec, choose_clip(spec, request, trained))


def choose_clip(spec: ModelSpec, request: Request, trained: ClipSpec | None = None) -> ClipSpec:
    """The clip that was asked for; what was not said is as in `trained`, or if that is None as the model's own."""
    trained = trained or spec.clip
    frames = spec.image_frames if request.is_image else trained.frames
    height, width = request.size or (trained.height, trained.width)
    return request.clip or spec.make_clip(frames if request.frames is None else request.frames, height, width)


def _parameter_names(spec: ModelSpec) -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in Encoder(spec).named_parameters()]


def _refuse(request: Request, option: str, why: str) -> None:
    value = getattr(request, option)
    if value is not None:
        raise CheckpointError(f"{why}; {request.source} was given {value!r}")
