"""What is on disk where Triton serves a bundle: a repository for its graph, one for each plan, and a script?

    REPO/repository.json                 every other file's hash, and the bundle's
    REPO/start.sh
    REPO/onnx/NAME/config.pbtxt          and 1/model.onnx with its weights
    REPO/ENGINE/NAME/config.pbtxt        and 1/model.plan

A server loads all of its repository or ends, and a plan loads on its own GPU alone, so each stands by itself. The model
has the same NAME in all of them: a client does not see which one is served.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from vjepa2.bundle import ONNXRUNTIME, Bundle
from vjepa2.engine_folder import Engine, list_engines, open_engine
from vjepa2.engine_manifest import EngineManifest
from vjepa2.errors import BundleError, EngineError
from vjepa2.external_data import find_external_tensors
from vjepa2.manifest import MAX_BYTES, FileInfo, Manifest, hash_manifest, seal_record
from vjepa2.publish import explain, publish_folder, sha256_of, sync
from vjepa2.schema import read_record

from .triton_config import LABELS, VERSION, ServeOptions, write_labels, write_onnx_config, write_plan_config
from .triton_start import START, write_start

RECORD = "repository.json"
SCHEMA = 1
ONNX = "onnx"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BLOCK = 1 << 20
_MODE, _MODE_RUN = 0o644, 0o755  # whoever can write a plan or a script runs what he likes


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written, and what was not."""

    path: Path
    model: str
    repositories: tuple[str, ...]  # folders below `path`, for `start.sh`
    left_out: str | None  # why the graph is not among them
    notes: tuple[str, ...]  # what a user may have wanted otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What a repository says of itself."""

    schema: int
    model: str
    bundle_sha256: str
    repositories: tuple[str, ...]
    files: dict[str, FileInfo]  # by path below the repository


def write_repository(bundle: Bundle, target: Path, *, name: str | None = None, options: ServeOptions) -> Written:
    """Write what serves `bundle`, whole or not at all; what we wrote at `target` before is replaced in one step.

    `BundleError` if nothing of the bundle can be served as what it says it is, if an engine is not whole, or if
    something that we did not write is at `target`.
    """
    place = target.absolute()
    model = _choose_name(bundle, name)
    _check_place(bundle, place)
    _check_batch(bundle.manifest)
    engines = _read_engines(bundle)
    left_out = _find_obstacle(bundle, engines)
    repositories = (*((ONNX,) if left_out is None else ()), *engines)
    try:
        with publish_folder(place) as draft:
            if left_out is None:
                _write_onnx(draft / ONNX / model, bundle, options)
            for engine, described in engines.items():
                _write_plan(draft / engine / model, bundle, described, options)
            _write_file(draft / START, write_start(repositories).encode(), mode=_MODE_RUN)
            _seal(draft, bundle, model, repositories)
    except OSError as error:
        raise BundleError(explain(place, error)) from error
    return Written(
        path=target, model=model, repositories=repositories, left_out=left_out, notes=tuple(_note(bundle.manifest))
    )


def _choose_name(bundle: Bundle, name: str | None) -> str:
    chosen = bundle.path.resolve().name if name is None else name
    if not _NAME.fullmatch(chosen):
        raise BundleError(
            f"the model's name is {chosen!r}; Triton's are letters, digits, '.', '_' and '-': give another with --name"
        )
    return chosen


def _check_place(bundle: Bundle, place: Path) -> None:
    if bundle.path.resolve() in (place.resolve(), *place.resolve().parents):
        raise BundleError(f"{place} is inside the bundle, which holds its own files alone; choose another folder")
    if place.is_symlink():
        raise BundleError(f"{place} is a link; give the folder it points to")
    if place.exists():
        _refuse_strangers(place)


def _refuse_strangers(place: Path) -> None:
    """Raise `BundleError` unless `place` holds what a record of ours names, and nothing else."""
    file = place / RECORD
    if not file.is_file() or file.is_symlink() or file.stat().st_size > MAX_BYTES:
        raise BundleError(f"{place} exists and was not written by vjepa2 triton (no {RECORD}); choose another folder")
    try:
        content = json.loads(file.read_bytes())
        sealed = content.pop("self_sha256")
        named = set(read_record(_Record, content, RECORD).files)
        is_ours = json.loads(seal_record(content))["self_sha256"] == sealed
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, BundleError) as error:
        raise BundleError(f"{file} is not what vjepa2 triton wrote ({error}); choose another folder") from error
    if not is_ours:
        raise BundleError(f"{file} was changed (its self_sha256 differs); choose another folder")
    foreign = sorted(set(_list_files(place)) - named - {RECORD})
    if foreign:
        raise BundleError(f"{place} holds {foreign[:5]}, which vjepa2 triton did not write; move them elsewhere first")


def _list_files(folder: Path) -> Iterator[str]:
    """Everything below `folder` that is not a folder, by its path from there, sorted."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def _check_batch(manifest: Manifest) -> None:
    if manifest.batch not in ("dynamic", 1):
        raise BundleError(
            f"the bundle's batch is {manifest.batch}, so that every request would have to bring {manifest.batch} "
            "clips; export it with --batch dynamic, or 1"
        )


def _find_obstacle(bundle: Bundle, engines: dict[str, EngineManifest]) -> str | None:
    """Why Triton's ONNX Runtime would not compute the bundle as it says; an error if no plan is there to serve."""
    manifest = bundle.manifest
    reason = None
    if manifest.precision != "fp32":
        reason = (
            f"the bundle is {manifest.precision}, which Triton's ONNX Runtime would compute in part in another "
            "precision without saying so"
        )
    elif ONNXRUNTIME not in manifest.graphs:
        reason = f"the bundle holds {', '.join(manifest.graphs)} and no {ONNXRUNTIME}"
    if reason is not None and not engines:
        raise BundleError(
            f"{reason}, and there is no plan to serve instead; run vjepa2 compile {bundle.path} on the GPU that is to "
            "serve it, or export fp32"
        )
    return reason


def _note(manifest: Manifest) -> Iterator[str]:
    if manifest.batch == 1:
        yield (
            "the bundle's batch is 1: each request is a call of its own, and they wait in a bounded queue; export with "
            "--batch dynamic and Triton joins them"
        )
    if manifest.graph_input != "frames":
        yield (
            f"the graph takes {manifest.graph_input}, float32 that each client normalises, four times the bytes of "
            "uint8; export with --input frames and the graph does it"
        )
    if manifest.source.warning:
        yield manifest.source.warning


def _read_engines(bundle: Bundle) -> dict[str, EngineManifest]:
    found: dict[str, EngineManifest] = {}
    for listing in list_engines(bundle):
        if listing.manifest is None:
            raise EngineError(f"{'; '.join(listing.faults)}; remove it, or run: {listing.rebuild}")
        found[listing.name] = listing.manifest
    return found


def _write_onnx(folder: Path, bundle: Bundle, options: ServeOptions) -> None:
    graph = (bundle.path / ONNXRUNTIME).read_bytes()
    _check_hash(bundle, ONNXRUNTIME, hashlib.sha256(graph).hexdigest())
    version = _start_model(folder, bundle.manifest, write_onnx_config(folder.name, bundle.manifest, options))
    _write_file(version / "model.onnx", graph)
    for name in sorted({tensor.location for tensor in find_external_tensors(graph)}):
        _copy(bundle, name, version / name)


def _write_plan(folder: Path, bundle: Bundle, described: EngineManifest, options: ServeOptions) -> None:
    engine: Engine = open_engine(bundle, described.machine)  # hashes the plan in memory
    config = write_plan_config(folder.name, bundle.manifest, engine.manifest, options)
    _write_file(_start_model(folder, bundle.manifest, config) / "model.plan", engine.plan)


def _start_model(folder: Path, manifest: Manifest, config: str) -> Path:
    """A model's folder with all but what is computed; the folder for that."""
    version = folder / str(VERSION)
    for place in (folder.parent, folder, version):
        place.mkdir(mode=_MODE_RUN)
    _write_file(folder / "config.pbtxt", config.encode())
    labels = write_labels(manifest)
    if labels is not None:
        _write_file(folder / LABELS, labels.encode())
    return version


def _copy(bundle: Bundle, name: str, target: Path) -> None:
    """Copy a file of the bundle, hashing what is written: it may be changed since it was opened."""
    digest = hashlib.sha256()
    with (bundle.path / name).open("rb") as source, _create(target, _MODE) as stream:
        while block := source.read(_BLOCK):
            digest.update(block)
            stream.write(block)
    _check_hash(bundle, name, digest.hexdigest())


def _check_hash(bundle: Bundle, name: str, sha256: str) -> None:
    if sha256 != bundle.manifest.files[name].sha256:
        raise BundleError(f"{bundle.path / name} was changed while it was copied (sha256 differs); export again")


def _write_file(file: Path, data: bytes, *, mode: int = _MODE) -> None:
    with _create(file, mode) as stream:
        stream.write(data)


def _create(file: Path, mode: int) -> BinaryIO:
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")


def _seal(draft: Path, bundle: Bundle, model: str, repositories: tuple[str, ...]) -> None:
    """Put every file on the disk and its hash into the record."""
    files = {}
    for name in _list_files(draft):
        file = draft / name
        files[name] = FileInfo(sha256=sha256_of(file), bytes=file.stat().st_size)
        sync(file)
    record = _Record(
        schema=SCHEMA,
        model=model,
        bundle_sha256=hash_manifest(bundle.manifest),
        repositories=repositories,
        files=files,
    )
    _write_file(draft / RECORD, seal_record(asdict(record)))
    for path in (draft / RECORD, *(path for path in draft.rglob("*") if path.is_dir()), draft):
        sync(path)
