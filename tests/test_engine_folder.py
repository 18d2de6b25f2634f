"""Is an engine whole, of its bundle and for this machine, or not opened; and whose files are they?"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine_samples import HERE, NAME, PLAN_BYTES, put_engine, sample_manifest
from vjepa2 import engine_folder
from vjepa2.bundle import MANIFEST, WEIGHTS, Bundle
from vjepa2.engine_folder import ENGINES, PLAN, list_engines, open_engine, write_engine
from vjepa2.engine_manifest import (
    EngineManifest,
    Version,
    decode_engine_manifest,
    encode_engine_manifest,
    engine_name,
)
from vjepa2.errors import BundleError, EngineError

PLAN_FILE = f"{ENGINES}/{NAME}/{PLAN}"


def test_what_was_written_opens(bundle_copy: Path) -> None:
    folder = put_engine(bundle_copy)
    engine = open_engine(Bundle.open(bundle_copy), HERE)
    assert folder == engine.path == bundle_copy / ENGINES / NAME
    assert engine.plan == PLAN_BYTES
    assert engine.manifest.plan.bytes == len(PLAN_BYTES)
    assert sorted(engine.manifest.built_from) == ["portable.onnx", "reference.npz", "weights.data"]
    stated = Bundle.open(bundle_copy).manifest
    assert all(stated.files[name] == info for name, info in engine.manifest.built_from.items())
    assert engine.manifest.bundle_sha256 == json.loads((bundle_copy / MANIFEST).read_text())["self_sha256"]
    assert list(json.loads((folder / MANIFEST).read_text()))[-1] == "self_sha256"
    assert engine.manifest.max_batch == 1
    assert not list_engines(Bundle.open(bundle_copy), HERE)[0].faults


def test_an_engine_is_its_owners_alone(bundle_copy: Path) -> None:
    folder = put_engine(bundle_copy)
    modes = [path.stat().st_mode & 0o777 for path in (folder.parent, folder, folder / PLAN, folder / MANIFEST)]
    assert modes == [0o700, 0o700, 0o600, 0o600]


def test_an_earlier_engine_is_replaced_and_another_machines_stays(bundle_copy: Path) -> None:
    other = replace(HERE, gpu="NVIDIA L4", sm=89)
    put_engine(bundle_copy)
    put_engine(bundle_copy, other)
    put_engine(bundle_copy, plan=b"newer")
    bundle = Bundle.open(bundle_copy)
    assert open_engine(bundle, HERE).plan == b"newer"
    assert open_engine(bundle, other).plan == PLAN_BYTES
    assert sorted(entry.name for entry in (bundle_copy / ENGINES).iterdir()) == [
        "nvidia-l4-8.6.2-fp32",
        NAME,
    ]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"tensorrt": Version.parse("10.3.0")}, "TensorRT is 10.3.0 here, 8.6.2 in the engine"),
        ({"sm": 90}, "compute capability is 90 here, 87 in the engine"),
        ({"multiprocessors": 8}, "number of multiprocessors is 8 here, 16 in the engine"),
        ({"gpu": "NVIDIA H200"}, "GPU is NVIDIA H200 here, NVIDIA Orin (nvgpu) in the engine"),
        ({"arch": "x86_64"}, "architecture is x86_64 here, aarch64 in the engine"),
        (
            {"cuda_driver": Version.of_cuda(11040)},
            "CUDA of the driver is 11.4 here, 12.2 in the engine, and must not be older",
        ),
        ({"os": "qnx"}, "operating system is qnx here, linux in the engine"),
    ],
)
def test_another_machine_is_told_what_differs_and_what_to_run(
    change: dict[str, object], difference: str, bundle_copy: Path
) -> None:
    put_engine(bundle_copy)
    bundle, here = Bundle.open(bundle_copy), replace(HERE, **change)  # type: ignore[arg-type]
    (listing,) = list_engines(bundle, here)
    assert listing.faults == (difference,)
    with pytest.raises(EngineError) as caught:
        open_engine(bundle, here)
    assert difference in str(caught.value)
    assert str(caught.value).endswith(f"run: vjepa2 compile {bundle_copy}")
    assert list_engines(bundle)[0].faults == ()


def test_a_newer_driver_is_no_difference(bundle_copy: Path) -> None:
    put_engine(bundle_copy)
    open_engine(Bundle.open(bundle_copy), replace(HERE, cuda_driver=Version.of_cuda(13000)))


def test_the_drivers_release_is_recorded_and_an_engine_without_it_still_opens(bundle_copy: Path) -> None:
    file = put_engine(bundle_copy) / MANIFEST
    assert "driver" not in json.loads(file.read_text())["machine"]
    assert open_engine(Bundle.open(bundle_copy), HERE).manifest.machine.driver is None
    put_engine(bundle_copy, replace(HERE, driver="L4T 36.4.3"))
    assert json.loads(file.read_text())["machine"]["driver"] == "L4T 36.4.3"
    engine = open_engine(Bundle.open(bundle_copy), replace(HERE, driver="L4T 36.5.0"))
    assert engine.manifest.machine.driver == "L4T 36.4.3"


def test_a_bundle_without_engines_says_so(bundle_copy: Path) -> None:
    with pytest.raises(EngineError, match=r"bundle has no engine for this machine \(it has none at all\); run: vjepa2"):
        open_engine(Bundle.open(bundle_copy), HERE)


def edit(folder: Path, change: Callable[[EngineManifest], EngineManifest]) -> None:
    """Rewrite a manifest so that its own hash is right."""
    file = folder / MANIFEST
    file.write_bytes(encode_engine_manifest(change(decode_engine_manifest(file.read_bytes()))))


def flip_plan(folder: Path) -> None:
    (folder / PLAN).write_bytes(bytes([PLAN_BYTES[0] ^ 1]) + PLAN_BYTES[1:])


def link_plan(folder: Path) -> None:
    (folder / PLAN).rename(folder.parents[2] / "elsewhere")
    (folder / PLAN).symlink_to(folder.parents[2] / "elsewhere")


def link_folder(folder: Path) -> None:
    folder.rename(folder.parents[2] / "elsewhere")
    folder.symlink_to(folder.parents[2] / "elsewhere")


def change_verdict(folder: Path) -> None:
    edit(folder, lambda manifest: replace(manifest, verdict=replace(manifest.verdict, passed=False)))


def change_sources(folder: Path) -> None:
    edit(folder, lambda manifest: replace(manifest, built_from={}))


SPOILS: list[tuple[Callable[[Path], object], str]] = [
    (flip_plan, r"engine.plan was changed after compile \(sha256 differs\)"),
    (lambda folder: os.truncate(folder / PLAN, 9), r"engine.plan has 9 bytes; its manifest says 772"),
    (link_plan, r"engine.plan is not a regular file; an engine holds no links"),
    (link_folder, r"is not a folder; an engine holds no links"),
    (lambda folder: (folder / "lib.so").touch(), r"holds \['engine.plan', 'lib.so', 'manifest.json'\]"),
    (lambda folder: (folder / PLAN).unlink(), r"holds \['manifest.json'\]; an engine is engine.plan and manifest"),
    (lambda folder: (folder / PLAN).chmod(0o620), r"can be written by others \(-rw--w----\); a plan is native code"),
    (lambda folder: folder.chmod(0o707), r"can be written by others"),
    (lambda folder: folder.parent.chmod(0o770), r"can be written by others"),
    (lambda folder: (folder / MANIFEST).write_text("{"), r"manifest.json is not JSON"),
    (lambda folder: (folder / MANIFEST).write_text("{}"), r"lacks self_sha256; it was not written by vjepa2 compile"),
    (lambda folder: (folder / MANIFEST).write_bytes(b" " * (5 * 2**20)), r"a manifest has at most 4194304"),
    (lambda folder: (folder / MANIFEST).write_text('{"self_sha256": 1}'), r"has schema None; this version reads 1"),
    (change_verdict, r"did not pass its gate"),
    (change_sources, r"was built from other files than this bundle's portable.onnx, weights.data, reference.npz"),
    (lambda folder: edit(folder, lambda held: replace(held, precision="fp16")), r"is fp16; its bundle is fp32"),
    (lambda folder: edit(folder, lambda held: replace(held, bundle_sha256="0")), r"from another export of this bundle"),
    (lambda folder: folder.rename(folder.with_name("best")), r"is the engine of nvidia-orin-\S+ under another name"),
    (lambda folder: folder.rename(folder.with_name("a b")), r"'a b' is not an engine's name"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILS)
def test_an_engine_that_was_changed_is_not_opened(
    spoil: Callable[[Path], object], message: str, bundle_copy: Path
) -> None:
    spoil(put_engine(bundle_copy))
    with pytest.raises(EngineError, match=message) as caught:
        open_engine(Bundle.open(bundle_copy), HERE)
    assert f"run: vjepa2 compile {bundle_copy}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(extra=1), r"unknown keys \['extra'\]"),
        (lambda record: record.update(builder_level="3"), r"builder_level is '3'; it must be int"),
        (lambda record: record["io"][0].update(dtype="DOUBLE"), r"dtype is 'DOUBLE'; it must be 'FLOAT' or"),
        (lambda record: record["machine"].update(sm=True), r"sm is True; it must be int"),
        (lambda record: record.update(builder_level=4), r"is not what compile wrote"),
    ],
)
def test_an_edited_manifest_is_refused(
    change: Callable[[dict[str, object]], object], message: str, bundle_copy: Path
) -> None:
    file = put_engine(bundle_copy) / MANIFEST
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record, indent=1) + "\n")
    with pytest.raises(EngineError, match=message):
        open_engine(Bundle.open(bundle_copy), HERE)


def test_a_file_of_somebody_else_is_refused(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_engine(bundle_copy)
    owner = (bundle_copy / ENGINES).stat().st_uid
    monkeypatch.setattr(engine_folder, "_ROOT", 4242)
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(EngineError, match=rf"belongs to user {owner}, not to you \({owner + 1}\)"):
        open_engine(Bundle.open(bundle_copy), HERE)


@pytest.mark.parametrize("denied", [ENGINES, f"{ENGINES}/{NAME}", f"{ENGINES}/{NAME}/{MANIFEST}", PLAN_FILE])
def test_an_engine_that_only_another_user_can_read_is_told_with_its_owner(
    denied: str, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of root, who compiled it: engines are their owner's alone."""
    put_engine(bundle_copy)
    bundle, place = Bundle.open(bundle_copy), bundle_copy / denied

    def deny(function: Callable[..., Any]) -> Callable[..., Any]:
        def answer(path: Any, *arguments: Any) -> Any:
            if os.fspath(path) == str(place):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path, *arguments)

        return answer

    owner = place.stat().st_uid
    monkeypatch.setattr(engine_folder, "_ROOT", owner)
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    monkeypatch.setattr(Path, "iterdir", deny(Path.iterdir))
    monkeypatch.setattr(os, "open", deny(os.open))
    told = rf"{place} cannot be read: Permission denied; it belongs to user {owner}, not to you \(4242\): run this as "
    with pytest.raises(EngineError, match=told) as caught:
        open_engine(bundle, HERE)
    assert str(caught.value).endswith(f"run: vjepa2 compile {bundle_copy}")
    if denied != PLAN_FILE:
        [listing] = list_engines(bundle, HERE)
        assert listing.manifest is None
        assert re.search(told, listing.faults[0])


def test_links_in_the_place_of_engines_are_refused(bundle_copy: Path) -> None:
    (bundle_copy / ENGINES).symlink_to(bundle_copy.parent)
    with pytest.raises(BundleError, match="engines is not a folder; a bundle holds no links"):
        Bundle.open(bundle_copy)


def test_what_did_not_pass_its_gate_is_not_kept(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    failed = sample_manifest(bundle)
    failed = replace(failed, verdict=replace(failed.verdict, passed=False))
    with pytest.raises(EngineError, match="did not pass its gate"):
        write_engine(bundle, failed, PLAN_BYTES)
    assert not (bundle_copy / ENGINES).exists()


def test_a_full_disk_leaves_nothing_behind(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr(engine_folder, "_write", fail)
    with pytest.raises(EngineError, match=r"cannot be written: No space left on device; free some space; nothing was"):
        put_engine(bundle_copy)
    assert not (bundle_copy / ENGINES).exists()


def write_again(target: Path, source: Path, **changes: object) -> None:
    """What export does at the end: the same files, sealed by a manifest with `changes`."""
    bundle = Bundle.open(source)
    with Bundle.create(target) as draft:
        for name in bundle.manifest.files:
            shutil.copy(source / name, draft.path)
        draft.seal(replace(bundle.manifest, **changes))  # type: ignore[arg-type]


def test_an_export_of_the_same_bytes_keeps_the_engines_and_another_drops_them(
    exported: Path, bundle_copy: Path
) -> None:
    put_engine(bundle_copy)
    write_again(bundle_copy, exported)
    assert [listing.name for listing in list_engines(Bundle.open(bundle_copy))] == [NAME]
    write_again(bundle_copy, exported, tools={})
    assert list_engines(Bundle.open(bundle_copy)) == ()
    assert [entry.name for entry in bundle_copy.parent.iterdir()] == ["bundle"]


def test_an_export_over_a_damaged_bundle_repairs_it(exported: Path, bundle_copy: Path) -> None:
    (bundle_copy / WEIGHTS).write_bytes(b"")
    write_again(bundle_copy, exported)
    Bundle.open(bundle_copy)


@pytest.mark.parametrize(
    ("name", "number"), [("8.6.0", (8, 6, 0)), ("10.16.1.11", (10, 16, 1, 11)), ("8.6.2rc1", (8, 6, 2))]
)
def test_versions_have_a_name_and_numbers(name: str, number: tuple[int, ...]) -> None:
    assert Version.parse(name) == Version(name=name, number=number)


def test_a_version_without_numbers_is_no_version() -> None:
    with pytest.raises(ValueError, match="version is 'next'; it must begin with numbers"):
        Version.parse("next")
    assert Version.of_cuda(12020) == Version(name="12.2", number=(12, 2))


def test_a_gpu_of_any_name_makes_a_folder_of_letters_and_digits() -> None:
    assert engine_name(replace(HERE, gpu=" Tesla T4 / µ"), "bf16") == "tesla-t4-8.6.2-bf16"
    assert engine_name(replace(HERE, gpu="???"), "fp16") == "gpu-8.6.2-fp16"
