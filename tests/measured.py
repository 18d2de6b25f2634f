"""A bundle in which every report lies that a page of evidence is made of."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import PREBUILT
from tests.fake_timing import Behaviour, bench
from vjepa2.bundle import Bundle
from vjepa2.cli import main
from vjepa2.runtime.bench_cli import write_latency
from vjepa2.runtime.evidence import FILES
from vjepa2.runtime.parity_report import keep_report
from vjepa2.runtime.parity_run import ParityRequest, run_parity


def call(*words: object) -> int:
    """The exit status of `vjepa2 WORDS`."""
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    return int(done.value.code or 0)


def measure_everything(exported: Path, folder: Path) -> Path:
    """A copy of a bundle at `folder`, with fake times; where nothing exports, no report of its graphs."""
    shutil.copytree(exported, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vjepa2.runtime.oracle.find_missing", lambda *_, **__: "pytorch needs torch")
        request = ParityRequest(bundles=(Bundle.open(folder),), backends=("onnxruntime",))
        keep_report(folder, run_parity(request, save=lambda _: None))
    times = {"onnxruntime": Behaviour((10.0, 11.0)), "onnxruntime-portable": Behaviour((12.0, 12.5))}
    write_latency(str(folder / FILES["latency"]), bench(folder, times, seconds=3.0))
    if not PREBUILT:
        assert call("inspect", folder, "--json", folder / FILES["lint"]) == 0
        assert call("drift", folder, "--islands", "none", "--json", folder / FILES["drift"]) == 0
    return folder
