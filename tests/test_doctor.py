"""Does the doctor tell what runs here, and of the rest what it lacks, whatever is missing?"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.test_imports import HEAVY, ROOT
from vjepa2.bundle import Bundle
from vjepa2.cli import main
from vjepa2.runtime.backends import BACKENDS, choice
from vjepa2.runtime.backends.choice import Choice
from vjepa2.runtime.doctor import diagnose
from vjepa2.runtime.gpus import Gpu


def test_every_backend_is_told_of_once(exported: Path) -> None:
    found = diagnose(Bundle.open(exported))
    assert [finding.name for finding in found.backends] == list(BACKENDS)
    for finding in found.backends:
        assert finding.usable == (finding.lacks is None)
    usable = {finding.name: finding.version for finding in found.backends if finding.usable}
    assert usable["onnxruntime"]
    assert found.auto in usable
    assert found.reason.startswith("auto: ")
    assert bool(found.gpus) != bool(found.no_gpu)


def test_it_runs_on_the_base_install_alone() -> None:
    blocked = sorted(HEAVY - {"numpy", "rich", "click"})
    script = f"import sys; sys.modules.update(dict.fromkeys({blocked})); from vjepa2.cli import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        "no  onnxruntime            onnxruntime needs onnxruntime; pip install 'vjepa2-edge[onnxruntime]'"
        in done.stdout
    )
    assert "no  av                     to read videos: pip install 'vjepa2-edge[video]'" in done.stdout
    assert "auto takes nothing (no backend is usable" in done.stdout


def test_json_is_all_that_standard_output_gets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["doctor", "--json", "-"])
    assert not done.value.code
    record = json.loads(capsys.readouterr().out)
    assert {"python", "machine", "gpus", "backends", "tools", "auto", "reason"} < set(record)


def test_json_goes_to_a_file_beside_what_people_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--json", str(tmp_path / "doctor.json")])
    assert "yes onnxruntime " in capsys.readouterr().out
    assert json.loads((tmp_path / "doctor.json").read_text())["auto"]


def test_gpus_are_told_with_their_driver(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gpus = [Gpu(name="NVIDIA H200", capability=(9, 0), driver=12090)]
    monkeypatch.setattr("vjepa2.runtime.doctor.list_gpus", lambda: gpus)
    monkeypatch.setattr(choice, "find_missing", lambda *_: "it lacks everything")
    with pytest.raises(SystemExit):
        main(["doctor"])
    assert "cuda:0 NVIDIA H200, compute capability 9.0, driver for CUDA 12.9" in capsys.readouterr().out


def test_of_16_bits_on_a_cpu_it_promises_nothing(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(exported)
    assert diagnose(bundle).caution is None
    halved = Bundle(bundle.path, replace(bundle.manifest, precision="fp16"))
    found = diagnose(halved)
    assert found.caution is not None
    assert f"{found.auto} may compute parts in another precision" in found.caution
    taken = Choice("tensorrt", "cuda", "auto: it is there")
    monkeypatch.setattr("vjepa2.runtime.doctor.choose_backend", lambda _: taken)
    assert diagnose(halved).caution is None


@pytest.mark.parametrize(
    ("machine", "advice"), [("aarch64", "--system-site-packages"), ("x86_64", "pip install 'vjepa2-edge[tensorrt]'")]
)
def test_tensorrt_comes_from_where_it_is(machine: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    missing = choice.find_missing("tensorrt")
    assert missing is not None
    assert advice in missing


def test_a_folder_that_is_no_bundle_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["doctor", str(tmp_path)])
    assert done.value.code == 2
    assert "has no manifest.json" in capsys.readouterr().err
