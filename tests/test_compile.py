"""Is an engine kept only if it computes rightly here; and is every reason why not told, with nothing left behind?

TensorRT and the GPU's driver are fakes with the real ones' surfaces; what an engine computes is ONNX Runtime's, or that
with an error in it.
"""

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tests.conftest import tiny_request
from tests.fake_cuda import FakeLibcuda, install
from tests.fake_tensorrt import VERSIONS, Script
from tests.tensorrt_here import installed
from vjepa2.bundle import MANIFEST, PORTABLE, Bundle
from vjepa2.cli import main
from vjepa2.engine_folder import ENGINES, list_engines, open_engine
from vjepa2.engine_manifest import Machine, Version
from vjepa2.errors import CompileError
from vjepa2.export.compile_request import CompileRequest, choose_profile, refuse_unfusable
from vjepa2.export.pipeline import export_bundle
from vjepa2.export.timing_cache import read_timings, write_timings
from vjepa2.manifest import FileInfo, Manifest, decode_manifest, encode_manifest
from vjepa2.publish import sha256_of
from vjepa2.runtime.backends.onnxrt import run_graph
from vjepa2.spec import ClipSpec

Run = Callable[..., tuple[int, str, str]]
Quality = Literal["right", "wrong", "NaN"]
ROOT = Path(__file__).parent.parent


@dataclass(slots=True)
class Rig:
    """A machine with a fake GPU and a fake TensorRT, and the command on it."""

    script: Script
    library: FakeLibcuda
    run: Run
    quality: Callable[[str, int], Quality]  # of the engine of a graph's folder at a level

    def levels(self) -> list[int]:
        """The levels that engines were built at, in order."""
        return [call["level"] for call in self.script.named("built")]


@pytest.fixture
def make_rig(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Rig]]:
    """A function that makes a machine with the TensorRT of a version, and a GPU of compute capability `sm`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "1000")

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main(["compile", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(done.value.code or 0), captured.out, captured.err

    with ExitStack() as stack:

        def make(version: str = "11.4", sm: tuple[int, int] = (8, 7)) -> Rig:
            library = install(FakeLibcuda(sm=sm), monkeypatch)
            script = Script(enqueue=library.enqueue)
            stack.enter_context(installed(version, script))
            rig = Rig(script, library, run, lambda folder, level: "right")
            script.infer = lambda inputs: infer(rig, inputs)
            return rig

        yield make


def infer(rig: Rig, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine that was built last computes."""
    graph = Path(rig.script.named("OnnxParser.parse_from_file")[-1]["model"])
    outputs = run_graph(graph, dict(inputs))
    quality = rig.quality(graph.parent.name, rig.levels()[-1])
    if quality == "right":
        return dict(outputs)
    noise = np.random.default_rng(0).standard_normal(outputs["tokens"].shape).astype(np.float32)
    bad = outputs["tokens"] + (np.float32(np.nan) if quality == "NaN" else np.float32(0.3)) * noise
    return {**outputs, "tokens": bad}


def engines_of(bundle: Path) -> list[str]:
    return sorted(entry.name for entry in (bundle / ENGINES).iterdir()) if (bundle / ENGINES).exists() else []


@pytest.fixture
def other(exported: Path, tmp_path: Path) -> Path:
    """A second bundle, to be tried after the first."""
    return Path(shutil.copytree(exported, tmp_path / "other"))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_that_passes_is_kept_with_all_that_it_says_of_itself(
    version: str, make_rig: Callable[..., Rig], bundle_copy: Path
) -> None:
    rig = make_rig(version)
    status, out, err = rig.run(bundle_copy, "--workspace", 64, "--json", "-")
    assert status == 0, err
    record = json.loads(out)
    bundle = Bundle.open(bundle_copy)
    [name] = engines_of(bundle_copy)
    full = {"8.6": "8.6.0", "10.3": "10.3.0", "10.13": "10.13.3.9", "10.16": "10.16.1.11", "11.4": "11.4.0.106"}[
        version
    ]
    assert name == f"nvidia-fake-{full}-fp32"
    assert f"{bundle_copy / ENGINES / name} is ready: level 3, worst token's cosine" in err
    assert "bundle (fp32, level 3): in the gate" in err
    cuda = Version.of_cuda(12020)
    here = Machine(
        gpu="NVIDIA Fake", sm=87, os="linux", arch=os.uname().machine, tensorrt=Version.parse(full),
        cuda_driver=cuda, cuda_runtime=None, multiprocessors=16,
    )  # fmt: skip
    engine = open_engine(bundle, here)
    stated = engine.manifest
    assert engine.plan == b"plan"
    assert stated.network_flags == (("EXPLICIT_BATCH",) if version == "8.6" else ("STRONGLY_TYPED",))
    assert (stated.builder_flags, stated.builder_level, stated.workspace_bytes) == ((), 3, 64 * 2**20)
    assert (stated.verdict.passed, stated.verdict.proved_by, stated.tried) == (True, "tensorrt", ())
    assert (stated.max_batch, stated.device_memory_bytes, stated.machine.sm) == (1, 4096, 87)
    assert record["manifest"]["machine"]["tensorrt"]["name"] == full
    assert rig.library.live() == 0


def test_the_device_proves_the_engine_without_torch_or_onnx(bundle_copy: Path, tmp_path: Path) -> None:
    code = "from vjepa2.export import tensorrt_notes, compile_request, timing_cache, build_watch, compile_cli"
    script = f"import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnx_ir', 'onnxruntime'])); {code}"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    sources = [(ROOT / "export" / name).read_text() for name in ("compile.py", "compile_cli.py", "tensorrt_api.py")]
    assert not any("import torch" in source or "import onnx" in source for source in sources)


def test_lower_levels_are_tried_on_the_same_graph(make_rig: Callable[..., Rig], bundle_copy: Path) -> None:
    rig = make_rig()
    rig.quality = lambda folder, level: "right" if level == 1 else "wrong"
    status, out, err = rig.run(bundle_copy, "--json", "-")
    assert status == 0
    assert rig.levels() == [3, 2, 1]
    record = json.loads(out)
    assert [attempt["verdict"]["passed"] for attempt in record["attempts"]] == [False, False, True]
    tried = record["manifest"]["tried"]
    assert [line[: line.index(": ")] for line in tried] == ["bundle (fp32, level 3)", "bundle (fp32, level 2)"]
    assert "token_worst is 0." in tried[0]
    assert all(line in err for line in tried)
    assert record["manifest"]["builder_level"] == 1


def test_a_level_below_is_all_that_a_low_one_leaves(make_rig: Callable[..., Rig], bundle_copy: Path) -> None:
    rig = make_rig()
    rig.quality = lambda folder, level: "wrong"
    assert rig.run(bundle_copy, "--level", 2)[0] == 1
    assert rig.levels() == [2, 1]


def test_a_bundle_that_is_the_working_folder_has_its_name(
    make_rig: Callable[..., Rig], bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    rig.quality = lambda folder, level: "wrong"
    manifest = replace(Bundle.open(bundle_copy).manifest, precision="fp16")
    (bundle_copy / MANIFEST).write_bytes(encode_manifest(manifest))
    monkeypatch.setattr(import_module("vjepa2.export.tensorrt_api"), "check_precision", lambda *_: None)
    for folder, word in ((bundle_copy, "."), (bundle_copy / ENGINES, "..")):
        folder.mkdir(exist_ok=True, mode=0o700)
        monkeypatch.chdir(folder)
        status, _, err = rig.run(word)
        assert status == 1
        assert "bundle (fp16, level 3): " in err
        assert f"-o {bundle_copy}-fp16-islands; then: vjepa2 compile {bundle_copy}-fp16-islands" in err


def test_what_a_user_accepted_at_export_is_accepted_here_by_name(
    make_rig: Callable[..., Rig], bundle_copy: Path
) -> None:
    rig = make_rig()
    rig.quality = lambda folder, level: "wrong"
    assert rig.run(bundle_copy)[0] == 1
    manifest, accepted = Bundle.open(bundle_copy).manifest, {"token_worst": 0.5, "relative_max": 9.0}
    parity = {name: replace(verdict, accepted=accepted) for name, verdict in manifest.parity.items()}
    (bundle_copy / MANIFEST).write_bytes(encode_manifest(replace(manifest, parity=parity)))
    status, out, err = rig.run(bundle_copy, "--json", "-")
    assert status == 0, err
    assert json.loads(out)["manifest"]["verdict"]["accepted"] == accepted


@pytest.mark.parametrize("quality", ["wrong", "NaN"])
def test_an_engine_that_computes_wrongly_is_not_kept(
    quality: Quality, make_rig: Callable[..., Rig], bundle_copy: Path, other: Path
) -> None:
    rig = make_rig()
    rig.quality = lambda folder, level: quality
    before = sorted(bundle_copy.iterdir())
    status, _, err = rig.run(bundle_copy, "--or", other)
    assert status == 1
    assert rig.levels() == [3, 2, 1, 3, 2, 1]
    for name in ("bundle", "other"):
        assert all(f"{name} (fp32, level {level}): " in err for level in (3, 2, 1))
    last = err.strip().splitlines()[-1]
    assert last.startswith("vjepa2: no engine passed its gate: bundle (fp32, level 3): ")
    assert "no precision is left to try" in last
    assert sorted(bundle_copy.iterdir()) == before
    assert not engines_of(other)
    assert rig.library.live() == 0


def test_what_was_no_number_at_one_level_is_written_beside_the_engine_of_the_next(
    make_rig: Callable[..., Rig], bundle_copy: Path
) -> None:
    rig = make_rig("8.6")
    rig.quality = lambda folder, level: "NaN" if level == 3 else "right"
    status, out, err = rig.run(bundle_copy, "--json", "-")
    assert status == 0, err
    first, second = json.loads(out)["attempts"]
    assert first["verdict"]["token_cosine"] == "NaN"
    assert second["verdict"]["passed"] is True


def test_the_next_bundle_is_tried_and_its_engine_kept_in_it(
    make_rig: Callable[..., Rig], bundle_copy: Path, other: Path
) -> None:
    rig = make_rig()
    rig.quality = lambda folder, level: "right" if folder == "other" else "wrong"
    status, out, _ = rig.run(bundle_copy, "--or", other, "--json", "-")
    assert status == 0
    assert rig.levels() == [3, 2, 1, 3]
    assert engines_of(other) == ["nvidia-fake-11.4.0.106-fp32"]
    assert not engines_of(bundle_copy)
    assert len(json.loads(out)["manifest"]["tried"]) == 3


def test_what_cannot_be_built_is_not_tried_at_lower_levels(
    make_rig: Callable[..., Rig], bundle_copy: Path, other: Path
) -> None:
    rig = make_rig()
    rig.script.plans, rig.script.messages = [None, b"plan"], [("ERROR", "write: No space left on device")]
    status, _, err = rig.run(bundle_copy, "--or", other)
    assert status == 0
    assert "built no plan of portable.onnx: write: No space left on device" in err
    assert rig.levels() == [3, 3]
    assert engines_of(other)


def test_bundles_of_one_folder_name_are_told_apart_and_all_tried(
    make_rig: Callable[..., Rig], bundle_copy: Path, tmp_path: Path
) -> None:
    rig = make_rig()
    twin = Path(shutil.copytree(bundle_copy, tmp_path / "twin" / bundle_copy.name))
    rig.script.plans, rig.script.messages = [None, b"plan"], [("ERROR", "write: No space left on device")]
    status, out, err = rig.run(bundle_copy, "--or", twin, "--json", "-")
    assert status == 0, err
    assert (engines_of(bundle_copy), len(engines_of(twin))) == ([], 1)
    assert [attempt["bundle"] for attempt in json.loads(out)["attempts"]] == [str(bundle_copy), str(twin)]


@pytest.mark.parametrize(
    "text",
    [
        "10: Could not find any implementation for node {ForeignNode}",
        "Cuda Runtime (out of memory)",
        "Internal Error (node {ForeignNode}: no valid tactic)",
    ],
)
def test_where_no_plan_is_made_lower_levels_are_tried(
    text: str, make_rig: Callable[..., Rig], bundle_copy: Path
) -> None:
    rig = make_rig()
    rig.script.plans, rig.script.messages = [None, None, b"plan"], [("ERROR", text)]
    status, out, err = rig.run(bundle_copy, "--json", "-")
    assert status == 0, err
    assert rig.levels() == [3, 2, 1]
    assert all(f"bundle (fp32, level {level}): TensorRT 11.4.0.106 built no plan" in err for level in (3, 2))
    assert text in err
    assert [(each["is_built"], each["is_final"]) for each in json.loads(out)["attempts"]] == [
        (False, False), (False, False), (True, False)
    ]  # fmt: skip
    rig.script.plans = [None]
    assert rig.run(bundle_copy)[0] == 2


@pytest.mark.parametrize("version", ["8.6", "11.4"])
def test_an_attempt_that_failed_holds_nothing_while_the_next_is_made(
    version: str, make_rig: Callable[..., Rig], bundle_copy: Path
) -> None:
    rig, counts = make_rig(version), []

    def count() -> None:
        counts.append(tuple(rig.script.count(kind) for kind in ("Builder", "INetworkDefinition", "OnnxParser")))

    rig.script.during_build, rig.script.phases = count, [("Building", None, 1)]
    rig.script.plans, rig.script.messages = [None], [("ERROR", "Could not find any implementation for node {x}")]
    gc.collect()
    gc.disable()
    try:
        assert rig.run(bundle_copy)[0] == 2
    finally:
        gc.enable()
    assert counts == [(1, 1, 1)] * 3


def test_an_engine_that_does_not_run_is_built_and_others_may(make_rig: Callable[..., Rig], bundle_copy: Path) -> None:
    rig, built = make_rig(), []

    def fail_after_building() -> None:
        built.append(True)
        rig.library.fail = {"cuMemAlloc_v2": 2} if len(built) < 3 else {}

    rig.script.phases, rig.script.during_build = [("Building", None, 1)], fail_after_building
    status, out, err = rig.run(bundle_copy, "--json", "-")
    assert status == 0, err
    assert rig.levels() == [3, 2, 1]
    first = json.loads(out)["attempts"][0]
    assert (first["is_built"], first["verdict"]) == (True, None)
    assert "CUDA_ERROR_OUT_OF_MEMORY" in first["faults"][0]
    shutil.rmtree(bundle_copy / ENGINES)
    built[:] = []
    rig.script.during_build = lambda: rig.library.fail.update({"cuMemAlloc_v2": 2})
    status, _, err = rig.run(bundle_copy)
    assert status == 1, "it was built, and did not pass"
    assert "vjepa2: no engine passed its gate: bundle (fp32, level 3): " in err
    assert not engines_of(bundle_copy)
    assert rig.library.live() == 0


def test_nothing_built_is_exit_2_and_nothing_is_left(make_rig: Callable[..., Rig], bundle_copy: Path) -> None:
    rig = make_rig()
    rig.script.plans = [None]
    status, _, err = rig.run(bundle_copy)
    assert status == 2
    assert "vjepa2: no engine could be built: bundle (fp32, level 3): TensorRT 11.4.0.106 built no plan" in err
    assert not engines_of(bundle_copy)


@pytest.mark.parametrize(("version", "link"), [("10.3", "issues/4723"), ("10.3", "issues/4419")])
@pytest.mark.parametrize("quality", ["right", "wrong"])
def test_a_version_known_to_be_wrong_is_named_and_gated_like_any_other(
    version: str, link: str, quality: Quality, make_rig: Callable[..., Rig], bundle_copy: Path
) -> None:
    rig = make_rig(version)
    rig.quality = lambda folder, level: quality
    status, _, err = rig.run(bundle_copy)
    assert "note: TensorRT 10.3.0 was reported to compute wrongly" in err
    assert link in err
    assert status == (0 if quality == "right" else 1)
    assert bool(engines_of(bundle_copy)) == (quality == "right")


def test_no_option_leaves_the_gate_out(make_rig: Callable[..., Rig]) -> None:
    status, out, _ = make_rig().run("--help")
    assert status == 0
    options = {word.rstrip(",") for word in out.split() if word.startswith("--")}
    assert options == {
        "--or",
        "--max-batch",
        "--level",
        "--workspace",
        "--timings",
        "--if-possible",
        "--json",
        "--help",
    }


def test_attention_of_a_long_clip_must_be_fused_in_every_block(
    make_rig: Callable[..., Rig], bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    monkeypatch.setattr(import_module("vjepa2.export.compile"), "LONGEST_UNFUSED", 1)
    rig.script.layers = [{"Name": "_gemm_mha_v2_myl0_1"}, {"Name": "linear"}]
    status, _, err = rig.run(bundle_copy)
    assert status == 1
    assert "1 blocks of 2 have fused attention; with 48 tokens all must" in err
    assert not engines_of(bundle_copy)
    rig.script.layers = [{"Name": "_gemm_mha_v2_myl0_1"}, {"Name": "b", "TacticName": "kgen_mha_7"}]
    status, _, err = rig.run(bundle_copy)
    assert status == 0
    assert "fused attention in 2 layers" in err


def test_what_the_inspector_does_not_tell_is_recorded_as_unknown(
    make_rig: Callable[..., Rig], bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig("8.6")
    rig.script.information = b'{"Layers": ["\xb0"]}'
    status, out, err = rig.run(bundle_copy, "--json", "-")
    assert status == 0, err
    assert "note: fused attention is not counted: the engine inspector's answer is no UTF-8" in err
    assert "fused attention in an unknown number of layers" in err
    assert json.loads(out)["manifest"]["fused_attention"] is None
    [listing] = list_engines(Bundle.open(bundle_copy))
    assert listing.manifest is not None
    assert listing.manifest.fused_attention is None
    shutil.rmtree(bundle_copy / ENGINES)
    monkeypatch.setattr(import_module("vjepa2.export.compile"), "LONGEST_UNFUSED", 1)
    monkeypatch.setattr(import_module("vjepa2.export.compile"), "_SCORE_BYTES", 0.1)
    status, _, err = rig.run(bundle_copy)
    assert status == 1
    assert "with 48 tokens all attention must be fused; the engine inspector's answer is no UTF-8" in err
    assert not engines_of(bundle_copy)


def long_clip(manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest of 8,192 tokens."""
    return replace(manifest, clip=ClipSpec(frames=64, height=256, width=256), **changes)


@pytest.mark.parametrize(
    ("count", "memory_bytes", "head", "is_fused"),
    [
        (2, 2**40, "embedding", True),
        (1, 2**20, "embedding", False),
        (0, 2**20, "embedding", False),
        (3, 2**20, "embedding", False),
        (3, 2**20, "classifier", True),
        (None, 2**20, "embedding", True),  # 8.6 hides kernels; 400 MB of scores a block would not fit
        (None, 2**29, "embedding", False),
    ],
)
def test_fused_attention_is_counted_or_shown_by_memory(
    count: int | None,
    memory_bytes: int,
    head: Any,
    is_fused: bool,
    exported: Path,
    make_rig: Callable[..., Rig],
) -> None:
    make_rig()
    module = import_module("vjepa2.export.compile")
    facts = module.PlanFacts(io=(), fused_attention=count, device_memory_bytes=memory_bytes)
    manifest = long_clip(Bundle.open(exported).manifest, head=head)
    assert (module.find_unfused(manifest, facts) == ()) == is_fused


def test_a_long_clip_in_float32_is_refused_before_it_is_built(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    refuse_unfusable(manifest)
    refuse_unfusable(long_clip(manifest, precision="fp16"))
    with pytest.raises(
        CompileError, match=r"fp32 and has 8192 tokens; TensorRT never fuses .* export it with --precision"
    ):
        refuse_unfusable(long_clip(manifest))


def test_a_bundle_of_dynamic_batch_needs_to_know_how_many_clips_at_most(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    folder = export_bundle(tiny_request(batch="dynamic", simplify=False), tmp_path / "dynamic").bundle.path
    rig = make_rig()
    status, _, err = rig.run(folder)
    assert status == 2
    assert "say with --max-batch how many clips a call has at most" in err
    rig.script.most_clips = 4
    status, out, err = rig.run(folder, "--max-batch", 4, "--json", "-")
    assert status == 0, err
    assert json.loads(out)["manifest"]["profile"]["frames"]["most"] == [4, 4, 64, 96, 3]
    [shape] = rig.script.named("IOptimizationProfile.set_shape")
    assert (shape["min"][0], shape["opt"][0], shape["max"][0]) == (1, 4, 4)


def test_a_fixed_batch_takes_no_other(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    assert choose_profile(manifest, 1) == choose_profile(manifest, None)
    with pytest.raises(CompileError, match="the bundle's batch is 1 and --max-batch 2; leave it out"):
        choose_profile(manifest, 2)


def test_no_tensorrt_is_told(make_rig: Callable[..., Rig], bundle_copy: Path) -> None:
    rig = make_rig()
    sys.modules.pop("tensorrt")  # monkeypatch would put it back after the fake was taken away
    status, _, err = rig.run(bundle_copy)
    assert (status, err.count("\n")) == (2, 1)
    assert "no engine for bundle: tensorrt is not installed (pip install 'vjepa2-edge[tensorrt]'" in err
    assert not engines_of(bundle_copy)


def test_no_gpu_is_told(make_rig: Callable[..., Rig], bundle_copy: Path) -> None:
    rig = make_rig()
    rig.library.fail["cuInit"] = 100
    status, _, err = rig.run(bundle_copy)
    assert (status, err.count("\n")) == (2, 1)
    assert "no engine for bundle: there is no CUDA GPU" in err
    assert not rig.script.calls


@pytest.mark.parametrize("lacks", ["tensorrt", "gpu"])
def test_what_is_asked_for_if_possible_is_skipped_only_where_something_is_missing(
    lacks: str, make_rig: Callable[..., Rig], bundle_copy: Path
) -> None:
    rig = make_rig()
    rig.script.plans = [None]
    assert rig.run(bundle_copy, "--if-possible")[0] == 2, "a build that fails is a failure"
    if lacks == "gpu":
        rig.library.fail["cuInit"] = 100
    else:
        sys.modules.pop("tensorrt")
    status, out, err = rig.run(bundle_copy, "--if-possible")
    assert (status, out) == (0, "")
    assert err.startswith("skipped: no engine for bundle: ")
    (bundle_copy / PORTABLE).write_bytes(b"")
    assert rig.run(bundle_copy, "--if-possible")[0] == 2, "nor is a damaged bundle a reason to skip it"


# as vjepa2: what each verb is asked to end with, and the engine that compile would make
_VERBS = """#!/bin/sh
echo "$@" >> {log}
case $1 in compile) {made} exit {compiled};; embed) exit {embedded};; esac
"""


@pytest.mark.parametrize(
    ("precision", "compiled", "embedded", "engine", "is_green"),
    [
        ("fp32", 0, 0, True, True),
        ("fp32", 0, 2, True, False),
        ("fp32", 2, 0, False, False),
        ("fp32", 1, 0, False, False),
        ("fp16", 0, 2, False, True),  # nothing here computes in fp16: told, and no failure
        ("fp16", 0, 2, True, False),  # an engine would
        ("fp16", 0, 1, False, False),
    ],
)
def test_make_export_takes_no_failure_for_something_that_is_missing(
    precision: str, compiled: int, embedded: int, engine: bool, is_green: bool, tmp_path: Path
) -> None:
    verbs, out = tmp_path / "vjepa2", tmp_path / "out"
    made = f"mkdir -p {out}/engines;" if engine else ""
    verbs.write_text(_VERBS.format(log=tmp_path / "log", made=made, compiled=compiled, embedded=embedded))
    verbs.chmod(0o700)
    words = ["make", "--assume-old", ".venv/installed", "export", f"VJEPA2={verbs}", f"OUT={out}"]
    done = subprocess.run([*words, f"PRECISION={precision}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == is_green, done.stderr
    assert f"compile {out} --if-possible" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("kind", "library", "told"),
    [
        ("ImportError", "libnvinfer.so.10", "needs libnvinfer.so.10: cannot open shared object file"),
        (
            "OSError",
            "libcudart.so.12",
            "vjepa2-edge[tensorrt] does not load (libcudart.so.12: cannot open shared object file)",
        ),
    ],
)
def test_a_tensorrt_that_cannot_be_loaded_is_told(
    kind: str, library: str, told: str, make_rig: Callable[..., Rig], bundle_copy: Path, tmp_path: Path
) -> None:
    """As real bindings without their libraries: those beside them, and those that they load themselves."""
    rig = make_rig()
    (tmp_path / "tensorrt.py").write_text(f"raise {kind}('{library}: cannot open shared object file')\n")
    sys.modules.pop("tensorrt")
    sys.path.insert(0, str(tmp_path))
    try:
        status, _, err = rig.run(bundle_copy)
    finally:
        sys.path.remove(str(tmp_path))
    assert (status, err.count("\n")) == (2, 1)
    assert told in err


def test_a_tensorrt_that_is_too_old_is_told(make_rig: Callable[..., Rig], bundle_copy: Path) -> None:
    rig = make_rig("8.6")
    sys.modules["tensorrt"].__version__ = "8.5.2"  # type: ignore[attr-defined]
    status, _, err = rig.run(bundle_copy)
    assert status == 2
    assert "TensorRT is 8.5.2; it must be 8.6 or newer" in err
    assert not engines_of(bundle_copy)


NO_GRAPH = b"\x3a\x03\x5a\x01\x0f"  # whole as far as tensors are looked for, and spoilt in an input


@pytest.mark.parametrize("version", ["8.6", "11.4"])
def test_a_spoilt_graph_is_told(version: str, make_rig: Callable[..., Rig], bundle_copy: Path) -> None:
    rig = make_rig(version)
    for data in (b"\x08not a graph", NO_GRAPH):
        (bundle_copy / PORTABLE).write_bytes(data)
        status, _, err = rig.run(bundle_copy)
        assert (status, rig.script.calls) == (2, [])
        assert f"portable.onnx has {len(data)} bytes; its manifest says" in err
    forge(bundle_copy)
    status, _, err = rig.run(bundle_copy)
    assert status == 2
    assert "does not take portable.onnx" in err
    assert not engines_of(bundle_copy)


def forge(folder: Path) -> None:
    """Let the manifest say what its files are, as who can write the folder can."""
    manifest = decode_manifest((folder / MANIFEST).read_bytes())
    file = folder / PORTABLE
    files = manifest.files | {PORTABLE: FileInfo(sha256=sha256_of(file), bytes=file.stat().st_size)}
    (folder / MANIFEST).write_bytes(encode_manifest(replace(manifest, files=files)))


def test_too_little_disk_is_told_before_anything_is_built(
    make_rig: Callable[..., Rig], bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    status, _, err = rig.run(bundle_copy)
    assert status == 2
    assert "has 1 MB of disk left and an engine needs about" in err
    assert not rig.script.named("Builder.build_serialized_network")
    assert not engines_of(bundle_copy)


def test_timings_are_kept_for_the_next_build_in_a_private_folder(
    make_rig: Callable[..., Rig], bundle_copy: Path, tmp_path: Path
) -> None:
    rig = make_rig("10.16")
    assert rig.run(bundle_copy)[0] == 0
    [file] = (tmp_path / "cache" / "vjepa2-edge" / "timings").iterdir()
    assert file.name == f"10.16.1.11-nvidia-fake-sm87-16-{os.uname().machine}.timings".replace("_", "-")
    assert (file.read_bytes(), file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (
        b"timings of plan",
        0o600,
        0o700,
    )
    assert rig.run(bundle_copy)[0] == 0
    taken = rig.script.named("IBuilderConfig.create_timing_cache")
    assert [call["serialized_timing_cache"] for call in taken] == [b"", b"timings of plan"]


def test_timings_that_do_not_fit_are_noted(make_rig: Callable[..., Rig], bundle_copy: Path) -> None:
    rig = make_rig()
    assert rig.run(bundle_copy)[0] == 0
    rig.script.cache_matches = False
    status, _, err = rig.run(bundle_copy)
    assert status == 0
    assert "note: the timings of earlier builds are of another device or spoilt: they are measured again" in err


HERE = Machine(
    gpu="x", sm=87, os="linux", arch="a", tensorrt=Version.parse("10.3.0"),
    cuda_driver=Version.of_cuda(12020), cuda_runtime=None,
)  # fmt: skip


def test_a_folder_of_timings_that_others_can_use_is_refused(make_rig: Callable[..., Rig], bundle_copy: Path) -> None:
    rig = make_rig()
    public = bundle_copy.parent / "public"
    public.mkdir(mode=0o755)
    status, _, err = rig.run(bundle_copy, "--timings", public)
    assert status == 2
    assert f"{public} can be used by others (drwxr-xr-x); TensorRT parses what is in it: chmod 700 {public}" in err
    assert not rig.script.named("Builder.build_serialized_network")
    assert not list(public.iterdir())


def test_timings_of_another_owner_or_place_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "timings"
    assert read_timings(folder, HERE) == b""
    write_timings(folder, HERE, b"measured")
    assert read_timings(folder, HERE) == b"measured"
    assert read_timings(folder, replace(HERE, sm=89)) == b""
    [file] = folder.iterdir()
    file.chmod(0o640)
    with pytest.raises(CompileError, match=r"can be used by others .*chmod 600"):
        read_timings(folder, HERE)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CompileError, match="is not a regular file"):
        read_timings(folder, HERE)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(CompileError, match="link is not a folder"):
        read_timings(tmp_path / "link", HERE)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(CompileError, match=r"belongs to user \d+, not to you \(12345\)"):
        read_timings(folder, HERE)
    with pytest.raises(CompileError, match="belongs to user"):
        write_timings(folder, HERE, b"x")


def test_levels_go_down_from_the_one_asked_for(exported: Path, tmp_path: Path) -> None:
    request = CompileRequest(bundles=(Bundle.open(exported),), timings=tmp_path, level=5)
    assert [replace(request, level=level).levels for level in (5, 3, 2, 1, 0)] == [
        (5, 2, 1),
        (3, 2, 1),
        (2, 1),
        (1,),
        (0,),
    ]


_BUILD = """
import os, signal, sys, threading, time
import pytest
from tests.fake_cuda import FakeLibcuda, install
from tests.fake_tensorrt import Script, install as install_tensorrt
from vjepa2.cli import main

pressed = []

def press():
    if not pressed:
        pressed.append(True)
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
    for _ in range(1000 if sys.argv[1] == "8.6" else 0):
        time.sleep(1)

script = Script(phases=[("Building", None, 50)], during_build=press)
install(FakeLibcuda(), pytest.MonkeyPatch())
install_tensorrt(sys.argv[1], script)
main(["compile", sys.argv[2]])
"""


@pytest.mark.parametrize("version", ["8.6", "10.16"])
def test_a_build_that_is_interrupted_leaves_nothing(version: str, bundle_copy: Path, tmp_path: Path) -> None:
    """Where TensorRT can be stopped it is, and ends; where it cannot, the process does."""
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, version, str(bundle_copy)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 130, done.stderr
    assert "interrupted; nothing half-written was left behind" in done.stderr
    assert not engines_of(bundle_copy)
    assert not list((tmp_path / "cache" / "vjepa2-edge" / "timings").iterdir())
