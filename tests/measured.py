"""What does a bundle look like that was measured: parity in ONNX Runtime, times that are known, and any names?"""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import PREBUILT
from tests.fake_timing import Behaviour, bench
from vjepa2.bundle import Bundle
from vjepa2.cli import main
from vjepa2.runtime.bench_cli import write_latency
from vjepa2.runtime.evidence import FILES, Evidence
from vjepa2.runtime.parity_report import keep_report
from vjepa2.runtime.parity_run import ParityRequest, run_parity


def call(*words: object) -> int:
    """The exit status of `vjepa2 WORDS`."""
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    return int(done.value.code or 0)


def measure_bundle(folder: Path) -> None:
    """Let `reports/parity.json` and `latency.json` lie in a bundle, as without torch; times are of a fake."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vjepa2.runtime.oracle.find_missing", lambda *_, **__: "pytorch needs torch")
        request = ParityRequest(bundles=(Bundle.open(folder),), backends=("onnxruntime",))
        keep_report(folder, run_parity(request, save=lambda _: None))
    times = {"onnxruntime": Behaviour((10.0, 11.0)), "onnxruntime-portable": Behaviour((12.0, 12.5))}
    write_latency(str(folder / FILES["latency"]), bench(folder, times, seconds=3.0))


def measure_everything(folder: Path) -> None:
    """Every report that a page is made of; where nothing exports, none of the graphs."""
    measure_bundle(folder)
    if not PREBUILT:
        assert call("inspect", folder, "--json", folder / FILES["lint"]) == 0
        assert call("drift", folder, "--islands", "none", "--json", folder / FILES["drift"]) == 0


def name_everything(evidence: Evidence, words: str) -> Evidence:
    """The same with `words` wherever a bundle or a report may say what it likes."""
    assert evidence.parity is not None
    assert evidence.latency is not None
    row = replace(evidence.parity.candidates[0], name=words, said=(words,))
    assert row.worst_map is not None
    row = replace(row, worst_map=replace(row.worst_map, clip=words))
    subject = evidence.subject
    return replace(
        evidence,
        subject=replace(
            subject, name=words, labels=(words, "dog"), model=replace(subject.model, name=words),
            source=replace(subject.source, name=words, warning=words),
        ),
        parity=replace(evidence.parity, candidates=(row,), invalid=(words,), command=words),
        latency=replace(evidence.latency, rows=tuple(replace(each, backend=words) for each in evidence.latency.rows)),
        drift=None if evidence.drift is None else replace(evidence.drift, plot=f"<svg>{words}</svg>"),
        commands=dict.fromkeys(evidence.commands, words),
    )  # fmt: skip
