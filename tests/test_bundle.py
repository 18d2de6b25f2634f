"""Is a bundle whole and unchanged, or not opened; and does it appear in one step or not at all?"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vjepa2 import bundle, publish
from vjepa2.bundle import MANIFEST, WEIGHTS, Bundle
from vjepa2.errors import BundleError
from vjepa2.manifest import Manifest, decode_manifest, encode_manifest

ROOT = Path(__file__).parent.parent


def manifest_of(folder: Path) -> Manifest:
    return Bundle.open(folder).manifest


def rewrite(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change the manifest as somebody with an editor would."""
    record = json.loads((folder / MANIFEST).read_text())
    change(record)
    (folder / MANIFEST).write_text(json.dumps(record, indent=1) + "\n")


def write_something(path: Path, manifest: Manifest, size: int = 1000) -> None:
    with Bundle.create(path) as draft:
        (draft.path / WEIGHTS).write_bytes(bytes(size))
        draft.seal(replace(manifest, parameters={}))


def test_what_export_wrote_opens(exported: Path) -> None:
    manifest = manifest_of(exported)
    assert sorted(manifest.files) == ["onnxruntime.onnx", "portable.onnx", "reference.npz", "weights.data"]
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert list(json.loads((exported / MANIFEST).read_text()))[-1] == "self_sha256"


def remove_file(folder: Path) -> None:
    (folder / "portable.onnx").unlink()


def add_file(folder: Path) -> None:
    (folder / "extra.bin").touch()


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def cut_short(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 100)


def replace_by_link(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def bloat_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b" " * (5 * 2**20))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_file, r"lacks \['portable.onnx'\] and has \[\] that its manifest does not name"),
        (add_file, r"lacks \[\] and has \['extra.bin'\] that its manifest does not name"),
        (flip_a_bit, r"weights.data was changed after export \(sha256 differs\); export again"),
        (cut_short, r"weights.data has 100 bytes; its manifest says \d+"),
        (replace_by_link, r"weights.data is not a regular file; a bundle holds no links"),
        (remove_manifest, r"has no manifest.json; it is not a bundle, or its export did not finish"),
        (bloat_manifest, r"a manifest has at most 4194304"),
    ],
)
def test_a_bundle_that_was_changed_is_not_opened(
    spoil: Callable[[Path], None], message: str, bundle_copy: Path
) -> None:
    spoil(bundle_copy)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(extra=1), r"unknown keys \['extra'\] and lacks \[\]"),
        (lambda record: record.pop("clip"), r"unknown keys \[\] and lacks \['clip'\]"),
        (lambda record: record.update(batch="many"), r"manifest.batch is 'many'; it must be int or 'dynamic'"),
        (lambda record: record.update(batch=True), r"manifest.batch is True; it must be int"),
        (lambda record: record["model"].update(dim="192"), r"manifest.model.dim is '192'; it must be int"),
        (lambda record: record.update(clip=[]), r"manifest.clip is \[\]; it must be an object"),
        (lambda record: record.update(classes=7), r"is not what export wrote"),
        (lambda record: record.update(self_sha256="0" * 64), r"is not what export wrote"),
        (lambda record: record.pop("self_sha256"), r"lacks self_sha256"),
        (lambda record: record.update(schema=2), r"has schema 2; this version reads 4: export again"),
        (lambda record: record["outputs"][0].update(shape=3), r"manifest.outputs\[0\].shape is 3"),
        (lambda record: record["preprocessing"].update(mean=[0.5]), r"mean has 1 items; it must have 3"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(
    change: Callable[[dict[str, object]], object], message: str, bundle_copy: Path
) -> None:
    rewrite(bundle_copy, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"a": 1e999}', "\xff"])
def test_a_manifest_that_is_not_ours_is_refused(text: str, bundle_copy: Path) -> None:
    (bundle_copy / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match=r"manifest.json"):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize("name", ["../weights.data", "/etc/passwd", "a/b", ".hidden", "", "a\n"])
def test_file_names_that_lead_elsewhere_are_refused(name: str, exported: Path, bundle_copy: Path) -> None:
    manifest = manifest_of(exported)
    forged = replace(manifest, files={**manifest.files, name: manifest.files[WEIGHTS]})
    (bundle_copy / MANIFEST).write_bytes(encode_manifest(forged))
    with pytest.raises(BundleError, match="names are letters, digits"):
        Bundle.open(bundle_copy)


def test_parameters_in_a_file_that_is_not_covered_are_refused(exported: Path, bundle_copy: Path) -> None:
    manifest = manifest_of(exported)
    stored = {name: replace(value, file="other.data") for name, value in manifest.parameters.items()}
    (bundle_copy / MANIFEST).write_bytes(encode_manifest(replace(manifest, parameters=stored)))
    with pytest.raises(BundleError, match=r"keeps parameters in \['other.data'\]"):
        Bundle.open(bundle_copy)


def test_engines_and_reports_may_stand_beside(bundle_copy: Path) -> None:
    for name in ("engines", "reports"):
        (bundle_copy / name).mkdir()
    Bundle.open(bundle_copy)


def test_what_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a folder; give the folder that vjepa2 export wrote"):
        Bundle.open(tmp_path / "nothing")


def test_a_folder_that_is_not_a_bundle_is_not_written_over(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(BundleError, match=r"photos exists and is not a bundle .*; choose another folder"):
        write_something(tmp_path / "photos", manifest_of(exported))
    assert [entry.name for entry in tmp_path.rglob("*")] == ["photos", "holiday.jpg"]


def test_a_link_is_not_written_over(exported: Path, bundle_copy: Path) -> None:
    link = bundle_copy.with_name("link")
    link.symlink_to(bundle_copy)
    with pytest.raises(BundleError, match="link is a link; give the folder it points to"):
        write_something(link, manifest_of(exported))


@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_earlier_bundle_is_exchanged(
    can_exchange: bool, exported: Path, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(publish, "_exchange", lambda left, right: False)
    write_something(bundle_copy, manifest_of(exported))
    assert list(manifest_of(bundle_copy).files) == [WEIGHTS]
    assert [entry.name for entry in bundle_copy.parent.iterdir()] == ["bundle"]


def test_an_error_leaves_nothing_behind(exported: Path, bundle_copy: Path) -> None:
    before = (bundle_copy / MANIFEST).read_bytes()

    def fail_halfway() -> None:
        with Bundle.create(bundle_copy) as draft:
            (draft.path / WEIGHTS).touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert (bundle_copy / MANIFEST).read_bytes() == before
    assert [entry.name for entry in bundle_copy.parent.iterdir()] == ["bundle"]


def test_a_draft_that_was_not_sealed_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="bundle was not sealed"), Bundle.create(tmp_path / "bundle"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_behind(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(bundle, "sync", fail)
    with pytest.raises(BundleError, match=r"cannot be written: No space left on device; free some space"):
        write_something(tmp_path / "bundle", manifest_of(exported))
    assert not list(tmp_path.iterdir())


def test_a_limit_on_file_sizes_leaves_nothing_behind(tmp_path: Path, exported: Path) -> None:
    """A real failure of a real write, in a process of its own."""
    script = f"""
import resource, signal, sys
from pathlib import Path
from tests.test_bundle import manifest_of, write_something
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write_something(Path({str(tmp_path / "bundle")!r}), manifest_of(Path({str(exported)!r})), size=100_000)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "BundleError" in done.stderr
    assert "cannot be written: File too large" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=r"cannot be written: .*; choose a folder that can be written"):
        write_something(tmp_path / "file" / "bundle", manifest_of(exported))
    with pytest.raises(BundleError, match="cannot be written"):
        write_something(Path("/proc/bundle"), manifest_of(exported))


_WRITER = """
import shutil, sys
from dataclasses import replace
from pathlib import Path
from vjepa2.bundle import Bundle
manifest = replace(Bundle.open(sys.argv[1]).manifest, parameters={})
print("ready", flush=True)
while True:
    with Bundle.create(sys.argv[2]) as draft:
        for name in ("a.bin", "b.bin", "c.bin"):
            (draft.path / name).write_bytes(bytes(200_000))
        draft.seal(manifest)
"""


def test_killed_at_any_moment_a_bundle_is_whole_or_not_there(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "bundle"
    whole = 0
    for attempt in range(20):
        if attempt % 2:
            shutil.rmtree(target, ignore_errors=True)
        command = [sys.executable, "-c", _WRITER, str(exported), str(target)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep((attempt * 0.0137) % 0.1)
            process.send_signal(signal.SIGKILL)
        if target.exists():
            Bundle.open(target)
            whole += 1
    assert whole > 0
    write_something(target, manifest_of(exported))
    assert [entry.name for entry in target.parent.iterdir()] == ["bundle"], "leftovers of the dead are swept"
