"""Is the set of float32 islands as small as can be, and does an island compute what a float32 node would?"""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import tiny_encoder, tiny_spec
from vjepa2.bundle import PORTABLE, WEIGHTS
from vjepa2.export.evaluate import Evaluation
from vjepa2.export.graph_view import GraphView
from vjepa2.export.island_cost import measure_cost
from vjepa2.export.islands import find_islands
from vjepa2.export.lower import lower_graph
from vjepa2.export.precision import type_graph
from vjepa2.export.rounding import find_free, find_rounding, role_of
from vjepa2.export.trace import trace_model
from vjepa2.export.weights_file import write_tensors
from vjepa2.headed import PlainEncoder
from vjepa2.runtime.scenes import generate_scene
from vjepa2.spec import ClipSpec

CLIP = ClipSpec(frames=4, height=32, width=48)
NODES = {f"blocks.{block}.{role}": "Add" for role in ("a", "b", "c", "d") for block in range(6)}
FAULT = ("outside",)


pytestmark = pytest.mark.usefixtures("one_thread")


def judge_by(*ways: Collection[str]) -> Callable[[frozenset[str]], tuple[str, ...]]:
    """A gate that is kept with all nodes of one of `ways` in float32."""
    return lambda names: () if any(names.issuperset(way) for way in ways) else FAULT


@pytest.mark.parametrize("seed", range(20))
def test_what_is_needed_is_found_and_nothing_else(seed: int) -> None:
    random = np.random.default_rng(seed)
    needed = random.choice(list(NODES), size=random.integers(1, 7), replace=False).tolist()
    found = find_islands(NODES, judge_by(needed))
    assert found is not None
    assert {island.name for island in found.islands} == set(needed)
    assert all(island.without == FAULT for island in found.islands)


def test_bisection_takes_far_fewer_trials_than_nodes() -> None:
    nodes = {f"blocks.{block}.r{role}": "Add" for role in range(30) for block in range(24)}
    found = find_islands(nodes, judge_by(["blocks.7.r4", "blocks.20.r11"]))
    assert found is not None
    assert found.judged < 60 < len(nodes)


def test_of_two_ways_the_cheaper_one_is_taken() -> None:
    found = find_islands(NODES, judge_by(["blocks.2.a"], ["blocks.3.d"]))
    assert found is not None
    assert [island.name for island in found.islands] == ["blocks.2.a"]


def test_a_gate_that_more_islands_can_break_still_gets_a_set_that_keeps_it() -> None:
    def judge(names: frozenset[str]) -> tuple[str, ...]:
        has = names >= {"blocks.1.a", "blocks.1.b"}
        return () if has and ("blocks.2.c" not in names or len(names) > 20) else FAULT

    found = find_islands(NODES, judge)
    assert found is not None
    names = frozenset(island.name for island in found.islands)
    assert not judge(names)
    assert all(judge(names - {name}) for name in names)


def test_by_roles_every_block_has_what_one_needs_in_far_fewer_trials() -> None:
    nodes = {f"blocks.{block}.r{role}": "Add" for role in range(30) for block in range(24)}
    needed = [f"blocks.{block}.r{role}" for role in (4, 11) for block in range(1, 24)]
    by_node = find_islands(nodes, judge_by(needed))
    by_role = find_islands(nodes, judge_by(needed), grain="roles")
    assert by_node is not None
    assert by_role is not None
    assert sorted(island.name for island in by_node.islands) == sorted(needed)
    assert [(island.name, len(island.nodes), island.without) for island in by_role.islands] == [
        ("blocks.*.r4", 24, FAULT),
        ("blocks.*.r11", 24, FAULT),
    ]
    assert by_role.judged < by_node.judged / 4


def test_there_are_none_where_all_of_them_are_not_enough_and_where_none_is_needed() -> None:
    assert find_islands(NODES, lambda _: FAULT) is None
    found = find_islands(NODES, lambda _: ())
    assert found is not None
    assert found.islands == ()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("islands")


@pytest.fixture(scope="module")
def graphs(folder: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The float32 graph of a tiny model, and its recipe in fp16 over the same float32 weights."""
    traced = trace_model(PlainEncoder(tiny_encoder(tiny_spec(16, heads=2, clip=CLIP))), ("tokens", "embedding"))
    write_tensors(folder / WEIGHTS, traced.tensors)
    lowered = lower_graph(traced.graph, PORTABLE)
    typed = type_graph(lowered, "fp16").graph
    whole = {tensor.name: tensor for tensor in lowered.graph.initializer}
    halves = Evaluation(lowered, folder)
    for tensor in typed.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16 and tensor.data_location == TensorProto.EXTERNAL:
            values = halves._read(tensor.name, {}, torch.float16).numpy()
            tensor.CopyFrom(numpy_helper.from_array(values, whole[tensor.name].name))
    return lowered, typed


FRAMES = generate_scene(CLIP.frames, CLIP.height, CLIP.width, seed=1)[None]


def compute(
    graph: onnx.ModelProto, folder: Path, islands: Collection[str] | None, naive: bool = False
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    evaluation = Evaluation(graph, folder, "fp16" if naive else None, islands)
    return evaluation.run({"frames": FRAMES}, ["tokens"])["tokens"]


def test_without_islands_what_only_moves_numbers_changes_nothing(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto], folder: Path
) -> None:
    lowered, typed = graphs
    assert np.array_equal(compute(lowered, folder, None, naive=True), compute(lowered, folder, (), naive=True))
    assert np.array_equal(compute(typed, folder, None), compute(typed, folder, ()))


def test_islands_compute_what_casts_around_them_would(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto], folder: Path
) -> None:
    """The recipe's graph, bit for bit, from the naive one and the names of the recipe's float32 nodes."""
    lowered, typed = graphs
    rounding = {node.name for node in find_rounding(GraphView(typed, folder), naive=False)}
    wide = [node.name for node in find_rounding(GraphView(lowered, folder), naive=True) if node.name not in rounding]
    assert len(wide) > 30
    recipe = compute(lowered, folder, wide, naive=True)
    assert np.array_equal(recipe, compute(typed, folder, None))
    assert not np.array_equal(recipe, compute(lowered, folder, (), naive=True))


def test_with_everything_an_island_naive_is_float32(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto], folder: Path
) -> None:
    lowered, _ = graphs
    everything = [node.name for node in find_rounding(GraphView(lowered, folder), naive=True)]
    assert np.array_equal(compute(lowered, folder, everything, naive=True), compute(lowered, folder, None))


def test_with_everything_an_island_the_recipe_is_float32_over_its_own_weights(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto], folder: Path
) -> None:
    lowered, typed = graphs
    halved = onnx.ModelProto()
    halved.CopyFrom(lowered)
    low = {tensor.name: tensor for tensor in typed.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    assert len(low) > 10
    for tensor in halved.graph.initializer:
        if tensor.name in low:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(low[tensor.name]).astype(np.float32), tensor.name)
            )
    everything = [node.name for node in find_rounding(GraphView(typed, folder), naive=False)]
    assert np.array_equal(compute(typed, folder, everything), compute(halved, folder, None))


def test_a_cast_that_is_cast_back_rounds_and_others_do_not(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto], folder: Path
) -> None:
    _, typed = graphs
    casts = {node.name for node in typed.graph.node if node.op_type == "Cast"}
    assert casts <= find_free(typed.graph)
    lone = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["low"], name="down", to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["low"], ["y"], name="up", to=TensorProto.FLOAT),
        ],
        "lone",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    assert find_free(lone) == {"up"}
    model = helper.make_model(lone, opset_imports=[helper.make_opsetid("", 18)])
    assert [node.name for node in find_rounding(GraphView(model, None), naive=False)] == ["down"]


def test_the_cost_is_the_islands_part_of_the_arithmetic(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto], folder: Path
) -> None:
    lowered, _ = graphs
    view = GraphView(lowered, folder)
    matmuls = [node.name for node in view.nodes if node.op_type == "MatMul"]
    whole = measure_cost(view, matmuls, naive=True, seconds=None)
    assert (whole.flops_share, whole.time_share) == (1.0, None)
    spec = tiny_spec(16, heads=2, clip=CLIP)
    fc1 = measure_cost(view, ["blocks.0.mlp.fc1/MatMul"], naive=True, seconds={"blocks.0.mlp.fc1/MatMul": 1, "x": 3})
    embedding = 2 * CLIP.tokens * spec.dim  # the mean is a MatMul, too
    assert fc1.flops_share == pytest.approx(2 * CLIP.tokens * spec.dim * spec.mlp_dim / (spec.flops() + embedding))
    assert fc1.time_share == 0.25
    assert 0 < fc1.bytes_share < whole.bytes_share < 1


def test_a_role_is_a_name_without_the_number_of_its_block() -> None:
    assert role_of("blocks.13.norm1/LayerNormalization") == "blocks.*.norm1/LayerNormalization"
    assert role_of("predictor.predictor_blocks.2.mlp.fc1/Add") == "predictor.predictor_blocks.*.mlp.fc1/Add"
