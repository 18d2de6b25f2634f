"""Which engines does a bundle hold, which of them runs here, and is it what compile wrote?

A plan is native code: whoever can write it runs what he likes. Its folder is its owner's alone, and every byte is
hashed in the memory that TensorRT then reads.
"""

import hashlib
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vjepa2.bundle import MANIFEST, REFERENCE, WEIGHTS, Bundle
from vjepa2.engine_manifest import (
    EngineManifest,
    Machine,
    decode_engine_manifest,
    encode_engine_manifest,
    engine_name,
)
from vjepa2.errors import EngineError
from vjepa2.manifest import MAX_BYTES, FileInfo, hash_manifest
from vjepa2.publish import explain, publish_folder, sync

ENGINES = "engines"
PLAN = "engine.plan"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_OWNER_ONLY = 0o700
_ROOT = 0


@dataclass(frozen=True, slots=True)
class Engine:
    """A plan in memory whose bytes were hashed there, and its manifest."""

    path: Path
    manifest: EngineManifest
    plan: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineListing:
    """One folder of a bundle's engines, without its plan being read."""

    name: str  # "*": of all that are there, as their folder cannot be read
    manifest: EngineManifest | None  # None where `faults` say why it cannot be read
    faults: tuple[str, ...]  # why it does not run here; none: it does, if its plan is whole
    rebuild: str  # the command


def open_engine(bundle: Bundle, here: Machine) -> Engine:
    """The bundle's engine for the machine `here`; an `EngineError` says what differs and which command rebuilds."""
    folder, manifest = find_engine(bundle, here)
    try:
        with _explained(folder):
            return Engine(folder, manifest, _read_plan(folder, manifest.plan))
    except EngineError as error:
        raise EngineError(f"{error}; run: {_command(bundle)}") from error


def find_engine(bundle: Bundle, here: Machine) -> tuple[Path, EngineManifest]:
    """The folder and manifest of the engine that `open_engine` opens, its plan not yet read."""
    listings = list_engines(bundle, here)
    for listing in listings:
        if not listing.faults and listing.manifest is not None:
            return bundle.path / ENGINES / listing.name, listing.manifest
    found = "; ".join(f"{listing.name}: {', '.join(listing.faults)}" for listing in listings)
    raise EngineError(
        f"{bundle.path.resolve().name} has no engine for this machine ({found or 'it has none at all'}); "
        f"run: {_command(bundle)}"
    )


def list_engines(bundle: Bundle, here: Machine | None = None) -> tuple[EngineListing, ...]:
    """Every engine of a bundle by name, with what keeps it from running `here`; None: on its own machine."""
    folder = bundle.path / ENGINES
    try:
        with _explained(folder):
            names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    except EngineError as error:
        return (_unread(bundle, "*", error),)
    return tuple(_list_one(bundle, name, here) for name in names if not name.startswith("."))  # a draft


def write_engine(bundle: Bundle, manifest: EngineManifest, plan: bytes) -> Path:
    """Put an engine into its bundle, whole or not at all, readable by its owner alone; its folder.

    The hashes of the plan, of the bundle and of what the engine was built from are filled in here. An earlier engine
    of the same machine and precision is replaced.
    """
    if not manifest.verdict.passed:
        raise EngineError(f"the engine did not pass its gate ({manifest.verdict}); it is not kept")
    sealed = replace(
        manifest,
        bundle_sha256=hash_manifest(bundle.manifest),
        built_from={name: bundle.manifest.files[name] for name in _sources(manifest.graph)},
        plan=FileInfo(sha256=hashlib.sha256(plan).hexdigest(), bytes=len(plan)),
    )
    target = bundle.path / ENGINES / engine_name(manifest.machine, manifest.precision)
    try:
        target.parent.mkdir(mode=_OWNER_ONLY, exist_ok=True)
        try:
            with publish_folder(target, mode=_OWNER_ONLY) as draft:
                _write(draft / PLAN, plan)
                _write(draft / MANIFEST, encode_engine_manifest(sealed))
                sync(draft)
        finally:
            with suppress(OSError):
                target.parent.rmdir()  # if it is empty
    except OSError as error:
        raise EngineError(explain(target, error)) from error
    return target


def _list_one(bundle: Bundle, name: str, here: Machine | None) -> EngineListing:
    try:
        with _explained(bundle.path / ENGINES / name):
            manifest = _read_manifest(bundle, name)
    except EngineError as error:
        return _unread(bundle, name, error)
    faults = () if here is None else manifest.machine.differences(here)
    return EngineListing(name=name, manifest=manifest, faults=faults, rebuild=_command(bundle))


def _unread(bundle: Bundle, name: str, error: EngineError) -> EngineListing:
    return EngineListing(name=name, manifest=None, faults=(str(error),), rebuild=_command(bundle))


def _command(bundle: Bundle) -> str:
    return f"vjepa2 compile {shlex.quote(str(bundle.path))}"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Let what cannot be read below `path` be an `EngineError` that says whose it is."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename or path)
        with suppress(OSError):
            owner = place.lstat().st_uid
            if owner != os.getuid():
                raise EngineError(
                    f"{place} cannot be read: {error.strerror}; it belongs to user {owner}, not to you "
                    f"({os.getuid()}): run this as that user, or have it removed"
                ) from error
        raise EngineError(f"{place} cannot be read: {error.strerror}") from error


def _sources(graph: str) -> tuple[str, ...]:
    return graph, WEIGHTS, REFERENCE


def _read_manifest(bundle: Bundle, name: str) -> EngineManifest:
    folder = bundle.path / ENGINES / name
    if not _NAME.fullmatch(name):
        raise EngineError(f"{name!r} is not an engine's name; names are letters, digits, '.', '_' and '-'")
    for place in (folder.parent, folder):
        _check_private(place, stat.S_ISDIR, "a folder")
    present = {entry.name for entry in folder.iterdir()}
    if present != {MANIFEST, PLAN}:
        raise EngineError(f"{folder} holds {sorted(present)}; an engine is {PLAN} and {MANIFEST}")
    _check_private(folder / PLAN, stat.S_ISREG, "a regular file")
    _check_private(folder / MANIFEST, stat.S_ISREG, "a regular file")
    size = (folder / MANIFEST).stat().st_size
    if size > MAX_BYTES:
        raise EngineError(f"{folder / MANIFEST} has {size} bytes; a manifest has at most {MAX_BYTES}")
    manifest = decode_engine_manifest(_read(folder / MANIFEST))
    faults = list(_find_strangeness(bundle, name, manifest))
    if faults:
        raise EngineError(f"{folder} {', and '.join(faults)}")
    return manifest


def _find_strangeness(bundle: Bundle, name: str, manifest: EngineManifest) -> Iterator[str]:
    """What a manifest says that cannot be said of an engine of this bundle."""
    files = bundle.manifest.files
    if manifest.bundle_sha256 != hash_manifest(bundle.manifest):
        yield "was built from another export of this bundle"
    if manifest.built_from != {source: files.get(source) for source in _sources(manifest.graph)}:
        yield f"was built from other files than this bundle's {', '.join(_sources(manifest.graph))}"
    if manifest.precision != bundle.manifest.precision:
        yield f"is {manifest.precision}; its bundle is {bundle.manifest.precision}"
    if name != engine_name(manifest.machine, manifest.precision):
        yield f"is the engine of {engine_name(manifest.machine, manifest.precision)} under another name"
    if not manifest.verdict.passed:
        yield "did not pass its gate"


def _read_plan(folder: Path, info: FileInfo) -> bytes:
    plan = _read(folder / PLAN)
    if len(plan) != info.bytes:
        raise EngineError(f"{folder / PLAN} has {len(plan)} bytes; its manifest says {info.bytes}")
    if hashlib.sha256(plan).hexdigest() != info.sha256:
        raise EngineError(f"{folder / PLAN} was changed after compile (sha256 differs)")
    return plan


def _check_private(path: Path, is_kind: Callable[[int], bool], kind: str) -> None:
    """Raise `EngineError` unless `path` is of its kind, no link, and nobody else can write it."""
    found = path.lstat()
    if not is_kind(found.st_mode):
        raise EngineError(f"{path} is not {kind}; an engine holds no links")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineError(f"{path} can be written by others ({stat.filemode(found.st_mode)}); a plan is native code")
    if found.st_uid not in (os.getuid(), _ROOT):
        raise EngineError(f"{path} belongs to user {found.st_uid}, not to you ({os.getuid()}); a plan is native code")


def _read(file: Path) -> bytes:
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
        return stream.read()


def _write(file: Path, data: bytes) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(data)
    sync(file)
