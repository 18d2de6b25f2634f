"""Where did a graph run, and in which precision: as the library itself tells, held against what was asked for."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from vjepa2.errors import BackendError
from vjepa2.manifest import Precision

# what a library computes in; tf32 is what a GPU may make of float32: its range, with the fraction of fp16
Executed = Precision | Literal["tf32"]
# bits of a significand; int8 last, for it has no exponent
_EXACTNESS: dict[str, int] = {"fp64": 53, "fp32": 24, "tf32": 11, "fp16": 11, "bf16": 8, "fp8": 4, "int8": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Nodes of one kind: those that ran in one place, in one precision."""

    place: str  # the library's own word: CPUExecutionProvider; CPU; cuda:0
    precision: str  # of what they compute; empty for those that move integers
    nodes: int
    products: int  # of them, those that multiply matrices


def count_nodes(rows: Iterable[tuple[str, str, bool]]) -> tuple[Placed, ...]:
    """Count rows of place, precision, and whether the node multiplies matrices."""
    nodes: Counter[tuple[str, str]] = Counter()
    products: Counter[tuple[str, str]] = Counter()
    for place, precision, is_product in rows:
        nodes[place, precision] += 1
        products[place, precision] += is_product
    return tuple(
        Placed(place=place, precision=precision, nodes=count, products=products[place, precision])
        for (place, precision), count in sorted(nodes.items())
    )


def check_placement(
    name: str, placed: Collection[Placed], *, place: str, precision: str, allow: Collection[str]
) -> str:
    """The precision in which most products ran.

    `BackendError` if a node ran elsewhere than at `place`, a node computed more coarsely than in `precision`, or most
    products ran in another one, and `allow` does not name that place or precision.
    """
    products: Counter[str] = Counter()
    for row in placed:
        if row.place != place and row.place not in allow:
            raise _fallen(name, f"{row.nodes} nodes on {row.place}", place, row.place, placed)
        coarser = _EXACTNESS.get(row.precision, 99) < _EXACTNESS[precision]
        if coarser and row.precision not in allow:
            raise _fallen(name, f"{row.nodes} nodes in {row.precision}", precision, row.precision, placed)
        products[row.precision] += row.products
    executed, count = products.most_common(1)[0] if products else ("", 0)
    if not count:
        raise BackendError(
            f"{name} tells of no product of matrices ({describe(placed)}); it cannot be held to anything"
        )
    if executed != precision and executed not in allow:
        raise _fallen(name, f"{count} products of matrices in {executed}", precision, executed, placed)
    return executed


def describe(placed: Collection[Placed]) -> str:
    """One line: `CPUExecutionProvider fp32 68 (11 products), CPUExecutionProvider 1`."""
    return ", ".join(
        " ".join(filter(None, (row.place, row.precision, str(row.nodes))))
        + (f" ({row.products} products)" if row.products else "")
        for row in placed
    )


def _fallen(name: str, what: str, asked: str, got: str, placed: Collection[Placed]) -> BackendError:
    return BackendError(
        f"{name} ran {what}, and {asked} was asked for ({describe(placed)}); "
        f"if that is good enough, allow {got!r} by name"
    )
