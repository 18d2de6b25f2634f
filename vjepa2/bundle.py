"""What lies between export and runtime: a folder that is whole and unchanged, or is not opened."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vjepa2.errors import BundleError
from vjepa2.external_data import find_external_tensors
from vjepa2.manifest import MAX_BYTES, FileInfo, Manifest, decode_manifest, encode_manifest
from vjepa2.publish import explain, publish_folder, sha256_of, sync

MANIFEST = "manifest.json"
PORTABLE = "portable.onnx"
ONNXRUNTIME = "onnxruntime.onnx"
WEIGHTS = "weights.data"
REFERENCE = "reference.npz"
NOT_COVERED = ("engines", "reports")  # engines have manifests of their own; nothing is loaded from reports

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A finished export on disk."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """Read the manifest and hash every file before any library sees a byte; `BundleError` says what differs."""
        folder = Path(path)
        manifest = _read_manifest(folder)
        _check_names(folder, manifest)
        for name, info in manifest.files.items():
            _check_file(folder / name, info)
        for name in manifest.files:
            if name.endswith(".onnx"):
                _check_graph(folder / name, manifest)
        return cls(folder, manifest)

    @staticmethod
    @contextmanager
    def create(path: str | Path) -> "Iterator[Draft]":
        """Write a bundle that appears at `path` whole, when the block ends, or not at all.

        An earlier bundle at `path` is exchanged in one step, its engines with it; one of the same bytes stays, with
        its engines. Anything else there is refused.
        """
        target = Path(path).absolute()
        _refuse_strangers(target)
        try:
            with publish_folder(target, keep=_is_same) as folder:
                draft = Draft(folder)
                yield draft
                if not draft.sealed:
                    raise BundleError(f"{target.name} was not sealed; nothing was written")
        except OSError as error:
            raise BundleError(explain(target, error)) from error


class Draft:
    """A bundle that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sealed = False

    def seal(self, manifest: Manifest) -> Manifest:
        """Hash every file, put them on the disk, and write the manifest last."""
        files = {}
        for file in sorted(self.path.iterdir()):
            files[file.name] = FileInfo(sha256=sha256_of(file), bytes=file.stat().st_size)
            sync(file)
        sealed = replace(manifest, files=files)
        (self.path / MANIFEST).write_bytes(encode_manifest(sealed))
        sync(self.path / MANIFEST)
        sync(self.path)
        self.sealed = True
        return sealed


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder; give the folder that vjepa2 export wrote")
    if file.is_symlink() or not file.is_file():
        raise BundleError(f"{folder} has no {MANIFEST}; it is not a bundle, or its export did not finish")
    if file.stat().st_size > MAX_BYTES:
        raise BundleError(f"{file} has {file.stat().st_size} bytes; a manifest has at most {MAX_BYTES}")
    return decode_manifest(file.read_bytes())


def _is_same(draft: Path, target: Path) -> bool:
    """Whether `target` is whole and its manifest, and so every file, the draft's."""
    try:
        Bundle.open(target)
    except BundleError:
        return False
    return (draft / MANIFEST).read_bytes() == (target / MANIFEST).read_bytes()


def _check_names(folder: Path, manifest: Manifest) -> None:
    for name in NOT_COVERED:
        if (beside := folder / name).is_symlink() or (beside.exists() and not beside.is_dir()):
            raise BundleError(f"{beside} is not a folder; a bundle holds no links")
    for name in manifest.files:
        if not _NAME.fullmatch(name):
            raise BundleError(f"{folder} names a file {name!r}; names are letters, digits, '.', '_' and '-'")
    present = {entry.name for entry in folder.iterdir()} - {MANIFEST, *NOT_COVERED}
    missing, foreign = sorted(set(manifest.files) - present), sorted(present - set(manifest.files))
    if missing or foreign:
        raise BundleError(
            f"{folder} lacks {missing} and has {foreign} that its manifest does not name; export it again"
        )
    strangers = {stored.file for stored in manifest.parameters.values()} - set(manifest.files)
    if strangers:
        raise BundleError(f"{folder} keeps parameters in {sorted(strangers)}, which its manifest does not name")


def _check_file(file: Path, info: FileInfo) -> None:
    if file.is_symlink() or not file.is_file():
        raise BundleError(f"{file} is not a regular file; a bundle holds no links")
    size = file.stat().st_size
    if size != info.bytes:
        raise BundleError(f"{file} has {size} bytes; its manifest says {info.bytes}: export again")
    if sha256_of(file) != info.sha256:
        raise BundleError(f"{file} was changed after export (sha256 differs); export again")


def _check_graph(file: Path, manifest: Manifest) -> None:
    """Refuse a graph that reads anything but hashed files: that its own hash is right says only that it was sealed."""
    try:
        tensors = find_external_tensors(file.read_bytes())
    except BundleError as error:
        raise BundleError(f"{file} cannot be read as a graph: {error}; export again") from error
    for tensor in tensors:
        info = manifest.files.get(tensor.location)
        if info is None:
            raise BundleError(
                f"{file} keeps {tensor.name} in {tensor.location!r}; a graph reads nothing but files of its bundle"
            )
        end = tensor.offset + (tensor.length or 0)
        if end > info.bytes:
            raise BundleError(
                f"{file} keeps {tensor.name} up to byte {end} of {tensor.location}, which has {info.bytes}"
            )


def _refuse_strangers(target: Path) -> None:
    if target.is_symlink():
        raise BundleError(f"{target} is a link; give the folder it points to")
    if not target.exists():
        return
    try:
        _read_manifest(target)
    except BundleError as error:
        raise BundleError(f"{target} exists and is not a bundle ({error}); choose another folder") from error
