"""Does `make gpu` say what is missing, let the variants take turns, and write down what it was told? No GPU is needed.

The interpreters are scripts that answer as the real ones would; only they know that nothing is computed.
"""

import importlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import interpreters, machine, torch_worker
from benchmarks.gpu.__main__ import Places, main, parse
from benchmarks.gpu.cases import Case, Step, choose_cases, explain_no_bf16, export_case
from benchmarks.gpu.compare import compare_workers
from benchmarks.gpu.interpreters import GpuBenchmarkError, Interpreter, find_interpreters
from benchmarks.gpu.pipes import Block, VariantError, Worker
from benchmarks.gpu.steps import CaseLog
from benchmarks.gpu.turns import compare, percentile, summarise, warm_up
from tests.conftest import TINY_CLIP, tiny_spec
from tests.test_trt import Rig, make_rig
from vjepa2.bundle import Bundle
from vjepa2.export.cli import export_command
from vjepa2.export.memory import plan_memory
from vjepa2.manifest import Precision
from vjepa2.runtime import Reference
from vjepa2.runtime.figures import Figures
from vjepa2.runtime.gates import GATES

GPU = "NVIDIA Fake"
MODULES = {"torch": "2.11.0+cu130", "numpy": "2.4", "onnx": "1.23", "onnxscript": "0.7", "safetensors": "0.6"}
COMMON = {"click": "8.1", "rich": "13"}
HAS: dict[str, dict[str, Any]] = {
    "PYTHON": {"versions": MODULES | COMMON, "has_bf16": False},
    "TENSORRT_PYTHON": {"versions": {"tensorrt": "8.6.0", "numpy": "1.26"} | COMMON, "has_bf16": False},
}
# answers as an interpreter does: what it has, the verbs of vjepa2, a process of the benchmark
_SCRIPT = """#!{python}
import json, os, shutil, signal, subprocess, sys, time
words = sys.argv[1:]
def end(how):  # an exit status, a signal's name, or never
    if how == "hangs":
        child = subprocess.Popen(["sleep", "600"])
        open({pid_file!r}, "w").write(str(child.pid))
        time.sleep(600)
    if isinstance(how, str): os.kill(os.getpid(), getattr(signal, how))
    sys.exit(how)
if words[0] == "-c":
    print("noise of a library")
    print({probe!r})
elif words[1] in ("vjepa2", "benchmarks.gpu.kept_engine"):
    verb = words[2] if words[1] == "vjepa2" else "keep"
    folder = words[words.index("-o") + 1] if verb == "export" else words[-3]
    print(verb, "goes on", sys.stdin.read(), file=sys.stderr)
    how = {ends!r}.get(f"{{verb}} {{os.path.basename(folder)}}", {ends!r}.get(verb, 0))
    if how == 0 and verb == "export":
        shutil.copytree({bundle!r}, folder)
    engine = {{"builder_level": 3, "fused_attention": 2, "device_memory_bytes": 10**6,
              "plan": {{"bytes": 2 * 10**6}}, "verdict": {{"accepted": {accepted}}}}} | {engine!r}
    if how == 0:
        record = {{"manifest": engine, "words": words, "reused": verb == "keep"}}
        open(words[-1], "w").write(json.dumps(record))
    end(how)
else:
    sys.path.insert(0, {root!r})
    from benchmarks.gpu.pipes import Block, serve
    folder, name = words[2:4]
    class Fake:
        ms = 2.0 if name.startswith("tensorrt") else 4.0
        def describe(self):
            print("this is not an answer")
            if name == "torch-compile": raise RuntimeError("no compiler\\n\\nis here")
            told = {{"token_cosine": 0.9999, "embedding_cosine": 1.0, "memory_bytes": 5 * 10**6}}
            return told | {facts!r}.get(name, {{}})
        def run(self, calls):
            how = {ends!r}.get(f"{{name}} {{os.path.basename(folder)}}", {ends!r}.get(name))
            if how is not None: end(how)
            gpu_ms = () if name == "tensorrt-graph" else (self.ms,) * calls
            return Block(gpu_ms=gpu_ms, wall_ms=(self.ms + 1,) * calls)
    serve(Fake)
"""


@pytest.fixture
def make_interpreter(tmp_path: Path, exported: Path) -> Callable[..., str]:
    """A function that writes an interpreter of a role; what it has, and how what it runs ends, may be changed."""

    def make(
        role: str,
        *,
        ends: Mapping[str, int | str] | None = None,
        facts: Mapping[str, Any] | None = None,
        accepted: Any = (),
        engine: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        found = {"python": "3.10.13", "gpu": GPU, "sm": 90, "no_gpu": None} | HAS[role] | changes
        file = tmp_path / role.lower()
        file.write_text(
            _SCRIPT.format(
                python=sys.executable,
                probe=json.dumps(found),
                ends=dict(ends or {}),
                facts=dict(facts or {}),
                engine=dict(engine or {}),
                bundle=str(exported),
                root=str(interpreters.ROOT),
                accepted=dict(accepted),
                pid_file=str(tmp_path / "pid"),
            )
        )
        file.chmod(0o700)
        return str(file)

    return make


@pytest.fixture
def log(tmp_path: Path) -> CaseLog:
    return CaseLog(tmp_path / "logs" / "case.log")


def interpreter(path: str = "", **changes: Any) -> Interpreter:
    stated: dict[str, Any] = {
        "role": "PYTHON",
        "python": "3.12",
        "versions": {},
        "gpu": GPU,
        "sm": 90,
        "has_bf16": False,
    }
    return Interpreter(path=path, **(stated | changes))


def read_report(places: Places) -> tuple[dict[str, Any], str]:
    """The JSON and the table that were written."""
    (file,) = places.docs.glob("*.json")
    return json.loads(file.read_text()), file.with_suffix(".md").read_text()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(artifacts=tmp_path / "artifacts", docs=tmp_path / "docs")


def arguments(python: str, tensorrt: str) -> list[str]:
    return ["--python", python, "--tensorrt-python", tensorrt]


def test_one_command_exports_compiles_compares_and_writes(
    make_interpreter: Callable[..., str], places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(make_interpreter("PYTHON"), make_interpreter("TENSORRT_PYTHON"))
    assert main(words, places) == 1, "torch.compile did not run: told, and not good"
    names = [str(file.relative_to(places.docs)) for file in sorted(places.docs.rglob("*.*")) if file.is_file()]
    assert names == [
        "nvidia-fake-tensorrt-8.6.0-logs/tiny-fp16.log",
        "nvidia-fake-tensorrt-8.6.0-logs/vitl-fp16.log",
        "nvidia-fake-tensorrt-8.6.0.json",
        "nvidia-fake-tensorrt-8.6.0.md",
    ]
    record, table = read_report(places)
    assert [case["name"] for case in record["cases"]] == ["tiny-fp16", "vitl-fp16"]
    for case in record["cases"]:
        found = case["comparison"]
        assert found["variants"]["tensorrt"]["gpu"]["p50_ms"] == 2.0
        assert found["gpu_ratios"] == {"torch": {"median": 2.0, "least": 2.0, "most": 2.0}}
        assert {name: each["median"] for name, each in found["wall_ratios"].items()} == {
            "torch": pytest.approx(5 / 3),
            "torch-compile-graph": pytest.approx(5 / 3),
        }
        assert found["failures"] == {"torch-compile": "RuntimeError: no compiler; is here"}
    assert "| vitl | fp16 | torch | 4.000 | 5.000, 5.000 | 2.00 (2.00 to 2.00) | 1.67 (1.67 to 1.67) |" in table
    assert "| vitl | fp16 | torch-compile-graph | 4.000 | 5.000, 5.000 |  | 1.67 (1.67 to 1.67) |" in table
    assert "fused attention in 2 of 2 blocks; plan 2 MB, a context 1 MB; vjepa2 plan reckons" in table
    assert "bf16 is left out: TensorRT 8.6.0 has no bf16." in table
    planned = plan_memory(tiny_spec(), TINY_CLIP, precision="fp16", fused=True).run_bytes
    assert {case["planned_bytes"] for case in record["cases"]} == {planned}
    assert f"reckons {planned / 1e6:.0f} MB for a run, 5 MB were taken" in table
    assert "not as it must be: torch-compile: RuntimeError: no compiler; is here" in table
    assert capsys.readouterr().out.startswith("# NVIDIA Fake, TensorRT 8.6.0, torch 2.11.0+cu130")


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_hands_on_what_it_was_told() -> None:
    words = ["PYTHON=torch python", "TENSORRT_PYTHON=trt", "CASES=tiny-fp16,vitl-fp16", "REUSE=1", "STEP_SECONDS=9"]
    command = ["make", "-n", "--no-print-directory", "gpu", *words, "DOCS=some where"]
    said = subprocess.run(command, cwd=interpreters.ROOT, capture_output=True, text=True, check=True).stdout
    given = shlex.split(said)
    options = parse(given[given.index("benchmarks.gpu") + 1 :])
    assert vars(options) == {
        "python": "torch python",
        "tensorrt_python": "trt",
        "cases": "tiny-fp16,vitl-fp16",
        "reuse": True,
        "docs": Path("some where"),
        "step_seconds": 9.0,
    }


def test_without_onnxsim_export_is_told_to_leave_it_out(
    make_interpreter: Callable[..., str], tmp_path: Path, log: CaseLog
) -> None:
    words = {}
    for name, extra in (("without", {}), ("with", {"onnxsim": "0.8"})):
        make_interpreter("PYTHON", versions=MODULES | COMMON | extra)
        found = find_interpreters(
            {"PYTHON": str(tmp_path / "python"), "TENSORRT_PYTHON": make_interpreter("TENSORRT_PYTHON")}
        )
        step = export_case(Case(name="tiny", precision="fp16"), found["PYTHON"], tmp_path / name, log, seconds=60)
        assert step.record is not None
        words[name] = step.record["words"]
    assert "--no-simplify" in words["without"]
    assert "--no-simplify" not in words["with"]
    assert words["with"][words["with"].index("--precision") + 1] == "fp16"


def figures(embedding: float, median: float, p01: float, worst: float) -> Figures:
    return Figures(
        embedding_cosine=embedding, token_cosine=worst, worst_token=0, token_p01=p01, token_median=median,
        counted_tokens=2048, quiet_tokens=0, quiet_cosine=None, agreement=None, relative_max=0.0,
        relative_frobenius=0.0, finite=True,
    )  # fmt: skip


# of portable.onnx with ViT-L's random weights, as in the README
VITL = {
    "fp16": figures(embedding=0.999999, median=0.999975, p01=0.999954, worst=0.999925),
    "bf16": figures(embedding=0.999944, median=0.998440, p01=0.997209, worst=0.995587),
}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_export_lets_pass_what_vitl_is_measured_to_lose_and_no_more(
    precision: Precision, make_interpreter: Callable[..., str], tmp_path: Path, log: CaseLog
) -> None:
    """The words are read as the command reads them."""
    python = interpreter(make_interpreter("PYTHON"))
    step = export_case(Case(name="vitl", precision=precision), python, tmp_path, log, seconds=60)
    assert step.record is not None
    words = step.record["words"]
    given = export_command.make_context("export", words[words.index("export") + 1 :]).params
    gate = GATES[precision].accept(given["accept"])
    lost = VITL[precision]
    assert not lost.faults(gate)
    assert bool(lost.faults(GATES[precision])) == (precision == "bf16"), "nothing is accepted for nothing"
    assert set(given["accept"]) == ({"token_median", "token_p01"} if precision == "bf16" else set())


def test_what_was_accepted_stands_beside_the_engine(
    make_interpreter: Callable[..., str], places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"token_median": 0.998, "token_p01": 0.996}
    words = arguments(make_interpreter("PYTHON"), make_interpreter("TENSORRT_PYTHON", accepted=limits))
    main(words, places)
    assert (
        "in its gate with token_median=0.998, token_p01=0.996 accepted; fused attention in" in capsys.readouterr().out
    )


def test_a_whole_bundle_is_taken_again_only_if_asked(
    make_interpreter: Callable[..., str], tmp_path: Path, log: CaseLog
) -> None:
    python = interpreter(make_interpreter("PYTHON"))
    case = Case(name="tiny", precision="fp16")

    def export(python: Interpreter) -> Step:
        return export_case(case, python, tmp_path, log, seconds=60, reuse=True)

    assert export(python).record != {"reused": True}
    assert export(python).record == {"reused": True}
    (tmp_path / case.folder / "weights.data").write_bytes(b"")
    again = export(replace(python, path="/bin/false"))
    assert (again.record, again.failure) == (None, "no message"), "a damaged one was not taken"


@pytest.mark.parametrize(
    ("role", "changes", "message"),
    [
        ("PYTHON", {"versions": COMMON}, r"PYTHON \(.*\) lacks torch, numpy, onnx, onnxscript, safetensors"),
        ("PYTHON", {"versions": MODULES | COMMON | {"torch": "2.10.1"}}, r"torch 2.10.1; it must be at least 2.11"),
        ("PYTHON", {"gpu": None, "no_gpu": "torch 2.11 finds no CUDA GPU"}, r"PYTHON \(.*\) has no GPU: torch 2.11"),
        ("TENSORRT_PYTHON", {"versions": COMMON}, r"TENSORRT_PYTHON \(.*\) lacks tensorrt, numpy"),
        ("TENSORRT_PYTHON", {"versions": {"tensorrt": "8.5.2", "numpy": "1"} | COMMON}, r"it must be at least 8.6"),
        ("TENSORRT_PYTHON", {"gpu": "NVIDIA L4"}, r"the interpreters see different GPUs: NVIDIA Fake, NVIDIA L4"),
    ],
)
def test_what_an_interpreter_lacks_is_said_and_nothing_is_left(
    role: str,
    changes: dict[str, Any],
    message: str,
    make_interpreter: Callable[..., str],
    places: Places,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = {each: make_interpreter(each, **(changes if each == role else {})) for each in HAS}
    with pytest.raises(GpuBenchmarkError, match=message):
        find_interpreters(made)
    assert main(arguments(made["PYTHON"], made["TENSORRT_PYTHON"]), places) == 2
    error = capsys.readouterr().err
    assert error.startswith("make gpu: ")
    assert "Traceback" not in error
    assert not places.artifacts.exists()
    assert not places.docs.exists()


def test_everything_that_is_missing_is_said_at_once(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    """With a real interpreter, this one: it has torch without a GPU, or with one, and no TensorRT that would run."""
    assert main(arguments("/nowhere/python", "/bin/false"), places) == 2
    error = capsys.readouterr().err
    assert "PYTHON is '/nowhere/python', which is no program" in error
    assert "TENSORRT_PYTHON (/bin/false) cannot be asked what it has: no message" in error


def test_bf16_is_measured_where_tensorrt_and_the_gpu_have_it() -> None:
    trt = interpreter(versions={"tensorrt": "10.3.0"}, has_bf16=True)
    assert [case.folder for case in choose_cases(trt)] == ["tiny-fp16", "tiny-bf16", "vitl-fp16", "vitl-bf16"]
    turing = replace(trt, sm=75)
    assert [case.folder for case in choose_cases(turing)] == ["tiny-fp16", "vitl-fp16"]
    assert explain_no_bf16(turing) == "the GPU's compute capability is 7.5, and bf16 needs 8.0"
    assert explain_no_bf16(replace(trt, has_bf16=False)) == "TensorRT 10.3.0 has no bf16"
    with pytest.raises(GpuBenchmarkError, match="vitl-bf16 cannot be measured here: the GPU's compute capability is"):
        choose_cases(turing, ["vitl-bf16"])
    with pytest.raises(GpuBenchmarkError, match="there is no case vitl; choose from tiny-fp16, tiny-bf16"):
        choose_cases(trt, ["vitl"])


@pytest.mark.parametrize(
    ("ends", "failure"),
    [
        ({"compile tiny-fp16": 1}, "compile goes on"),
        ({"compile tiny-fp16": 2}, "vjepa2 compile ended with exit status 2: compile goes on"),
        (
            {"compile tiny-fp16": "SIGSEGV"},
            "vjepa2 compile was ended by SIGSEGV: Fatal Python error: Segmentation fault",
        ),
        ({"export tiny-fp16": 2}, "vjepa2 export ended with exit status 2: export goes on"),
    ],
)
def test_a_case_that_fails_is_told_and_the_next_is_measured(
    ends: dict[str, int | str],
    failure: str,
    make_interpreter: Callable[..., str],
    places: Places,
) -> None:
    words = arguments(make_interpreter("PYTHON", ends=ends), make_interpreter("TENSORRT_PYTHON", ends=ends))
    assert main(words, places) == 1
    record, table = read_report(places)
    bad, good = record["cases"]
    assert bad["failures"][0].startswith(failure)
    assert bad["comparison"] is None
    assert any("goes on" in line for line in (bad["compile"] or bad["export"])["tail"])
    assert set(good["comparison"]["variants"]) == {"tensorrt", "tensorrt-graph", "torch", "torch-compile-graph"}
    assert f"  - not as it must be: {failure}" in table
    assert "    ```text\n    " in table
    assert "| tiny |" not in table
    assert "| vitl | fp16 | tensorrt |" in table


def test_what_takes_too_long_is_ended_with_all_that_it_started(
    make_interpreter: Callable[..., str], places: Places, tmp_path: Path
) -> None:
    trt = make_interpreter("TENSORRT_PYTHON", ends={"compile tiny-fp16": "hangs"})
    words = [*arguments(make_interpreter("PYTHON"), trt), "--cases", "tiny-fp16", "--step-seconds", "4"]
    assert main(words, places) == 1
    record, _ = read_report(places)
    assert re.match(r"vjepa2 compile took too long and was ended after \d+ s", record["cases"][0]["failures"][0])
    assert is_gone(int((tmp_path / "pid").read_text()))


def is_gone(pid: int) -> bool:
    """Within a while: a process is somebody's to reap."""
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_what_was_found_is_written_whenever_it_ends_and_puts_nothing_out(
    make_interpreter: Callable[..., str], places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = arguments(make_interpreter("PYTHON"), make_interpreter("TENSORRT_PYTHON"))

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.gpu.measure.compare_workers", interrupt)
        assert main(words, places) == 130
    record, table = read_report(places)
    (case,) = record["cases"]
    assert case["compile"]["record"]["manifest"]["builder_level"] == 3
    assert case["failures"] == ["not finished: it was at compare"]
    assert "not as it must be: not finished: it was at compare" in table
    main([*words, "--cases", "tiny-fp16", "--reuse"], places)
    finished = read_report(places)[0]["cases"]
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.gpu.measure.compare_workers", interrupt)
        assert main([*words, "--reuse"], places) == 130
    assert read_report(places)[0]["cases"] == finished


def test_cases_of_an_earlier_run_stay_if_machine_and_versions_are_the_same(
    make_interpreter: Callable[..., str], places: Places
) -> None:
    python = make_interpreter("PYTHON")
    words = arguments(python, make_interpreter("TENSORRT_PYTHON", ends={"compile tiny-fp16": 2}))
    main([*words, "--cases", "tiny-fp16"], places)
    words = arguments(python, make_interpreter("TENSORRT_PYTHON"))
    main([*words, "--cases", "vitl-fp16"], places)
    record, _ = read_report(places)
    assert [(case["name"], len(case["failures"])) for case in record["cases"]] == [("tiny-fp16", 1), ("vitl-fp16", 1)]
    main([*words, "--cases", "tiny-fp16", "--reuse"], places)
    record, table = read_report(places)
    assert [len(case["comparison"]["variants"]) for case in record["cases"]] == [4, 4]
    assert record["dropped"] is None
    other = make_interpreter("PYTHON", versions=MODULES | COMMON | {"torch": "2.12"})
    main([*arguments(other, words[3]), "--cases", "vitl-fp16", "--reuse"], places)
    record, table = read_report(places)
    assert [case["name"] for case in record["cases"]] == ["vitl-fp16"]
    assert "Dropped: tiny-fp16 of an earlier run, measured on another machine or with other versions." in table


@pytest.mark.parametrize(("status", "is_kept"), [(0, True), (1, False), (2, False)])
def test_an_engine_is_kept_if_it_opens_and_passes_again(
    status: int, is_kept: bool, make_interpreter: Callable[..., str], places: Places
) -> None:
    python, trt = make_interpreter("PYTHON"), make_interpreter("TENSORRT_PYTHON", ends={"keep": status})
    words = [*arguments(python, trt), "--cases", "tiny-fp16"]
    main(words, places)
    record, table = read_report(places)
    assert not record["cases"][0]["compile"]["record"]["reused"], "nobody asked for it"
    main([*words, "--reuse"], places)
    record, table = read_report(places)
    assert record["cases"][0]["compile"]["record"]["reused"] == is_kept
    assert ("compiled by an earlier run" in table) == is_kept


@pytest.mark.parametrize(
    ("how", "failure"),
    [
        (3, "its process ended with exit status 3: no message"),
        ("SIGSEGV", "its process was ended by SIGSEGV: Fatal Python error: Segmentation fault"),
    ],
)
def test_a_variant_whose_process_ends_is_told_and_the_others_go_on(
    how: int | str, failure: str, make_interpreter: Callable[..., str], places: Places
) -> None:
    python = make_interpreter("PYTHON", ends={"torch": how})
    assert main([*arguments(python, make_interpreter("TENSORRT_PYTHON")), "--cases", "tiny-fp16"], places) == 1
    record, table = read_report(places)
    (case,) = record["cases"]
    assert set(case["comparison"]["variants"]) == {"tensorrt", "tensorrt-graph", "torch-compile-graph"}
    assert case["comparison"]["failures"]["torch"].startswith(failure)
    assert f"not as it must be: torch: {failure}" in table


def test_a_variant_that_gives_no_answer_is_ended(
    make_interpreter: Callable[..., str], tmp_path: Path, log: CaseLog
) -> None:
    python = make_interpreter("PYTHON", ends={"torch": "hangs"})
    with Worker([python, "-m", "benchmarks.gpu.torch_worker", "bundle", "torch"], log) as worker:
        worker.describe(60)
        with pytest.raises(VariantError, match="it gave no answer within 1 s and was ended"):
            worker.run(1, seconds=1)
        assert is_gone(int((tmp_path / "pid").read_text()))
        with pytest.raises(VariantError, match="its process was ended by SIGKILL before"):
            worker.run(1, seconds=1)


def test_attention_that_tensorrt_does_not_list_is_not_called_unfused(
    make_interpreter: Callable[..., str], places: Places
) -> None:
    trt = make_interpreter("TENSORRT_PYTHON", engine={"fused_attention": None})
    main([*arguments(make_interpreter("PYTHON"), trt), "--cases", "tiny-fp16"], places)
    _, table = read_report(places)
    assert "fused attention not listed by this TensorRT" in table
    assert "MB for a run if attention is fused, 5 MB were taken" in table
    assert "of 2 blocks" not in table


def test_what_the_table_cannot_show_is_in_the_json_still(make_interpreter: Callable[..., str], places: Places) -> None:
    trt = make_interpreter("TENSORRT_PYTHON", engine={"verdict": {}})
    main([*arguments(make_interpreter("PYTHON"), trt), "--cases", "tiny-fp16"], places)
    record, table = read_report(places)
    assert len(record["cases"][0]["comparison"]["variants"]) == 4
    assert table == "The table of nvidia-fake-tensorrt-8.6.0.json cannot be made: KeyError: 'accepted'\n"


def test_a_case_is_written_whatever_library_fails_in_it(
    make_interpreter: Callable[..., str], places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("not foreseen")

    monkeypatch.setattr("benchmarks.gpu.measure.plan_memory", fail)
    words = arguments(make_interpreter("PYTHON"), make_interpreter("TENSORRT_PYTHON"))
    assert main([*words, "--cases", "tiny-fp16"], places) == 1
    record, _ = read_report(places)
    assert record["cases"][0]["failures"][0] == "RuntimeError: not foreseen"
    assert record["cases"][0]["comparison"] is not None
    (log,) = places.docs.rglob("*.log")
    assert "Traceback" in log.read_text()


def test_whoever_ends_make_gpu_ends_what_it_started(
    make_interpreter: Callable[..., str], places: Places, tmp_path: Path
) -> None:
    trt = make_interpreter("TENSORRT_PYTHON", ends={"compile": "hangs"})
    words = [*arguments(make_interpreter("PYTHON"), trt), "--docs", str(places.docs)]
    script = "import sys, signal, benchmarks.gpu.__main__ as run; from pathlib import Path\n"
    script += "signal.signal(signal.SIGTERM, run._end)\n"
    script += f"run.main(sys.argv[1:], run.Places(artifacts=Path({str(places.artifacts)!r})))"
    with subprocess.Popen([sys.executable, "-c", script, *words], cwd=interpreters.ROOT) as process:
        for _ in range(600):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                break
            time.sleep(0.05)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert is_gone(int((tmp_path / "pid").read_text()))


def commands_of(python: str, *variants: str) -> dict[str, list[str]]:
    return {name: [python, "-m", "benchmarks.gpu.worker", "bundle", name] for name in variants}


def test_processes_answer_in_turns_whatever_they_print(make_interpreter: Callable[..., str], log: CaseLog) -> None:
    commands = commands_of(make_interpreter("PYTHON"), "tensorrt", "torch")
    outcome = compare_workers(commands, log, seconds=60, rounds=2, calls=3)
    assert set(outcome.facts) == set(outcome.comparison.variants) == {"tensorrt", "torch"}
    assert outcome.comparison.variants["torch"].wall.calls == 6


@pytest.mark.parametrize(
    ("fact", "failure"),
    [
        ('float("nan")', "it gives numbers that are not finite: {'token_cosine': nan"),
        ("{1, 2}", "it gives what JSON has no word for (Object of type set is not JSON serializable"),
    ],
)
def test_a_variant_without_figures_of_json_is_a_failure(
    fact: str, failure: str, make_interpreter: Callable[..., str], log: CaseLog
) -> None:
    python = make_interpreter("PYTHON", facts={"torch": Verbatim(f'{{"token_cosine": {fact}}}')})
    outcome = compare_workers(commands_of(python, "torch"), log, seconds=60, rounds=1, calls=1)
    assert (outcome.facts, outcome.comparison.variants) == ({}, {})
    assert outcome.comparison.failures["torch"].startswith(failure)


class Verbatim:
    """Code for a script."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __repr__(self) -> str:
        return self._code


def test_the_gpu_is_looked_at_once_between_rounds(
    make_interpreter: Callable[..., str], log: CaseLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu.compare.read_gpu_state", lambda: {"clocks.sm": "1980 MHz"})
    commands = commands_of(make_interpreter("PYTHON"), "tensorrt")
    outcome = compare_workers(commands, log, seconds=60, rounds=4, calls=1)
    assert outcome.gpu_state == {"clocks.sm": "1980 MHz"}
    order: list[str] = []

    def run(calls: int) -> Block:
        order.append("a")
        return block(1.0)

    compare({"a": run}, bases={}, rounds=4, calls=1, halfway=lambda: order.append("state"))
    assert "".join(order[-5:]) == "aastateaa"


def test_neither_av_nor_onnxsim_is_needed(tmp_path: Path) -> None:
    """Export and all that compares, with both blocked as where they are not installed."""
    words = ["export", "random", "--model", "vitl", "--layers", "1", "--frames", "2", "--size", "32", "--seed", "0"]
    words += ["--precision", "bf16", "--no-simplify", "-o", str(tmp_path / "bundle")]
    script = f"""
import sys
sys.modules.update(dict.fromkeys(["av", "onnxsim", "onnxruntime", "openvino", "transformers"]))
import benchmarks.gpu.__main__, benchmarks.gpu.torch_worker, vjepa2.export.compile_cli
from vjepa2.cli import main
main({words})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=interpreters.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Bundle.open(tmp_path / "bundle").manifest.precision == "bf16"


# ---- turns


def block(*times: float) -> Block:
    return Block(gpu_ms=(), wall_ms=times)


def test_variants_run_forwards_and_backwards_by_turns() -> None:
    order = []

    def run_of(name: str) -> Callable[[int], Block]:
        def run(calls: int) -> Block:
            order.append(name)
            return block(*[1.0] * calls)

        return run

    compare({name: run_of(name) for name in "abc"}, bases={"b": "a"}, rounds=3, calls=1)
    assert "".join(order[-9:]) == "abccbaabc"


def test_a_variant_that_fails_halfway_is_told_and_nothing_of_it_is_kept() -> None:
    calls_left = iter(range(5))

    def fail(calls: int) -> Block:
        if next(calls_left, None) is None:
            raise VariantError("out of memory")
        return block(1.0)

    found = compare({"a": lambda calls: block(1.0), "b": fail}, bases={"a": "b"}, rounds=4, calls=1)
    assert found.failures == {"b": "out of memory"}
    assert list(found.variants) == ["a"]
    assert found.wall_ratios == {}


def test_warming_up_ends_when_it_is_flat_and_says_if_it_never_was() -> None:
    falling = iter([9.0, 5.0, 3.0, 2.0, 1.99, 1.0])
    assert warm_up(lambda calls: block(next(falling)), 1) == (5, True)
    growing = iter(np.geomspace(1, 1e9, 100))
    count, is_flat = warm_up(lambda calls: block(float(next(growing))), 1)
    assert (count, is_flat) == (40, False)


def test_percentiles_are_values_that_occurred() -> None:
    values = list(map(float, range(1, 101)))
    assert [percentile(values, percent) for percent in (1, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert percentile([7.0], 50) == 7.0
    timing = summarise([values[50:], values[:50]])
    assert (timing.calls, timing.least_ms, timing.p50_ms, timing.p99_ms) == (100, 1.0, 50.5, 99.0)
    assert timing.variation == pytest.approx(np.std(values) / np.mean(values))


def test_the_state_of_a_gpu_is_read_or_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.read_gpu_state() is None
    program = tmp_path / "nvidia-smi"
    row = "NVIDIA Fake, 550.1, P0, 1980 MHz, 2619 MHz, 40, 90.5 W, 700.00 W, 1 MiB, 0x0"
    program.write_text(f"#!/bin/sh\necho '{row}'\n")
    program.chmod(0o700)
    state = machine.read_gpu_state()
    assert state is not None
    assert (state["clocks.sm"], state["temperature.gpu"], state[machine.HELD_BACK]) == ("1980 MHz", "40", "0x0")
    old = f"case $1 in *throttle*) echo '{row}';; *) echo 'Field is not a valid field to query.'; exit 2;; esac"
    program.write_text(f"#!/bin/sh\n{old}\n")
    assert machine.read_gpu_state() == state, "an older driver calls one field otherwise"
    program.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    assert machine.read_gpu_state() is None
    monkeypatch.setattr(machine, "_TIME_LIMIT_S", 0.2)
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    assert machine.read_gpu_state() is None


# ---- the variants themselves, as far as they run without a GPU


@pytest.fixture
def rig(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with make_rig("8.6", bundle_copy, monkeypatch) as made:
        yield made
        sys.modules.pop("benchmarks.gpu.tensorrt_worker", None)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-graph"])
def test_engines_answer_for_themselves(name: str, rig: Rig) -> None:
    tensorrt_worker = importlib.import_module("benchmarks.gpu.tensorrt_worker")  # over the fake that is there now
    variant = tensorrt_worker.make(str(rig.bundle.path), name)
    facts = variant.describe()
    assert facts["token_cosine"] > 0.99999
    assert facts["memory_bytes"] > 0
    done = variant.run(3)
    assert len(done.wall_ms) == 3
    assert len(done.gpu_ms) == (3 if name == "tensorrt" else 0)


def test_an_engine_of_an_earlier_run_is_asked_itself(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "benchmarks.gpu.kept_engine", raising=False)
    kept_engine = importlib.import_module("benchmarks.gpu.kept_engine")
    result, words = tmp_path / "result.json", [str(rig.bundle.path), "--json", str(tmp_path / "result.json")]
    assert kept_engine.main(words) == 0
    record = json.loads(result.read_text())
    assert (record["reused"], record["manifest"]["precision"]) == (True, "fp32")
    result.unlink()
    infer = rig.script.infer
    assert infer is not None
    rig.script.infer = lambda inputs: {name: array[..., ::-1] for name, array in infer(inputs).items()}
    assert kept_engine.main(words) == 1
    assert "is not kept: embedding is" in capsys.readouterr().err
    shutil.rmtree(rig.bundle.path / "engines")
    assert kept_engine.main(words) == 2
    assert "no engine is kept: " in capsys.readouterr().err
    assert not result.exists()


class FakeEvent:
    """A mark on a GPU that takes a millisecond for everything."""

    count = 0

    def __init__(self, **_: Any) -> None:
        self._at_ms = 0

    def record(self) -> None:
        FakeEvent.count += 1
        self._at_ms = FakeEvent.count

    def elapsed_time(self, end: "FakeEvent") -> float:
        return float(end._at_ms - self._at_ms)


@pytest.fixture
def cpu_for_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch has for a GPU, on the CPU; the precision of the tests' bundles counts as fp16."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, **_: self)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    memory = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (next(memory), 10**9))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    monkeypatch.setitem(torch_worker._DTYPES, "fp32", torch.float16)


@pytest.mark.usefixtures("cpu_for_gpu")
@pytest.mark.parametrize("name", ["torch", "torch-compile", "torch-compile-graph"])
def test_torch_answers_for_itself(name: str, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_worker._CHANGES, name, lambda model: model)
    variant = torch_worker.make(str(exported), name)
    facts = json.loads(json.dumps(variant.describe()))
    assert 0.999 < facts["token_cosine"] < 1 - 1e-9
    assert facts["embedding_cosine"] > 0.9999
    assert facts["memory_bytes"] == 10**6
    done = variant.run(3)
    assert (len(done.wall_ms), done.gpu_ms) == (3, (1.0, 1.0, 1.0))


@pytest.mark.usefixtures("cpu_for_gpu")
def test_a_cuda_graph_that_torch_left_out_is_no_cuda_graph(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = importlib.import_module("torch._dynamo.utils").counters
    monkeypatch.setitem(counters["inductor"], "cudagraph_skips", 1)
    monkeypatch.setitem(torch_worker._CHANGES, "torch-compile-graph", lambda model: model)
    with pytest.raises(RuntimeError, match=r"torch\.compile left out 1 CUDA graphs"):
        torch_worker.make(str(exported), "torch-compile-graph").describe()
    torch_worker.make(str(exported), "torch").describe()


def test_torch_computes_in_sixteen_bits_throughout(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a module gives, the rotation of q and k included."""
    monkeypatch.setitem(torch_worker._DTYPES, "fp32", torch.float16)
    bundle = Bundle.open(exported)
    model = torch_worker.Model(bundle).eval()
    seen: dict[str, set[torch.dtype]] = {}
    for module in model.encoder.modules():
        module.register_forward_hook(
            lambda module, _, result: seen.setdefault(type(module).__name__, set()).add(result.dtype)
        )
    assert model.encoder.rotary is not None
    assert model.encoder.rotary.cos_N1K.dtype == torch.float16
    with torch.inference_mode():
        model(torch.from_numpy(Reference.load(bundle).frames_BTHWC))
    assert {dtype for dtypes in seen.values() for dtype in dtypes} == {torch.float16}
    assert "RotaryTable" in seen
    assert "Conv3d" not in seen


def test_the_model_that_torch_runs_is_the_one_that_was_exported(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(torch_worker._DTYPES, "fp32", torch.float32)
    bundle = Bundle.open(exported)
    reference = Reference.load(bundle)
    with torch.inference_mode():
        tokens, embeddings = torch_worker.Model(bundle)(torch.from_numpy(reference.frames_BTHWC))
    assert reference.outputs.tokens_BND is not None
    np.testing.assert_allclose(tokens.numpy(), reference.outputs.tokens_BND, atol=1e-4)
    np.testing.assert_allclose(embeddings.numpy(), reference.outputs.embeddings_BD, atol=1e-5)  # type: ignore[arg-type]
