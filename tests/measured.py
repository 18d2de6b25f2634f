"""What does a bundle look like that was measured: parity in ONNX Runtime, and times that are known?"""

from pathlib import Path

import pytest

from tests.fake_timing import Behaviour, bench
from vjepa2.bundle import Bundle
from vjepa2.runtime.bench_cli import write_latency
from vjepa2.runtime.evidence import FILES
from vjepa2.runtime.parity_report import keep_report
from vjepa2.runtime.parity_run import ParityRequest, run_parity


def measure_bundle(folder: Path) -> None:
    """Let `reports/parity.json` and `latency.json` lie in a bundle, as without torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vjepa2.runtime.oracle.find_missing", lambda *_, **__: "pytorch needs torch")
        request = ParityRequest(bundles=(Bundle.open(folder),), backends=("onnxruntime",))
        keep_report(folder, run_parity(request, save=lambda _: None))
    times = {"onnxruntime": Behaviour((10.0, 11.0)), "onnxruntime-portable": Behaviour((12.0, 12.5))}
    write_latency(str(folder / FILES["latency"]), bench(folder, times, seconds=3.0))
