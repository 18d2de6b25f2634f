"""How many bytes do a model's weights take: in memory by precision, and in a bundle's files."""

from collections.abc import Iterator
from dataclasses import dataclass

from vjepa2.manifest import Precision
from vjepa2.spec import ClipSpec, ModelSpec

_ALIGNMENT = 4096  # bytes: of every tensor in the file of weights

# bytes of portable.onnx for a block, its names among them, with casts in 16 bits and Q and DQ in 8
_GRAPH_BYTES: dict[Precision, int] = {"fp32": 5800, "fp16": 6400, "bf16": 6400, "int8": 8500, "fp8": 8500}

# bytes of a number in a block's matrices; the projection of patches is float32 whatever the precision
_MATRIX_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the file of weights; `is_table` if it belongs to the clip, not to the checkpoint."""

    elements: int
    element_bytes: int = _FLOAT_BYTES
    is_table: bool = False

    @property
    def bytes(self) -> int:
        """Without what aligns the next one."""
        return self.elements * self.element_bytes


def list_tensors(model: ModelSpec, clip: ClipSpec, precision: Precision) -> Iterator[StoredTensor]:
    """Everything that export stores: matrices of blocks in their precision, what is beside them mostly float32."""
    dim = model.dim
    yield StoredTensor(model.clip.patch_values * dim)
    yield StoredTensor(dim)
    if model.levels:  # the other kind of clip's projection, and the two vectors that name the kinds
        yield StoredTensor(model.clip.patch_values // model.clip.tubelet * dim)
        yield from (StoredTensor(dim) for _ in range(3))
    for _ in range(model.depth):
        yield from _list_block(model, precision)
    yield from (StoredTensor(dim) for _ in range(2 * max(1, len(model.levels))))
    yield StoredTensor(clip.tokens, is_table=True)  # averages the tokens
    if model.positions == "sincos":
        yield StoredTensor(clip.tokens * dim, is_table=True)
    else:
        yield from (StoredTensor(clip.tokens * model.head_dim, is_table=True) for _ in range(2))


def _list_block(model: ModelSpec, precision: Precision) -> Iterator[StoredTensor]:
    """Four linear layers and two LayerNorms; of the biases only qkv's is added in 16 bits, as attention reads it."""
    dim, wide = model.dim, model.mlp_dim
    layers = {"qkv": (dim, 3 * dim), "proj": (dim, dim), "fc1": (dim, wide), "fc2": (wide, dim)}
    for name, (rows, columns) in layers.items():
        yield StoredTensor(rows * columns, _MATRIX_BYTES[precision])
        yield StoredTensor(columns, 2 if name == "qkv" and precision in ("fp16", "bf16") else _FLOAT_BYTES)
        if precision in ("int8", "fp8"):
            yield StoredTensor(columns if precision == "int8" else 1)  # scales: of each column, or of all
    yield from (StoredTensor(dim) for _ in range(4))


def weights_file_bytes(tensors: list[StoredTensor]) -> int:
    """Size of `weights.data`: every tensor but the first begins on a page."""
    end = 0
    for tensor in tensors:
        end = -(-end // _ALIGNMENT) * _ALIGNMENT + tensor.bytes
    return end


def graph_file_bytes(model: ModelSpec, precision: Precision) -> int:
    """About the size of one graph, which holds no weights; beside its blocks stands half a block's worth."""
    return (2 * model.depth + 1) * _GRAPH_BYTES[precision] // 2
