"""Is attention that cannot be fused refused, however it is spelt, and what can be fused taken?"""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.lint_graphs import SCALED, SCORES, SOFTMAX, Spoil, constant, find, place, prepare, put_between, small_graph
from tests.test_lint import TENSORRT_10, give_scores_away, load, output_weights, rules_of
from vjepa2.export.lint import lint_graph
from vjepa2.export.targets import TARGETS


@pytest.mark.parametrize("is_computed", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
def test_a_mask_that_is_added_to_scores_is_no_mistake(is_first: bool, is_computed: bool, bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    mask = constant(graph, "mask", [[0.0] * 48] * 48)
    put_between(graph, SCORES, "Add", mask)
    added = find(graph, "spoilt")
    if is_computed:
        place(graph, find(graph, SCORES), helper.make_node("Abs", [mask], ["computed"], name="computed"))
        added = find(graph, "spoilt")
        added.input[1] = "computed"
    if is_first:
        added.input[:] = list(reversed(added.input))
    report = lint_graph(graph, TENSORRT_10, folder=bundle_copy)
    assert report.passed, report.faults


@pytest.mark.parametrize("spoil", [give_scores_away, output_weights], ids=lambda spoil: spoil.__name__)
def test_who_else_reads_attention_is_no_matter_where_nothing_spelt_out_is_fused(
    spoil: Spoil, bundle_copy: Path
) -> None:
    graph = load(bundle_copy)
    spoil(graph, bundle_copy)
    wrong = {target for target in TARGETS if not lint_graph(graph, target, folder=bundle_copy).passed}
    assert wrong == set(TARGETS) - {"onnxruntime"}


def test_a_masked_score_that_is_an_output_is_found(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    put_between(graph, SCORES, "Add", constant(graph, "mask", [[0.0] * 48] * 48))
    graph.graph.output.append(helper.make_tensor_value_info("spoilt", TensorProto.FLOAT, [1, 3, 48, 48]))
    (fault,) = lint_graph(graph, TENSORRT_10, folder=bundle_copy).faults
    assert (fault.rule, fault.node) == ("nobody_else_reads_attention", "spoilt")


@pytest.mark.parametrize("axis", [-1, 3])
def test_the_last_axis_has_two_names(axis: int, bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    find(graph, SOFTMAX).attribute[0].i = axis
    assert lint_graph(graph, TENSORRT_10, folder=bundle_copy).passed


def test_a_gain_for_each_channel_of_k_is_no_scale(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    put_between(graph, "Transpose_k_BAKN", "Mul", constant(graph, "gains", np.linspace(0.5, 1.5, 64)[:, None]))
    assert lint_graph(graph, TENSORRT_10, folder=bundle_copy).passed


def test_a_scale_is_found_in_a_constant_node(bundle_copy: Path) -> None:
    graph = load(bundle_copy)
    made = helper.make_node("Constant", [], ["eighth"], name="eighth", value_float=0.125)
    graph.graph.node.insert(0, made)
    find(graph, SCALED).input[1] = "eighth"
    assert lint_graph(graph, TENSORRT_10, folder=bundle_copy).passed


@pytest.mark.parametrize("length", [1, 3, 3000])
def test_a_cycle_is_said_and_ends(length: int) -> None:
    names = [f"c{place}" for place in range(length)]
    casts = [
        helper.make_node("Cast", [names[place - 1]], [name], name=f"cast_{name}", to=TensorProto.FLOAT)
        for place, name in enumerate(names)
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    nodes = [*casts, helper.make_node("Softmax", [names[-1]], ["y"], name="softmax")]
    inside = helper.make_graph(nodes, "g", values[:1], values[1:])
    graph = helper.make_model(inside, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    report = lint_graph(graph, TENSORRT_10, precision="fp16")
    (fault,) = (fault for fault in report.faults if fault.rule == "graph_is_valid")
    assert fault.node in {cast.name for cast in casts}
    assert f"it needs what it makes, in a cycle of length {length};" in fault.reason


def test_a_cycle_below_softmax_and_one_of_sums_below_a_root_end() -> None:
    graph = small_graph("float32")
    find(graph, "mixed").input[0] = "turned"
    prepare(graph, "Add", ["softmax_out", "turned"], "turned")
    prepare(graph, "Add", ["sum", "sum"], "sum")
    prepare(graph, "Sqrt", ["sum"], "root")
    report = lint_graph(graph, TENSORRT_10, precision="fp32")
    assert "graph_is_valid" in rules_of(report)


def test_a_root_of_many_sums_is_looked_at_once_each(bundle_copy: Path) -> None:
    """x + x + ... has two ways up at each Add, and a walk along every way would not end."""
    graph = load(bundle_copy)
    prepare(graph, "Add", ["tokens", "tokens"], "sum_0")
    for count in range(64):
        prepare(graph, "Add", [f"sum_{count}"] * 2, f"sum_{count + 1}")
    prepare(graph, "Sqrt", ["sum_64"], "root")
    assert lint_graph(graph, TENSORRT_10, folder=bundle_copy).passed
