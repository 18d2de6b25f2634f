"""Is a node that ran elsewhere, or more coarsely than asked, an error unless it was allowed by name?"""

import pytest

from vjepa2.errors import BackendError
from vjepa2.runtime.backends.placement import Placed, check_placement, count_nodes, describe

ON_GPU = Placed(place="gpu", precision="fp32", nodes=60, products=9)
IN_BF16 = Placed(place="gpu", precision="bf16", nodes=60, products=9)
SHAPES = Placed(place="gpu", precision="", nodes=4, products=0)
ON_CPU = Placed(place="cpu", precision="", nodes=1, products=0)
A_BF16 = Placed(place="gpu", precision="bf16", nodes=1, products=1)


def check(*placed: Placed, precision: str = "fp32", allow: tuple[str, ...] = ()) -> str:
    return check_placement("it", placed, place="gpu", precision=precision, allow=allow)


def test_what_ran_as_asked_passes() -> None:
    assert check(ON_GPU, SHAPES) == "fp32"
    assert check(IN_BF16, SHAPES, precision="bf16") == "bf16"


@pytest.mark.parametrize(
    ("placed", "message", "allowed"),
    [
        ((ON_GPU, ON_CPU), r"it ran 1 nodes on cpu, and gpu was asked for .*; if that is good .*, allow 'cpu'", "cpu"),
        ((ON_GPU, A_BF16), r"it ran 1 nodes in bf16, and fp32 was asked for \(gpu fp32 60 \(9 products\), gpu", "bf16"),
    ],
)
def test_one_node_that_fell_is_an_error_unless_allowed(placed: tuple[Placed, ...], message: str, allowed: str) -> None:
    with pytest.raises(BackendError, match=message):
        check(*placed)
    assert check(*placed, allow=(allowed,)) == "fp32"


def test_a_finer_precision_than_asked_is_another_one_too() -> None:
    with pytest.raises(BackendError, match="9 products of matrices in fp32, and fp16 was asked for"):
        check(ON_GPU, precision="fp16")
    assert check(ON_GPU, precision="fp16", allow=("fp32",)) == "fp32"


def test_fp16_is_not_bf16() -> None:
    with pytest.raises(BackendError, match="60 nodes in bf16, and fp16 was asked for"):
        check(IN_BF16, precision="fp16")
    assert check(IN_BF16, precision="fp16", allow=("bf16",)) == "bf16"


def test_islands_of_a_finer_precision_are_no_fall() -> None:
    norms = Placed(place="gpu", precision="fp32", nodes=30, products=1)
    assert check(IN_BF16, norms, precision="bf16") == "bf16"


@pytest.mark.parametrize("placed", [(), (SHAPES,)])
def test_a_report_of_nothing_is_no_proof(placed: tuple[Placed, ...]) -> None:
    with pytest.raises(BackendError, match="it tells of no product of matrices"):
        check(*placed)


def test_nodes_are_counted_by_place_and_precision() -> None:
    rows = [("cpu", "fp32", True), ("cpu", "", False), ("cpu", "fp32", False)]
    placed = count_nodes(rows)
    assert describe(placed) == "cpu 1, cpu fp32 2 (1 products)"
