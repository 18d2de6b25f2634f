"""Does `make gpu` say what is missing, let the variants take turns, and write down what it was told? No GPU is needed.

The interpreters are scripts that answer as the real ones would; only they know that nothing is computed.
"""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import interpreters, machine, torch_worker
from benchmarks.gpu.__main__ import Places, compare_workers, main
from benchmarks.gpu.cases import Case, choose_cases, export_case, run_verb
from benchmarks.gpu.interpreters import GpuBenchmarkError, Interpreter, find_interpreters
from benchmarks.gpu.pipes import Block, VariantError, Worker, WorkerError
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
# answers as an interpreter does: what it has, the verbs of vjepa2, a worker of the benchmark
_SCRIPT = """#!{python}
import json, shutil, sys
words = sys.argv[1:]
if words[0] == "-c":
    print("noise of a library")
    print({probe!r})
elif words[1] == "vjepa2":
    print(words[2], "goes on", file=sys.stderr)
    if {verb_status} == 0 and words[2] == "export":
        shutil.copytree({bundle!r}, words[words.index("-o") + 1])
    record = {{"manifest": {{"builder_level": 3, "fused_attention": 2, "device_memory_bytes": 10**6,
              "plan": {{"bytes": 2 * 10**6}}, "verdict": {{"accepted": {accepted}}}}}, "words": words}}
    if {verb_status} == 0:
        open(words[-1], "w").write(json.dumps(record))
    sys.exit({verb_status})
else:
    sys.path.insert(0, {root!r})
    from benchmarks.gpu.pipes import Block, serve
    class Fake:
        def __init__(self, name, ms): self.name, self.ms = name, ms
        def describe(self):
            print("this is not an answer")
            if self.ms is None: raise RuntimeError("no compiler\\nand more")
            if self.name == {vague!r}: return {{"token_cosine": float("nan")}}
            return {{"token_cosine": 0.9999, "embedding_cosine": 1.0, "memory_bytes": 5 * 10**6}}
        def run(self, calls):
            if self.name == {dies!r}: sys.exit(3)
            return Block(gpu_ms=(self.ms,) * calls, wall_ms=(self.ms + 1,) * calls)
    names = {{"tensorrt": 2.0}} if "tensorrt" in words[1] else {{"torch": 4.0, "torch-compile": None}}
    serve(lambda: {{name: Fake(name, ms) for name, ms in names.items()}})
"""


@pytest.fixture
def make_interpreter(tmp_path: Path, exported: Path) -> Callable[..., str]:
    """A function that writes an interpreter of a role; what it has may be changed."""

    def make(
        role: str, *, verb_status: int = 0, dies: str = "", vague: str = "", accepted: Any = (), **changes: Any
    ) -> str:
        found = {"python": "3.10.13", "gpu": GPU, "no_gpu": None} | HAS[role] | changes
        file = tmp_path / role.lower()
        file.write_text(
            _SCRIPT.format(
                python=sys.executable,
                probe=json.dumps(found),
                verb_status=verb_status,
                bundle=str(exported),
                root=str(interpreters.ROOT),
                dies=dies,
                vague=vague,
                accepted=dict(accepted),
            )
        )
        file.chmod(0o700)
        return str(file)

    return make


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
    files = sorted(places.docs.iterdir())
    assert [file.name for file in files] == [
        "nvidia-fake-tensorrt-8.6.0.json",
        "nvidia-fake-tensorrt-8.6.0.md",
    ]
    record, table = json.loads(files[0].read_text()), files[1].read_text()
    assert [case["case"]["name"] for case in record["cases"]] == ["tiny", "vitl"]
    for case in record["cases"]:
        found = case["comparison"]
        assert found["variants"]["tensorrt"]["gpu"]["p50_ms"] == 2.0
        assert found["gpu_ratios"] == {"torch": {"median": 2.0, "least": 2.0, "most": 2.0}}
        assert found["wall_ratios"]["torch"]["median"] == pytest.approx(5 / 3)
        assert found["failures"] == {"torch-compile": "RuntimeError: no compiler"}
    assert "| vitl | fp16 | torch | 4.000 | 5.000, 5.000 | 2.00 (2.00 to 2.00) | 1.67 (1.67 to 1.67) |" in table
    assert "fused attention in 2 of 2 blocks; plan 2 MB, a context 1 MB; vjepa2 plan reckons" in table
    planned = plan_memory(tiny_spec(), TINY_CLIP, precision="fp16", fused=True).run_bytes
    assert {case["planned_bytes"] for case in record["cases"]} == {planned}
    assert f"reckons {planned / 1e6:.0f} MB for a run, 5 MB were taken" in table
    assert "not as it must be: torch-compile: RuntimeError: no compiler" in table
    assert capsys.readouterr().out.startswith("# NVIDIA Fake, TensorRT 8.6.0, torch 2.11.0+cu130")


def test_without_onnxsim_export_is_told_to_leave_it_out(make_interpreter: Callable[..., str], tmp_path: Path) -> None:
    words = {}
    for name, extra in (("without", {}), ("with", {"onnxsim": "0.8"})):
        make_interpreter("PYTHON", versions=MODULES | COMMON | extra)
        found = find_interpreters(
            {"PYTHON": str(tmp_path / "python"), "TENSORRT_PYTHON": make_interpreter("TENSORRT_PYTHON")}
        )
        step = export_case(Case(name="tiny", precision="fp16"), found["PYTHON"], tmp_path / name, reuse=False)
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
    precision: Precision, make_interpreter: Callable[..., str], tmp_path: Path
) -> None:
    """The words are read as the command reads them."""
    path = make_interpreter("PYTHON")
    python = Interpreter(role="PYTHON", path=path, python="3.12", versions={}, gpu=GPU, has_bf16=False)
    step = export_case(Case(name="vitl", precision=precision), python, tmp_path, reuse=False)
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
    assert "in its gate with token_median=0.998, token_p01=0.996 accepted; fused" in capsys.readouterr().out


def test_a_whole_bundle_is_taken_again_only_if_asked(make_interpreter: Callable[..., str], tmp_path: Path) -> None:
    path = make_interpreter("PYTHON")
    python = Interpreter(role="PYTHON", path=path, python="3.12", versions={}, gpu=GPU, has_bf16=False)
    case = Case(name="tiny", precision="fp16")
    assert export_case(case, python, tmp_path, reuse=True).record != {"reused": True}
    assert export_case(case, python, tmp_path, reuse=True).record == {"reused": True}
    (tmp_path / case.folder / "weights.data").write_bytes(b"")
    again = export_case(case, replace(python, path="/bin/false"), tmp_path, reuse=True)
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


def test_bf16_is_measured_where_tensorrt_has_it() -> None:
    trt = Interpreter(role="TENSORRT_PYTHON", path="", python="3.12", versions={}, gpu=GPU, has_bf16=True)
    assert [case.folder for case in choose_cases(trt)] == ["tiny-fp16", "tiny-bf16", "vitl-fp16", "vitl-bf16"]


def test_a_verb_that_could_not_ends_the_run_and_one_that_measured_ends_its_case(
    make_interpreter: Callable[..., str], places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GpuBenchmarkError, match="vjepa2 export random ended with exit status 2: export goes on"):
        run_verb(make_interpreter("PYTHON", verb_status=2), ["export", "random"])
    words = arguments(make_interpreter("PYTHON"), make_interpreter("TENSORRT_PYTHON", verb_status=1))
    assert main(words, places) == 1
    out = capsys.readouterr().out
    assert "- tiny-fp16: exported in" in out
    assert "not as it must be: compile goes on" in out
    assert "| tiny |" not in out


def test_a_worker_that_dies_ends_its_case(
    make_interpreter: Callable[..., str], places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(make_interpreter("PYTHON"), make_interpreter("TENSORRT_PYTHON", dies="tensorrt"))
    assert main(words, places) == 1
    assert "not as it must be: a worker ended with exit status 3" in capsys.readouterr().out
    with pytest.raises(WorkerError, match="a worker ended with exit status 1"):
        Worker([sys.executable, "-c", "import sys; sys.exit(1)"])


def test_workers_answer_in_turns_whatever_they_print(make_interpreter: Callable[..., str]) -> None:
    commands = [
        [make_interpreter("TENSORRT_PYTHON"), "-m", "benchmarks.gpu.tensorrt_worker"],
        [make_interpreter("PYTHON"), "-m", "benchmarks.gpu.torch_worker"],
    ]
    facts, found = compare_workers(commands, rounds=2, calls=3)
    assert set(facts) == set(found.variants) == {"tensorrt", "torch"}
    assert found.variants["torch"].wall.calls == 6


def test_a_variant_without_finite_figures_is_a_failure(make_interpreter: Callable[..., str]) -> None:
    command = [make_interpreter("PYTHON", vague="torch"), "-m", "benchmarks.gpu.torch_worker"]
    facts, found = compare_workers([command], rounds=1, calls=1)
    assert (facts, found.variants) == ({}, {})
    assert found.failures["torch"].startswith("it gives numbers that are not finite: {'token_cosine': nan")


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

    compare({name: run_of(name) for name in "abc"}, base="a", rounds=3, calls=1)
    assert "".join(order[-9:]) == "abccbaabc"


def test_a_variant_that_fails_halfway_is_told_and_nothing_of_it_is_kept() -> None:
    calls_left = iter(range(5))

    def fail(calls: int) -> Block:
        if next(calls_left, None) is None:
            raise VariantError("out of memory")
        return block(1.0)

    found = compare({"a": lambda calls: block(1.0), "b": fail}, base="b", rounds=4, calls=1)
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
    program.write_text(
        "#!/bin/sh\necho 'NVIDIA Fake, 550.1, P0, 1980 MHz, 2619 MHz, 40, 90.5 W, 700.00 W, 0x0, 1 MiB'\n"
    )
    program.chmod(0o700)
    state = machine.read_gpu_state()
    assert state is not None
    assert (state["clocks.sm"], state["temperature.gpu"]) == ("1980 MHz", "40")
    program.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    assert machine.read_gpu_state() is None


# ---- the variants themselves, as far as they run without a GPU


@pytest.fixture
def rig(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with make_rig("8.6", bundle_copy, monkeypatch) as made:
        yield made
        sys.modules.pop("benchmarks.gpu.tensorrt_worker", None)


def test_engines_answer_for_themselves(rig: Rig) -> None:
    tensorrt_worker = importlib.import_module("benchmarks.gpu.tensorrt_worker")  # over the fake that is there now
    variants = tensorrt_worker.make(str(rig.bundle.path))
    assert list(variants) == ["tensorrt", "tensorrt-graph"]
    for name, variant in variants.items():
        facts = variant.describe()
        assert facts["token_cosine"] > 0.99999
        assert facts["memory_bytes"] > 0
        done = variant.run(3)
        assert len(done.wall_ms) == 3
        assert len(done.gpu_ms) == (3 if name == "tensorrt" else 0)


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
