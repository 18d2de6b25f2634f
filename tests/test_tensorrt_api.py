"""Is the same plan asked for, in one order and by name, of every TensorRT from 8.6 to 11; and is every no heard?"""

import gc
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import make_bundle, tiny_spec
from tests.fake_tensorrt import API, VERSIONS, Script, fake_tensorrt
from tests.probe_tensorrt import RELEASES, probe
from tests.tensorrt_here import Installed, installed
from tests.tensorrt_surfaces import describe_surface
from vjepa2.bundle import PORTABLE, Bundle
from vjepa2.engine_manifest import Machine, ShapeRange, Version
from vjepa2.errors import CompileError
from vjepa2.export.compile_request import choose_profile
from vjepa2.export.tensorrt_notes import ADVICE, KNOWN_FAULTS, NoPlanError, advise, depends_on_level, find_reports

MONITORED = tuple(version for version in VERSIONS if version != "8.6")
SHAPE = (1, 4, 8)
FIXED = {"frames": ShapeRange(least=SHAPE, best=SHAPE, most=SHAPE)}
FREE = {"frames": ShapeRange(least=SHAPE, best=(6, 4, 8), most=(6, 4, 8))}


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture(params=VERSIONS)
def here(request: pytest.FixtureRequest, script: Script) -> Iterator[Installed]:
    with installed(request.param, script) as modules:
        yield modules


def write_graph(folder: Path, *, target: int = TensorProto.FLOAT16, batch: int | str = 1) -> Path:
    """A graph with an island of float32 before and after its 16-bit part, as a bundle's."""
    dtype: Any = np.float16 if target == TensorProto.FLOAT16 else np.float32
    nodes = [
        helper.make_node("Cast", ["frames"], ["pixels"], "pixels/Cast", to=TensorProto.FLOAT),
        helper.make_node("LayerNormalization", ["pixels", "gain"], ["normed"], "norm"),
        helper.make_node("Cast", ["normed"], ["small"], "norm/Cast", to=target),
        helper.make_node("MatMul", ["small", "weight"], ["scores"], "linear"),
        helper.make_node("Softmax", ["scores"], ["chances"], "softmax"),
        helper.make_node("Cast", ["chances"], ["wide"], "softmax/Cast", to=TensorProto.FLOAT),
        helper.make_node("Add", ["wide", "pixels"], ["tokens"], "residual"),
    ]
    weights = {"gain": np.ones(8, np.float32), "weight": np.eye(8, dtype=dtype)}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [batch, 4, 8])],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [batch, 4, 8])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    file = folder / "portable.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), file)
    return file


class Follower:
    """What a build told, and after which step it is stopped."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.told: list[object] = []
        self.left = stop_after

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self.told.append(("start", phase, parent, steps))

    def step(self, phase: str, step: int) -> bool:
        self.told.append((phase, step))
        if self.left is not None:
            self.left -= 1
        return self.left is None or self.left > 0

    def finish(self, phase: str) -> None:
        self.told.append(("finish", phase))


def build(here: Installed, graph: Path, *, watch: Follower | None = None, sm: int = 87, **options: Any) -> Any:
    """Build `graph` as fp16 unless `options` of the request say otherwise."""
    asked: dict[str, Any] = {"precision": "fp16", "profile": FIXED, "level": 3, "workspace_bytes": None}
    request = here.tensorrt_api.BuildRequest(graph=graph, **{**asked, "timing_cache": b"", **options})
    return here.tensorrt_api.build_plan(request, here.tensorrt_log.BuildLog(), watch or Follower(), sm)


def flag_names(module: ModuleType, enum: str, mask: int) -> set[str]:
    """Which members of an enum a mask has, by that version's own numbers."""
    return {name for name, member in getattr(module, enum).__members__.items() if mask >> int(member) & 1}


@pytest.mark.parametrize(
    ("version", "typing", "network_flags", "precheck", "memory"),
    [
        ("8.6", "weak", ("EXPLICIT_BATCH",), "supports_model", "device_memory_size"),
        ("10.3", "strong by flag", ("STRONGLY_TYPED",), "supports_model_v2", "device_memory_size_v2"),
        ("10.13", "strong by flag", ("STRONGLY_TYPED",), "supports_model_v2", "device_memory_size_v2"),
        ("10.16", "strong by flag", ("STRONGLY_TYPED",), "supports_model_v2", "device_memory_size_v2"),
        ("11.4", "strong always", ("STRONGLY_TYPED",), "supports_model_v2", "device_memory_size_v2"),
    ],
)
def test_each_version_is_told_by_what_it_has(
    version: str, typing: str, network_flags: tuple[str, ...], precheck: str, memory: str, script: Script
) -> None:
    with installed(version, script) as here:
        found = here.tensorrt_features.probe_features()
    assert (found.typing, found.network_flags, found.precheck) == (typing, network_flags, precheck)
    assert found.device_memory == memory
    assert found.has_monitor == found.node_names == (version != "8.6")
    assert set(found.tactic_sources) == {"EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"}
    assert found.version.number[:2] == tuple(map(int, version.split(".")))


@pytest.mark.parametrize(("version", "mask"), [("8.6", 1), ("10.3", 2), ("10.13", 2), ("10.16", 2), ("11.4", 1)])
def test_every_network_is_made_with_that_versions_numbers(
    version: str, mask: int, script: Script, tmp_path: Path
) -> None:
    with installed(version, script) as here:
        build(here, write_graph(tmp_path))
    assert {call["flags"] for call in script.named("Builder.create_network")} == {mask}


BEFORE = ["ILogger.__init__", "Builder.__init__"]
PARSE = ["Builder.create_network", "OnnxParser.__init__", "OnnxParser.parse_from_file"]
CONFIGURE = [
    "Builder.create_builder_config",
    "IBuilderConfig.builder_optimization_level=",
    "IBuilderConfig.profiling_verbosity=",
]
TIMINGS = ["IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache"]
SOURCES = ["IBuilderConfig.clear_flag", "IBuilderConfig.get_tactic_sources", "IBuilderConfig.set_tactic_sources"]
AFTER = ["Builder.build_serialized_network", "built", "IBuilderConfig.get_timing_cache", "ITimingCache.serialize"]


def test_the_rungs_are_climbed_in_one_order(here: Installed, script: Script, tmp_path: Path) -> None:
    build(here, write_graph(tmp_path))
    calls = [
        name for name in script.order() if name.split(".")[0] not in ("ILayer", "ICastLayer", "INetworkDefinition")
    ]
    if here.trt.__version__.startswith("8.6"):
        flags = ["IBuilderConfig.set_flag"] * 2
        expected = [*BEFORE, *PARSE, *CONFIGURE, *flags, *SOURCES, *TIMINGS, *AFTER]
    else:
        watch = ["IProgressMonitor.__init__", "IBuilderConfig.progress_monitor="]
        expected = [*BEFORE, *PARSE, *CONFIGURE, *SOURCES, *TIMINGS, *watch, *AFTER]
    assert calls == expected


def test_precision_is_flags_where_types_are_hints_and_nothing_elsewhere(
    here: Installed, script: Script, tmp_path: Path
) -> None:
    built = build(here, write_graph(tmp_path))
    names = [call["flag"].name for call in script.named("IBuilderConfig.set_flag")]
    assert names == list(built.builder_flags)
    assert names == (["FP16", "OBEY_PRECISION_CONSTRAINTS"] if here.trt.__version__.startswith("8.6") else [])
    assert [call["flag"].name for call in script.named("IBuilderConfig.clear_flag")] == ["TF32"]


def test_islands_of_float32_are_pinned_where_types_are_hints(
    here: Installed, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = write_graph(tmp_path)
    kept: list[Any] = []
    monkeypatch.setattr(here.tensorrt_api, "check_precision", lambda network, precision: kept.append(network))
    build(here, graph)
    [network] = kept
    layers = map(network.get_layer, range(network.num_layers))
    pinned = {layer.name for layer in layers if "precision" in vars(layer)["_state"]}
    assert pinned == ({"norm", "residual"} if here.trt.__version__.startswith("8.6") else set())
    assert all(call["value"].name == "FLOAT" for call in script.named("ILayer.precision="))
    assert [call["dtype"].name for call in script.named("ILayer.set_output_type")] == ["FLOAT"] * len(pinned)


def test_shapes_and_quantised_layers_are_never_pinned(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.load(write_graph(tmp_path))
    kinds = {"QuantizeLinear": ("normed", "eight"), "DequantizeLinear": ("eight", "again"), "Shape": ("again", "sides")}
    for name, (taken, given) in {**kinds, "Size": ("sides", "count")}.items():
        graph.graph.node.insert(2, helper.make_node(name, [taken], [given], name))
    order = {"norm": 0, "QuantizeLinear": 1, "DequantizeLinear": 2, "Shape": 3, "Size": 4}
    nodes = sorted(graph.graph.node, key=lambda node: (node.name != "pixels/Cast", order.get(node.name, 9)))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    onnx.save(graph, tmp_path / "portable.onnx")
    kept: list[Any] = []
    with installed("8.6", script) as here:
        monkeypatch.setattr(here.tensorrt_api, "check_precision", lambda network, precision: kept.append(network))
        build(here, tmp_path / "portable.onnx")
    layers = map(kept[0].get_layer, range(kept[0].num_layers))
    assert {layer.name for layer in layers if "precision" in vars(layer)["_state"]} == {"norm", "residual"}


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An int8 bundle of a tiny model."""
    folder = tmp_path_factory.mktemp("quantised")
    return Bundle.open(make_bundle("quantised", folder, tiny_spec(depth=1), precision="int8", simplify=False))


def test_matrix_products_of_quantised_numbers_are_left_free_and_islands_beside_them_are_not(
    quantised: Bundle, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8.6 obeys: a MatMul held to float32 has no kernel in 8 bits, so that an int8 engine would be none."""
    kept: list[Any] = []
    with installed("8.6", script) as here:
        monkeypatch.setattr(here.tensorrt_api, "check_precision", lambda network, precision: kept.append(network))
        profile = choose_profile(quantised.manifest, None)
        built = build(here, quantised.path / PORTABLE, precision="int8", profile=profile)
    layers = [kept[0].get_layer(index) for index in range(kept[0].num_layers)]
    pinned = {layer.name for layer in layers if "precision" in vars(layer)["_state"]}
    blocks = [f"blocks.{index}" for index in range(quantised.manifest.model.depth)]
    linears = [f"{block}.{part}" for block in blocks for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    free = {f"{linear}/{kind}" for linear in linears for kind in ("MatMul", "Add")}
    assert free <= {layer.name for layer in layers}
    assert not free & pinned
    norms = {f"{block}.{norm}/LayerNormalization" for block in blocks for norm in ("norm1", "norm2")}
    residuals = {f"{block}/{kind}" for block in blocks for kind in ("Add", "Add_1")}
    assert norms | residuals | {"norm/LayerNormalization"} <= pinned
    assert "INT8" in built.builder_flags


def test_an_fp32_bundle_pins_nothing_and_int8_needs_its_flag(script: Script, tmp_path: Path) -> None:
    with installed("8.6", script) as here:
        built = build(here, write_graph(tmp_path), precision="fp32")
        assert built.builder_flags == ()
        assert not script.named("ILayer.precision=")
        features = here.tensorrt_features.probe_features()
        flags = here.tensorrt_features.choose_builder_flags("int8", features)
    assert flags == ("INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS")


def test_libraries_of_tactics_are_off_wherever_they_exist(here: Installed, script: Script, tmp_path: Path) -> None:
    build(here, write_graph(tmp_path))
    [call] = script.named("IBuilderConfig.set_tactic_sources")
    left = flag_names(here.trt, "TacticSource", call["tactic_sources"])
    assert left == {"EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"}


def test_a_number_written_into_the_code_would_show(here: Installed, script: Script, tmp_path: Path) -> None:
    """Every enum counted from another number on: the same names must still be asked for."""
    here.trt.shift = 5
    build(here, write_graph(tmp_path))
    for call in script.named("Builder.create_network"):
        assert flag_names(here.trt, "NetworkDefinitionCreationFlag", call["flags"]) == set(
            here.tensorrt_features.probe_features().network_flags
        )
    [call] = script.named("IBuilderConfig.set_tactic_sources")
    left = flag_names(here.trt, "TacticSource", call["tactic_sources"])
    assert left == {"EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"}


def test_level_details_and_workspace_are_set(here: Installed, script: Script, tmp_path: Path) -> None:
    build(here, write_graph(tmp_path), level=2, workspace_bytes=2**28)
    assert script.named("IBuilderConfig.builder_optimization_level=") == [{"value": 2}]
    assert script.named("IBuilderConfig.profiling_verbosity=")[0]["value"].name == "DETAILED"
    [limit] = script.named("IBuilderConfig.set_memory_pool_limit")
    assert (limit["pool"].name, limit["pool_size"]) == ("WORKSPACE", 2**28)


def test_a_graph_is_parsed_by_its_absolute_path(
    here: Installed, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = write_graph(tmp_path)
    monkeypatch.chdir(tmp_path)
    build(here, Path("portable.onnx"))
    assert script.named("OnnxParser.parse_from_file") == [{"model": str(graph)}]
    script.unsupported = [0]
    with pytest.raises(CompileError):
        build(here, Path("portable.onnx"))
    [asked] = script.named("OnnxParser.supports_model", "OnnxParser.supports_model_v2")
    assert asked["path"] == str(graph)


def test_every_error_of_the_parser_is_told(here: Installed, script: Script, tmp_path: Path) -> None:
    script.parser_errors = [
        ("UNSUPPORTED_NODE", "no importer", "norm", "LayerNormalization"),
        ("INVALID_VALUE", "bad axis", "linear", "MatMul"),
    ]
    with pytest.raises(CompileError) as error:
        build(here, write_graph(tmp_path))
    named = not here.trt.__version__.startswith("8.6")
    assert f"does not take portable.onnx (node {'norm LayerNormalization' if named else '7'}: " in str(error.value)
    assert "UNSUPPORTED_NODE: no importer" in str(error.value)
    assert f"node {'linear MatMul' if named else '7'}: INVALID_VALUE: bad axis" in str(error.value)
    assert not script.named("Builder.build_serialized_network")


def test_the_precheck_is_asked_for_every_node_once_parsing_failed(
    here: Installed, script: Script, tmp_path: Path
) -> None:
    script.unsupported = [1, 4]
    with pytest.raises(CompileError, match=r"does not take portable.onnx \(nodes \[1, 4\] are not known\)"):
        build(here, write_graph(tmp_path))
    kinds = ("OnnxParser.parse_from_file", "OnnxParser.supports_model", "OnnxParser.supports_model_v2")
    asked = [name for name in script.order() if name in kinds]
    assert asked[0] == "OnnxParser.parse_from_file", "which leaves Python's lock to others"
    assert len(asked) == 2
    assert not script.named("Builder.build_serialized_network")


def test_what_both_say_of_a_node_is_told_once(here: Installed, script: Script, tmp_path: Path) -> None:
    script.unsupported, script.parser_errors = [1], [("UNSUPPORTED_NODE", "no importer", "norm", "LayerNormalization")]
    with pytest.raises(CompileError) as error:
        build(here, write_graph(tmp_path))
    assert str(error.value).count("no importer") == 1
    assert "; nodes [1] are not known)" in str(error.value)


def test_a_network_is_held_while_its_parser_is_asked_and_freed_before_the_next(
    here: Installed, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bindings keep a network's parser alive, never a parser's network."""
    counts: list[int] = []
    make = here.trt.OnnxParser.__init__

    def count(self: Any, *arguments: Any) -> None:
        make(self, *arguments)
        counts.append(script.count("INetworkDefinition"))

    monkeypatch.setattr(here.trt.OnnxParser, "__init__", count)
    monkeypatch.setattr(script, "unsupported", [1])
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(CompileError, match="nodes"):
            build(here, write_graph(tmp_path))
        assert counts == [1, 1]
        assert not script.count("INetworkDefinition") + script.count("OnnxParser") + script.count("Builder")
    finally:
        gc.enable()


def test_a_fake_parser_without_its_network_is_told_so(script: Script) -> None:
    trt: Any = fake_tensorrt("10.3", script)
    logger = trt.Logger()
    parser = trt.OnnxParser(trt.Builder(logger).create_network(2), logger)
    with pytest.raises(AssertionError, match="the parser's network was freed"):
        parser.supports_model_v2(b"", "/x")
    with pytest.raises(AssertionError, match="the parser's network was freed"):
        parser.parse_from_file("/x")


def test_a_fake_library_calls_its_first_logger_and_no_other(script: Script) -> None:
    trt: Any = fake_tensorrt("10.3", script)
    told: list[str] = []

    class Keeper(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            told.append(msg)

    first, second = Keeper(), Keeper()
    trt.Builder(first)
    trt.Runtime(second)
    assert len(told) == 1
    assert "the current new logger is ignored" in told[0]
    del first
    with pytest.raises(AssertionError, match="calls a logger that was freed"):
        trt.write("ERROR", "later")


def test_a_second_attempt_hears_its_own_lines_and_no_others(here: Installed, script: Script, tmp_path: Path) -> None:
    script.plans = [None]
    for text in ("the first reason", "the second reason"):
        script.messages = [("ERROR", text)]
        with pytest.raises(CompileError, match=f"portable.onnx: {text}$"):
            build(here, write_graph(tmp_path))


def test_a_graph_that_is_no_onnx_is_told(here: Installed, tmp_path: Path) -> None:
    (tmp_path / "portable.onnx").write_bytes(b"\x08not a graph")
    with pytest.raises(CompileError, match="does not take portable"):
        build(here, tmp_path / "portable.onnx")


def test_a_network_of_other_inputs_than_the_bundles_is_refused(here: Installed, tmp_path: Path) -> None:
    other = {"frames": ShapeRange(least=(1, 4, 9), best=(1, 4, 9), most=(1, 4, 9))}
    with pytest.raises(CompileError, match=r"the parser sees inputs \{'frames': \(1, 4, 8\)\}; the bundle's manifest"):
        build(here, write_graph(tmp_path), profile=other)


@pytest.mark.parametrize(("precision", "kind"), [("fp16", "CAST to HALF"), ("int8", "QUANTIZE")])
def test_a_bundle_that_says_less_than_float32_and_is_not_is_refused(
    precision: str, kind: str, here: Installed, tmp_path: Path
) -> None:
    graph = write_graph(tmp_path, target=TensorProto.FLOAT)
    with pytest.raises(CompileError, match=f"the bundle says {precision} and its graph has no {kind}"):
        build(here, graph, precision=precision)


def test_shapes_are_told_only_where_the_batch_is_free(here: Installed, script: Script, tmp_path: Path) -> None:
    build(here, write_graph(tmp_path))
    assert not script.named("Builder.create_optimization_profile")
    build(here, write_graph(tmp_path, batch="batch"), profile=FREE)
    assert script.named("IOptimizationProfile.set_shape") == [
        {"input": "frames", "min": SHAPE, "opt": (6, 4, 8), "max": (6, 4, 8)}
    ]
    assert len(script.named("IBuilderConfig.add_optimization_profile")) == 1


def test_a_free_batch_of_at_most_one_is_told_as_well(here: Installed, script: Script, tmp_path: Path) -> None:
    build(here, write_graph(tmp_path, batch="batch"), profile=FIXED)
    assert [call["max"] for call in script.named("IOptimizationProfile.set_shape")] == [SHAPE]


def test_shapes_that_are_refused_are_told(
    here: Installed, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here.trt.IBuilderConfig, "add_optimization_profile", lambda self, profile: -1)
    with pytest.raises(CompileError, match=r"refuses the shapes .* take another --max-batch"):
        build(here, write_graph(tmp_path, batch="batch"), profile=FREE)


def test_timings_are_taken_up_and_given_back(here: Installed, script: Script, tmp_path: Path) -> None:
    built = build(here, write_graph(tmp_path), timing_cache=b"earlier")
    assert script.named("IBuilderConfig.create_timing_cache") == [{"serialized_timing_cache": b"earlier"}]
    assert [call["ignore_mismatch"] for call in script.named("IBuilderConfig.set_timing_cache")] == [False]
    assert (built.timing_cache, built.notes) == (b"timings of plan", ())


@pytest.mark.parametrize("spoilt", [True, False])
def test_timings_that_do_not_fit_are_measured_again_and_that_is_said(
    spoilt: bool, here: Installed, script: Script, tmp_path: Path
) -> None:
    script.cache_matches = spoilt
    built = build(here, write_graph(tmp_path), timing_cache=b"spoilt" if spoilt else b"of another device")
    assert built.notes == ("the timings of earlier builds are of another device or spoilt: they are measured again",)
    assert script.named("IBuilderConfig.create_timing_cache")[-1] == {"serialized_timing_cache": b""}


PHASES: list[tuple[str, str | None, int]] = [("Building Engine", None, 2), ("Tactics", "Building Engine", 1)]


@pytest.mark.parametrize("version", MONITORED)
def test_phases_reach_the_one_who_watches(version: str, script: Script, tmp_path: Path) -> None:
    script.phases, watch = PHASES, Follower()
    with installed(version, script) as here:
        assert build(here, write_graph(tmp_path), watch=watch).plan == b"plan"
    assert watch.told == [
        ("start", "Building Engine", None, 2),
        ("Building Engine", 0),
        ("Building Engine", 1),
        ("finish", "Building Engine"),
        ("start", "Tactics", "Building Engine", 1),
        ("Tactics", 0),
        ("finish", "Tactics"),
    ]


@pytest.mark.parametrize("version", MONITORED)
def test_who_watches_can_stop_the_build(version: str, script: Script, tmp_path: Path) -> None:
    script.phases = PHASES
    with installed(version, script) as here:
        assert build(here, write_graph(tmp_path), watch=Follower(stop_after=1)) is None
    assert not script.named("built")


@pytest.mark.parametrize("version", MONITORED)
def test_who_watches_and_breaks_stops_no_build(version: str, script: Script, tmp_path: Path) -> None:
    """Into TensorRT's threads nothing may be raised."""

    class Broken(Follower):
        def start(self, phase: str, parent: str | None, steps: int) -> None:
            raise BrokenPipeError

        def step(self, phase: str, step: int) -> bool:
            raise BrokenPipeError

        def finish(self, phase: str) -> None:
            raise BrokenPipeError

    script.phases = PHASES
    with installed(version, script) as here:
        assert build(here, write_graph(tmp_path), watch=Broken()).plan == b"plan"


def test_no_plan_is_an_error_with_the_last_lines_and_advice(here: Installed, script: Script, tmp_path: Path) -> None:
    script.plans = [None]
    script.messages = [
        ("INFO", "measuring"),
        ("VERBOSE", "much more"),
        ("ERROR", "4: [optimizer] Could not find any implementation for node {ForeignNode}"),
        ("INTERNAL_ERROR", "10: second"),
    ]
    with pytest.raises(CompileError) as error:
        build(here, write_graph(tmp_path))
    text = str(error.value)
    assert "built no plan of portable.onnx: 4: [optimizer] Could not find any implementation" in text
    assert "| 10: second; no kernel fits at this level: lower ones are tried next; set --workspace higher" in text
    assert "measuring" not in text
    assert "much more" not in text


def test_no_plan_and_no_reason_is_said(here: Installed, script: Script, tmp_path: Path) -> None:
    script.plans = [None]
    with pytest.raises(CompileError, match=r"built no plan of portable\.onnx, and TensorRT wrote no reason"):
        build(here, write_graph(tmp_path))


def test_no_gpu_is_an_error_of_one_line(here: Installed, script: Script, tmp_path: Path) -> None:
    script.has_gpu = False
    with pytest.raises(CompileError, match="TensorRT found no CUDA device or driver"):
        build(here, write_graph(tmp_path))
    with pytest.raises(CompileError, match="TensorRT found no CUDA device or driver"):
        here.tensorrt_plan.examine_plan(b"plan", here.tensorrt_log.BuildLog())


@pytest.mark.parametrize("version", ["8.5.2", "7.2"])
def test_a_version_without_layer_normalization_is_refused(version: str, script: Script) -> None:
    with installed("8.6", script) as here:
        here.trt.__version__ = version
        with pytest.raises(CompileError, match=f"TensorRT is {version}; it must be 8.6 or newer"):
            here.tensorrt_features.probe_features()


@pytest.mark.parametrize(
    ("version", "precision", "sm", "message"),
    [
        ("8.6", "bf16", 87, "TensorRT 8.6.0 has no bf16; export the bundle with --precision fp16"),
        ("8.6", "fp8", 90, "TensorRT 8.6.0 does not take fp8 from the graph's types; .* or install TensorRT 10"),
        ("10.3", "bf16", 75, "this GPU's compute capability is 7.5 and bf16 needs 8.0"),
        ("11.4", "fp8", 87, "this GPU's compute capability is 8.7 and fp8 needs 8.9"),
    ],
)
def test_a_precision_that_cannot_be_is_refused_with_its_reason(
    version: str, precision: str, sm: int, message: str, script: Script, tmp_path: Path
) -> None:
    with installed(version, script) as here, pytest.raises(CompileError, match=message):
        build(here, write_graph(tmp_path), precision=precision, sm=sm)
    assert script.order() == ["ILogger.__init__"], "refused before a builder was made"


@pytest.mark.parametrize("version", MONITORED)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_a_strongly_typed_version_takes_every_precision_without_flags(
    version: str, precision: str, script: Script
) -> None:
    with installed(version, script) as here:
        features = here.tensorrt_features.probe_features()
        assert here.tensorrt_features.choose_builder_flags(precision, features, 90) == ()


def test_a_plan_is_examined(here: Installed, script: Script, tmp_path: Path) -> None:
    built = build(here, write_graph(tmp_path))
    script.layers = [{"Name": "_gemm_mha_v2_myl0_3", "TacticName": "x"}, {"Name": "linear", "TacticName": "sm80_gemm"}]
    script.bindings_key = "I/O Tensors" if here.trt.__version__.startswith("11") else "Bindings"
    facts = here.tensorrt_plan.examine_plan(built.plan, here.tensorrt_log.BuildLog())
    assert [(tensor.name, tensor.mode, tensor.dtype, tensor.shape) for tensor in facts.io] == [
        ("frames", "input", "UINT8", SHAPE),
        ("tokens", "output", "FLOAT", SHAPE),
    ]
    assert (facts.fused_attention, facts.untold, facts.device_memory_bytes) == (1, "", 4096)


def test_a_plan_that_does_not_load_is_told(here: Installed, script: Script) -> None:
    script.loads = False
    with pytest.raises(CompileError, match="TensorRT did not load the plan that it built"):
        here.tensorrt_plan.examine_plan(b"plan", here.tensorrt_log.BuildLog())


@pytest.mark.parametrize(
    ("layers", "count", "is_opaque"),
    [
        ([{"Name": "a", "TacticName": "fmha_v2_flash"}, {"Name": "kgen_mha_1"}], 2, False),
        ([{"Name": "{ForeignNode[a...b]}", "LayerType": "Myelin"}], 0, True),
        (["_gemm_mha_v2_myl0_1", "linear"], 1, False),
        ([], 0, False),
    ],
)
def test_fused_attention_is_counted_in_either_schema(
    layers: list[object], count: int, is_opaque: bool, script: Script
) -> None:
    with installed("10.3", script) as here:
        assert here.tensorrt_plan.count_fused_attention(layers) == (count, is_opaque)


def test_control_characters_in_what_the_inspector_writes_are_read(
    here: Installed, script: Script, tmp_path: Path
) -> None:
    built = build(here, write_graph(tmp_path))
    script.information = b'{"Layers": [{"Name": "_gemm_mha_v2", "Metadata": "a\x00b\x1f\n\t"}], "I/O Tensors": ["mha"]}'
    facts = here.tensorrt_plan.examine_plan(built.plan, here.tensorrt_log.BuildLog())
    assert (facts.fused_attention, facts.untold) == (1, "")


@pytest.mark.parametrize(
    ("information", "reason"),
    [
        (b'{"Layers": ["\xb0"]}', "the engine inspector's answer is no UTF-8: .*0xb0"),
        (b"", "the engine inspector's answer is not known here: ''"),
        (b"[]", "is not known here"),
        (b'{"layers": []}', "is not known here"),
        (b'{"Layers": 3}', "layers are no list"),
        (b'{"Layers": ["{ForeignNode[a...b]}"]}', "does not list the kernels"),
    ],
)
def test_a_plan_whose_inspector_does_not_tell_has_no_count(
    information: bytes, reason: str, here: Installed, script: Script, tmp_path: Path
) -> None:
    built = build(here, write_graph(tmp_path))
    script.information = information
    facts = here.tensorrt_plan.examine_plan(built.plan, here.tensorrt_log.BuildLog())
    assert facts.fused_attention is None
    assert re.search(reason, facts.untold)


SAMPLES = {
    "No importer registered for op: LayerNormalization": "a libnvonnxparser older than 8.6",
    "In node 3: No importer registered for op: RotaryEmbedding": "this TensorRT does not know that operator",
    "Target GPU SM 87 is not supported by this TensorRT release.": "on Jetson take the one of JetPack",
    "Cuda Runtime (out of memory)": "free GPU memory, set --workspace lower",
    "Could not find any implementation for node {ForeignNode[x]}": "set --workspace higher",
    "CUDA initialization failure with error: 35": "update the driver",
    "Cuda Runtime (an illegal memory access was encountered)": "try again with a lower --level",
    "Unable to load library: libnvinfer_builder_resource.so.10.3.0": "install tensorrt again",
    "Failed to open file: /x/weights.data": "the graph's weights were not found",
    "Unsupported ONNX IR version: 13": "this parser is older than the graph",
}


@pytest.mark.parametrize(("text", "advice"), SAMPLES.items())
def test_a_known_text_has_its_advice(text: str, advice: str) -> None:
    assert advice in str(advise(text))


def test_every_advice_has_a_text_above_and_an_unknown_text_has_none() -> None:
    assert {advise(text) for text in SAMPLES} == set(ADVICE.values())
    assert advise("all is well") is None


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (NoPlanError("built no plan: Could not find any implementation for node x"), True),
        (NoPlanError("built no plan: Cuda Runtime (out of memory)"), True),
        (NoPlanError("built no plan: words of a version that is not known here"), True),
        (NoPlanError("built no plan: No space left on device"), False),
        (NoPlanError("built no plan: Cuda Runtime (an illegal memory access was encountered)"), False),
        (NoPlanError("built no plan: Target GPU SM 87 is not supported by this TensorRT release."), False),
        (CompileError("does not take portable.onnx"), False),
    ],
)
def test_no_plan_depends_on_the_level_but_for_reasons_that_lie_elsewhere(error: CompileError, is_so: bool) -> None:
    assert depends_on_level(error) == is_so


def machine(version: str, sm: int = 87) -> Machine:
    cuda = Version.of_cuda(12020)
    return Machine(
        gpu="x", sm=sm, os="linux", arch="x86_64", tensorrt=Version.parse(version), cuda_driver=cuda, cuda_runtime=None
    )


@pytest.mark.parametrize(
    ("version", "sm", "issues"),
    [
        ("8.6.2", 87, {"3223"}),
        ("10.0.1", 87, {"4419"}),
        ("10.3.0", 87, {"4419", "4723"}),
        ("10.4.0.26", 87, {"4419", "4742"}),
        ("10.5.0", 87, set()),
        ("10.7.0", 89, {"4333"}),
        ("10.13.3.9", 87, set()),
        ("10.13.3.9", 110, {"151"}),
        ("10.14.1", 90, {"4379"}),
        ("10.16.1.11", 120, {"4837"}),
        ("11.2.1.2", 90, {"4826", "87"}),
        ("11.3.0", 90, set()),
        ("11.4.0.106", 90, set()),
    ],
)
def test_versions_with_public_reports_are_known(version: str, sm: int, issues: set[str]) -> None:
    assert {report.link.rsplit("/", 1)[1] for report in find_reports(machine(version, sm))} == issues


def test_every_report_has_a_link() -> None:
    assert all(report.link.startswith("https://github.com/") and report.symptom for report in KNOWN_FAULTS)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_fake_has_what_the_real_one_has_and_nothing_else(version: str, script: Script) -> None:
    trt: Any = fake_tensorrt(version, script)
    network = trt.Builder(trt.Logger()).create_network(1)
    with pytest.raises(AttributeError, match="no attribute 'num_tensors'"):
        network.num_tensors  # noqa: B018
    with pytest.raises(AttributeError, match="no num_tensors that can be set"):
        network.num_tensors = 3
    with pytest.raises(AttributeError, match="no num_layers that can be set"):
        network.num_layers = 3
    with pytest.raises(TypeError, match="incompatible function arguments"):
        trt.Builder(trt.Logger()).create_network(flag=1)
    with pytest.raises(TypeError, match="No constructor defined"):
        trt.INetworkDefinition()
    with pytest.raises(NotImplementedError, match="tell it what the real one does"):
        network.add_softmax(None)
    assert hasattr(trt.BuilderFlag, "FP16") == (version != "11.4")
    assert hasattr(trt, "IProgressMonitor") == (version != "8.6")
    assert int(trt.BuilderFlag.TF32) != trt.BuilderFlag.TF32


class Flags:
    """As an enum of bindings."""

    __members__: ClassVar = {"B": 1, "A": 0}


class Parser:
    """As a class of bindings, which describe themselves in docstrings."""

    flags = property(lambda self: 0, lambda self, value: None)
    count = property(lambda self: 0)

    def parse(self) -> None: ...

    def make(self) -> None: ...


def test_a_surface_is_read_from_what_bindings_say_of_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    header = "parse(self: m.P, model: buffer, shape: Tuple[int, int] = (1, 2), path: str = None) -> bool"
    monkeypatch.setattr(Parser.parse, "__doc__", header)
    overloads = ["1. make(self: m.P) -> None", "2. make(self: m.P, a: int) -> None"]
    monkeypatch.setattr(Parser.make, "__doc__", "\n\n".join(["make(*args)\nOverloaded function.", *overloads]))
    module = ModuleType("bindings")
    module.__dict__.update(__version__="9.9", Flags=Flags, Parser=Parser, number=3)
    assert describe_surface(module).splitlines() == [
        "version 9.9",
        "enum Flags A=0 B=1",
        "class Parser(object) count flags= make()|(a) parse(model,shape?,path?)",
    ]


@pytest.mark.parametrize(("written", "is_same"), [(None, True), ("class New(object) made()\n", False)])
def test_a_list_that_is_not_the_bindings_is_noticed(
    written: str | None, is_same: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = (API / "10.3.txt").read_text()

    def run(command: list[Any], **_: Any) -> subprocess.CompletedProcess[str]:
        text = "" if "-c" in command else committed + (written or "")
        return subprocess.CompletedProcess(command, 0, text)

    monkeypatch.setattr(subprocess, "run", run)
    assert probe("10.3", Path("python")) == is_same
    assert ("+class New(object) made()" in capsys.readouterr().out) != is_same


def test_what_is_fetched_and_faked_are_the_same_versions() -> None:
    assert tuple(RELEASES) == VERSIONS
    for version, (_, full) in RELEASES.items():
        assert (API / f"{version}.txt").read_text().startswith(f"version {full}\n")
