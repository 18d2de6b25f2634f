"""Is what a model costs reckoned as by hand, as files are, and as ONNX Runtime takes it?"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from tests.conftest import make_bundle, tiny_encoder, tiny_spec, version_21
from tests.test_imports import HEAVY, ROOT, run_blocked
from vjepa2.bundle import ONNXRUNTIME, PORTABLE, WEIGHTS, Bundle
from vjepa2.errors import SpecError, UnknownNameError
from vjepa2.export.devices import DEVICES, THIS_MACHINE, Device, check_device
from vjepa2.export.file_sizes import graph_file_bytes, list_tensors, weights_file_bytes
from vjepa2.export.fit import count_needs, find_longest, fit_device
from vjepa2.export.lower import lower_graph
from vjepa2.export.memory import Engine, MemoryPlan, plan_memory
from vjepa2.export.quantize import Eight, EightBits, choose_layers
from vjepa2.export.this_machine import measure_machine
from vjepa2.export.trace import trace_model
from vjepa2.export.variants import make_variants
from vjepa2.export.weights_file import write_tensors
from vjepa2.headed import PlainEncoder
from vjepa2.manifest import Precision
from vjepa2.registry import RELEASES
from vjepa2.spec import ClipSpec, ModelSpec

VITL = RELEASES["vitl"].spec
CLIP = ClipSpec(frames=16, height=256, width=256)  # 2048 tokens
LARGE = ClipSpec(frames=64, height=384, width=384)  # 18,432 tokens
WIDTH = 2048 * 1024 * 4  # bytes: a float32 tensor of 2048 tokens of ViT-L
PAGE = 4096  # bytes: how far the file of weights depends on the order of what is in it
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
EIGHT_BITS: dict[Precision, Eight] = {"int8": "int8", "fp8": "fp8"}
CARD = Device(
    name="card",
    memory_bytes=2_000_000_000,
    reserved_bytes=500_000_000,
    is_shared=False,
    gigabytes_per_second=100.0,
    tera={"fp32": 2.0, "fp16": 10.0, "int8": 20.0},
    source="this test",
)


def of_frames(frames: int) -> MemoryPlan:
    return plan_memory(VITL, replace(CLIP, frames=frames))


def of_vitl(depth: int = 24, clip: ClipSpec = CLIP, *, engine: Engine) -> MemoryPlan:
    return plan_memory(replace(VITL, depth=depth), clip, precision="fp32", engine=engine)


@pytest.mark.parametrize("name", RELEASES)
def test_float32_weights_are_four_bytes_a_parameter(name: str) -> None:
    spec = RELEASES[name].spec
    assert plan_memory(spec, spec.clip, precision="fp32").weights_bytes == 4 * spec.parameters


def test_matrices_take_the_bytes_of_their_precision_and_the_rest_stays_float32() -> None:
    blocks = 24 * (4 * 1024**2 + 2 * 1024 * 4096)
    patches = 1536 * 1024
    biases = 24 * 3 * 1024  # of q, k and v
    rest = VITL.parameters - blocks - patches - biases
    scales = 24 * (3 * 1024 + 1024 + 4096 + 1024)
    fp16, bf16, int8, fp8 = (plan_memory(VITL, CLIP, precision=precision) for precision in PRECISIONS[1:])
    assert fp16.weights_bytes == bf16.weights_bytes == 2 * (blocks + biases) + 4 * (patches + rest)
    assert int8.weights_bytes == blocks + 4 * (patches + biases + rest + scales)
    assert fp8.weights_bytes == blocks + 4 * (patches + biases + rest + 24 * 4)
    assert fp16.tables_bytes == 4 * (2 * 2048 * 64 + 2048)


def test_unfused_float32_scores_of_18432_tokens_are_22_gigabytes_a_layer() -> None:
    plan = plan_memory(VITL, LARGE, precision="fp32")
    assert plan.attention == "scores in memory"
    assert plan.scores_bytes == 16 * 18432**2 * 4 == 21_743_271_936
    assert plan_memory(VITL, LARGE, precision="fp16", fused=False).scores_bytes == 21_743_271_936 // 2
    assert plan_memory(RELEASES["vitg-384"].spec, LARGE, fused=False).scores_bytes == 22 * 18432**2 * 2


def test_fused_attention_holds_nothing_that_grows_with_the_square_of_the_tokens() -> None:
    one, two = (plan_memory(VITL, replace(CLIP, frames=frames), precision="fp16") for frames in (32, 64))
    assert one.attention == two.attention == "fused"
    assert one.scores_bytes == two.scores_bytes == 0
    assert two.activations_bytes == 2 * one.activations_bytes
    assert two.attention_flops == 4 * one.attention_flops
    # normed tokens and the MLP's inner width before and after GELU in 16 bit, the residual stream in 32
    assert plan_memory(VITL, CLIP).activations_bytes == 2048 * (4 * 1024 + 2 * (1024 + 2 * 4096))


def test_onnx_runtime_holds_its_pool_what_passes_by_and_what_malloc_keeps() -> None:
    portable, fused = of_vitl(2, engine="onnxruntime-portable"), of_vitl(2, engine="onnxruntime")
    assert portable.activations_bytes == (31 + 1) * WIDTH  # 3 qkv, 8 rotation, 8 narrow, 3 times the MLP's 4
    assert fused.activations_bytes == (29 + 3) * WIDTH
    assert portable.scores_bytes == 16 * 2048**2 * 4
    assert fused.scores_bytes == 0
    assert (portable.heap_bytes, fused.heap_bytes) == (7 * WIDTH, 6 * WIDTH)
    assert of_vitl(24, engine="onnxruntime").heap_bytes == 2 * 22 * WIDTH  # copies that are not reused
    assert of_vitl(24, replace(CLIP, frames=64), engine="onnxruntime").heap_bytes == 0  # 32 MiB are mapped, not heaped
    parts = portable.weights_bytes + portable.tables_bytes + portable.frames_bytes + portable.activations_bytes
    assert portable.run_bytes == parts + portable.scores_bytes + portable.runtime_bytes + portable.heap_bytes


def test_an_added_table_saves_the_rotation() -> None:
    added, turned = (
        plan_memory(RELEASES[name].spec, CLIP, precision="fp32", engine="onnxruntime")
        for name in ("vitl-sincos", "vitl")
    )
    assert turned.activations_bytes - added.activations_bytes == 6 * WIDTH
    assert added.tables_bytes == WIDTH + 4 * 2048


def test_a_batch_multiplies_everything_but_the_weights() -> None:
    one, three = (plan_memory(VITL, CLIP, batch=batch, fused=False) for batch in (1, 3))
    for field in ("frames_bytes", "outputs_bytes", "activations_bytes", "scores_bytes", "flops"):
        assert getattr(three, field) == 3 * getattr(one, field)
    assert three.weights_bytes == one.weights_bytes
    assert one.flops == VITL.flops(CLIP)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_are_as_large_as_export_writes_them(tmp_path: Path, precision: Precision) -> None:
    bundle = make_bundle(f"planned-{precision}", tmp_path, precision=precision, simplify=False)
    model = Bundle.open(bundle).manifest.model
    tensors = list(list_tensors(model, model.clip, precision))
    assert weights_file_bytes(tensors) == (bundle / WEIGHTS).stat().st_size
    for graph in bundle.glob("*.onnx"):
        assert graph_file_bytes(model, precision) == pytest.approx(graph.stat().st_size, rel=0.2), graph.name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["rotary", "sincos", "2.1", "2.1's image"])
def test_every_tensor_is_as_large_as_export_stores_it(kind: str, precision: Precision) -> None:
    spec = tiny_spec() if kind != "sincos" else replace(tiny_spec(), positions="sincos")
    spec = version_21(spec, (0, 1)) if kind.startswith("2.1") else spec
    clip = spec.make_clip(1, spec.clip.height, spec.clip.width) if kind.endswith("image") else spec.clip
    traced = trace_model(PlainEncoder(tiny_encoder(spec, clip), has_mean=True), ("tokens", "embedding"))
    eight = None
    if precision in EIGHT_BITS:
        ranges = {name.removesuffix(".weight"): 1.0 for name in traced.tensors if name.startswith("blocks")}
        layers = {name: most for name, most in ranges.items() if "norm" not in name}
        eight = EightBits(EIGHT_BITS[precision], choose_layers(layers, traced.tensors))
    stored = make_variants(traced, precision, eight, is_dynamic=False).tensors.values()
    planned = list(list_tensors(spec, clip, precision))
    found = Counter((tensor.numel(), tensor.element_size()) for tensor in stored)
    assert Counter((tensor.elements, tensor.element_bytes) for tensor in planned) == found
    plan = plan_memory(spec, clip, precision=precision)
    assert plan.weights_bytes + plan.tables_bytes == sum(tensor.nbytes for tensor in stored)


def test_the_results_of_tensorrt_are_held_beside_its_activations_and_pinned_on_the_host() -> None:
    plan = plan_memory(VITL, CLIP, batch=3)
    assert plan.outputs_bytes == 3 * (WIDTH + 4 * 1024)
    parts = plan.weights_bytes + plan.tables_bytes + plan.frames_bytes + plan.activations_bytes
    assert plan.run_bytes == parts + plan.outputs_bytes
    assert plan.host_bytes == plan.frames_bytes + plan.engine_file_bytes, "while the plan loads"
    long = plan_memory(VITL, LARGE, batch=16)
    assert long.host_bytes == long.frames_bytes + long.outputs_bytes, "more than the plan"
    assert of_vitl(engine="onnxruntime").host_bytes == 0


def test_what_the_host_holds_counts_where_the_memory_is_shared() -> None:
    plan = plan_memory(VITL, CLIP)
    jetson = replace(CARD, is_shared=True)
    assert count_needs(plan, CARD) == plan.run_bytes
    assert count_needs(plan, jetson) == plan.run_bytes + plan.host_bytes
    tight = replace(jetson, memory_bytes=plan.run_bytes + plan.host_bytes + jetson.reserved_bytes)
    for device, fits in ((tight, True), (replace(tight, memory_bytes=tight.memory_bytes - 1), False)):
        fit = fit_device(of_frames, 16, device, tubelet=2)
        assert fit.needs_bytes == plan.run_bytes + plan.host_bytes
        assert fit.fits == fits
        assert fit.longest_frames == (16 if fits else 14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"precision": "fp32", "fused": True}, "fp32 attention is never fused"),
        ({"engine": "onnxruntime", "precision": "fp16"}, "in fp32 alone"),
        ({"engine": "onnxruntime", "precision": "fp32", "fused": False}, "onnxruntime fuses attention"),
        ({"engine": "onnxruntime-portable", "precision": "fp32", "fused": True}, "does not fuse attention"),
    ],
)
def test_what_cannot_be_planned_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan_memory(VITL, CLIP, **options)  # type: ignore[arg-type]


def test_a_clip_of_other_patches_is_refused() -> None:
    with pytest.raises(SpecError, match="patches of 32"):
        plan_memory(VITL, replace(CLIP, patch=32))


def test_an_image_of_version_21_is_a_clip_and_no_other_single_frame_is() -> None:
    spec = RELEASES["vitl-2.1"].spec
    image, twice = (plan_memory(spec, spec.make_clip(frames, 384, 384)) for frames in (1, 2))
    assert image.tokens == twice.tokens == 576
    assert (image.frames_bytes, image.patch_flops) == (384 * 384 * 3, twice.patch_flops // 2)
    assert image.weights_bytes == twice.weights_bytes
    with pytest.raises(SpecError, match="frames is 1; it must be a positive multiple of 2"):
        plan_memory(VITL, replace(CLIP, frames=1, tubelet=1))
    with pytest.raises(SpecError, match=r"tubelets of 1 and patches of 16; vitl-2\.1 takes 2 and 16"):
        plan_memory(spec, replace(spec.make_clip(1, 384, 384), frames=2))


def test_where_only_an_image_fits_it_is_the_longest_clip() -> None:
    spec = RELEASES["vitl-2.1"].spec

    def plan(frames: int) -> MemoryPlan:
        return plan_memory(spec, spec.make_clip(frames, 384, 384))

    usable = replace(CARD, memory_bytes=plan(1).run_bytes, reserved_bytes=0)
    assert fit_device(plan, 1, usable, tubelet=2).longest_frames == 1
    assert fit_device(plan, 1, replace(usable, memory_bytes=plan(1).run_bytes - 1), tubelet=2).longest_frames == 0


@pytest.mark.parametrize("usable_bytes", [0, 700_000_000, 5_000_000_000])
def test_the_longest_clip_fits_and_the_next_does_not(usable_bytes: int) -> None:
    def plan(frames: int) -> MemoryPlan:
        return plan_memory(VITL, replace(CLIP, frames=frames), fused=False)

    longest = find_longest(lambda frames: plan(frames).run_bytes, 2, usable_bytes)
    assert (longest == 0) == (usable_bytes == 0)
    assert not longest or plan(longest).run_bytes <= usable_bytes
    assert plan(longest + 2).run_bytes > usable_bytes


def test_bounds_are_operations_and_bytes_over_what_the_device_can() -> None:
    def plan_eight(frames: int) -> MemoryPlan:
        return plan_memory(VITL, replace(CLIP, frames=frames), precision="int8")

    fit, plan = fit_device(plan_eight, 16, CARD, tubelet=2), plan_eight(16)
    of_parts = (plan.patch_flops / 2e9, plan.linear_flops / 20e9, plan.attention_flops / 10e9)
    assert fit.arithmetic_ms == pytest.approx(sum(of_parts)), "patches in fp32, attention in fp16"
    assert plan.patch_flops == 2 * 2048 * 1536 * 1024
    moved = plan.weights_bytes + plan.tables_bytes + plan.frames_bytes + plan.outputs_bytes
    assert fit.bandwidth_ms == pytest.approx(moved / 100e6)
    assert fit.fits
    assert fit.builds


def test_scores_in_memory_are_moved_twice_a_layer_beyond_what_caches_hold() -> None:
    small = replace(CARD, memory_bytes=1)
    fused = fit_device(lambda _: plan_memory(VITL, CLIP, fused=True), 16, small, tubelet=2)
    spelled_out = fit_device(lambda _: plan_memory(VITL, CLIP, fused=False), 16, small, tubelet=2)
    extra = 2 * 24 * (16 * 2048**2 * 2 - 64_000_000)
    assert spelled_out.bandwidth_ms - fused.bandwidth_ms == pytest.approx(extra / 100e6)
    assert not fused.fits
    assert not fused.builds


def test_of_a_precision_that_a_device_lacks_nothing_is_said() -> None:
    fit = fit_device(
        lambda frames: plan_memory(VITL, replace(CLIP, frames=frames), precision="bf16"), 16, CARD, tubelet=2
    )
    assert fit.arithmetic_ms is None
    without_fp32 = replace(CARD, tera={"fp16": 10.0})
    assert fit_device(of_frames, 16, CARD, tubelet=2).arithmetic_ms is not None
    assert fit_device(of_frames, 16, without_fp32, tubelet=2).arithmetic_ms is None, "patches are projected in fp32"


def test_the_table_of_devices_is_dense_and_says_where_it_is_from() -> None:
    assert len(DEVICES) == 10
    for device in DEVICES.values():
        assert device.source
        assert 0 < device.usable_bytes < device.memory_bytes
        assert device.tera.get("int8", 2 * device.tera["fp16"]) == pytest.approx(2 * device.tera["fp16"], rel=0.01)
        context = 500_000_000
        assert device.reserved_bytes == context + (1_500_000_000 if device.is_shared else 0)
    assert "bf16" not in DEVICES["t4"].tera
    assert [name for name, device in DEVICES.items() if "fp8" in device.tera] == ["thor", "l4", "h100", "h200"]
    assert DEVICES["orin-nano"].tera["int8"] == pytest.approx(67 / 2, rel=0.01)  # half of the sparse figure
    with pytest.raises(UnknownNameError, match="tpu"):
        check_device("tpu")


def test_float32_is_planned_on_cuda_cores_since_engines_are_built_without_tf32() -> None:
    printed = {"a100": 19.5, "h100": 67.0, "h200": 67.0, "a10": 31.2, "l4": 30.3, "t4": 8.1, "agx-orin": 5.3}
    reckoned = {"orin-nx": 1024 * 2 * 1.173e-3, "orin-nano": 1024 * 2 * 1.020e-3, "thor": 2560 * 2 * 1.57e-3}
    peaks = {name: device.tera["fp32"] for name, device in DEVICES.items()}
    assert peaks == pytest.approx(printed | reckoned, rel=0.01)
    for device in DEVICES.values():
        assert device.tera["fp32"] < device.tera["fp16"] / 3, "TF32 would be half of it"


def test_this_machine_is_measured() -> None:
    machine = measure_machine()
    assert machine.name == THIS_MACHINE
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        assert machine.memory_bytes == 1024 * int(meminfo.read_text().split()[1])
    assert machine.tera["fp32"] > 0
    assert machine.gigabytes_per_second > 0
    assert 0 < machine.usable_bytes <= machine.memory_bytes


CHILD = """
import json, sys
import numpy as np, onnxruntime
from vjepa2.runtime.backends.onnxrt import session_options
def read(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field + ":"))
before = read("VmRSS")
session = onnxruntime.InferenceSession(sys.argv[1], session_options(), providers=["CPUExecutionProvider"])
for _ in range(3):
    session.run(["embedding"], {"frames": np.zeros(json.loads(sys.argv[2]), np.uint8)})
print(read("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
def test_onnx_runtime_takes_what_was_planned(tmp_path: Path) -> None:
    """With every block mapped by itself, as large ones are, so that nothing of malloc's heap is in the figure."""
    spec: ModelSpec = replace(tiny_spec(64, heads=4), mlp_dim=1024, clip=ClipSpec(frames=16, height=256, width=256))
    traced = trace_model(PlainEncoder(tiny_encoder(spec), has_mean=True), ("tokens", "embedding"))
    write_tensors(tmp_path / WEIGHTS, traced.tensors)
    graphs: dict[str, Engine] = {ONNXRUNTIME: "onnxruntime", PORTABLE: "onnxruntime-portable"}
    for name, engine in graphs.items():
        (tmp_path / name).write_bytes(lower_graph(traced.graph, name).SerializeToString())
        command = [sys.executable, "-c", CHILD, str(tmp_path / name), json.dumps(spec.clip.frames_shape())]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=ROOT)
        plan = plan_memory(spec, spec.clip, precision="fp32", engine=engine)
        assert int(done.stdout) == pytest.approx(plan.run_bytes - plan.heap_bytes, rel=0.15), name


def run_plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The verb with nothing installed but what the base install brings."""
    blocked = HEAVY - {"click", "numpy", "rich"}
    return run_blocked(blocked, f"from vjepa2.cli import main; main(['plan', *{list(arguments)}])")


def test_the_verb_needs_nothing_but_the_base_install() -> None:
    done = run_plan("vitl", "--frames", "64", "--device", "orin-nano", "--device", "t4", "--precision", "bf16")
    assert done.returncode == 0, done.stderr
    for words in ("8,192 tokens", "fused", "orin-nano (shared)", "no GPU has confirmed", "T4 data sheet", "bounds"):
        assert words in done.stdout
    assert str(ROOT) not in done.stdout


def test_the_verb_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    done = run_plan("vitg-2.1", "--unfused", "--size", "256x384", "--device", "h200", "--json", str(file))
    assert done.returncode == 0, done.stderr
    record = json.loads(file.read_text())
    first = record["plans"][0]
    assert first["attention"] == "scores in memory"
    assert first["clip"]["width"] == 384
    assert first["run_bytes"] > first["scores_bytes"] > 0
    assert [fit["device"] for fit in record["devices"]] == ["h200"]
    assert record["devices"][0]["fits"] is True


def test_the_verb_plans_an_image_of_version_21(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    done = run_plan("vitl-2.1", "--frames", "1", "--device", "orin-nano", "--json", str(file))
    assert done.returncode == 0, done.stderr
    record = json.loads(file.read_text())
    assert {(plan["clip"]["frames"], plan["clip"]["tubelet"], plan["tokens"]) for plan in record["plans"]} == {
        (1, 1, 576)
    }
    (fit,) = record["devices"]
    assert fit["needs_bytes"] == record["plans"][0]["run_bytes"] + record["plans"][0]["host_bytes"]
    assert fit["longest_frames"] > 1
    assert fit["longest_frames"] % 2 == 0, "a clip's"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vitx"], "no model is named 'vitx'"),
        (["vitl", "--device", "tpu"], "no device is named 'tpu'"),
        (["vitl", "--frames", "15"], "frames is 15"),
        (["vitl", "--frames", "1"], "frames is 1; it must be a positive multiple of 2"),
        (["vitl", "--size", "250"], "height is 250"),
        (["vitl", "--size", "big"], "size is 'big'"),
        (["vitl", "--batch", "0"], "batch is 0"),
    ],
)
def test_what_the_verb_cannot_take_is_one_line(arguments: Sequence[str], message: str) -> None:
    done = run_plan(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
