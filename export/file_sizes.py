"""How many bytes do a model's weights take: in memory by precision, and in a bundle's files."""

from collections.abc import Iterator
from dataclasses import dataclass

from vjepa2.manifest import Precision
from vjepa2.spec import ClipSpec, ModelSpec

_ALIGNMENT = 4096  # bytes: of every tensor in the file of weights
_NODE_BYTES = 170  # of a graph's file: a node with its names
_BLOCK_NODES = 35

# bytes of a weight that a MatMul reads: of a block's linear layers, and of the projection of patches
MATRIX_BYTES: dict[Precision, tuple[int, int]] = {
    "fp32": (4, 4),
    "fp16": (2, 2),
    "bf16": (2, 2),
    "int8": (1, 2),
    "fp8": (1, 2),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the file of weights; `is_table` if it belongs to the clip, not to the checkpoint."""

    elements: int
    element_bytes: int
    is_table: bool = False

    @property
    def bytes(self) -> int:
        """Without what aligns the next one."""
        return self.elements * self.element_bytes


def list_tensors(model: ModelSpec, clip: ClipSpec, precision: Precision) -> Iterator[StoredTensor]:
    """Everything that export stores; vectors, gains and tables stay float32, as do an 8-bit matrix's scales."""
    dim, wide = model.dim, model.mlp_dim
    of_blocks, of_patches = MATRIX_BYTES[precision]
    yield StoredTensor(model.clip.patch_values * dim, of_patches)
    yield StoredTensor(dim, 4)
    if model.levels:  # the other kind of clip's projection, and the two vectors that name the kinds
        yield StoredTensor(model.clip.patch_values // model.clip.tubelet * dim, of_patches)
        yield from (StoredTensor(dim, 4) for _ in range(3))
    for _ in range(model.depth):
        for rows, columns in ((dim, 3 * dim), (dim, dim), (dim, wide), (wide, dim)):
            yield StoredTensor(rows * columns, of_blocks)
            yield StoredTensor(columns, 4)
            if of_blocks == 1:
                yield StoredTensor(columns, 4)  # a scale for each output channel
        yield from (StoredTensor(dim, 4) for _ in range(4))
    yield from (StoredTensor(dim, 4) for _ in range(2 * max(1, len(model.levels))))
    yield StoredTensor(clip.tokens, 4, is_table=True)  # averages the tokens
    if model.positions == "sincos":
        yield StoredTensor(clip.tokens * dim, 4, is_table=True)
    else:
        yield from (StoredTensor(clip.tokens * model.head_dim, 4, is_table=True) for _ in range(2))


def weights_file_bytes(tensors: list[StoredTensor]) -> int:
    """Size of `weights.data`: every tensor but the first begins on a page."""
    end = 0
    for tensor in tensors:
        end = -(-end // _ALIGNMENT) * _ALIGNMENT + tensor.bytes
    return end


def graph_file_bytes(model: ModelSpec) -> int:
    """About the size of one graph, which holds no weights."""
    return (model.depth + 1) * _BLOCK_NODES * _NODE_BYTES
