"""Which nodes of a graph are to be float32 islands: those of a set, or those that were named?

In a graph of 16 bits LayerNorm, the residual stream and GELU are float32 anyway. What is left are the products of a
block's linear layers with what adds their biases, and attention.
"""

import re
from collections.abc import Iterable, Sequence

from vjepa2.errors import ExportError

# a name -> what the names of its nodes match
ISLAND_SETS = {
    "attention": r"blocks\.\d+\.attn/(MatMul|Softmax)_",  # of every block; beyond 4,096 tokens TensorRT must fuse it
    "linears": r"blocks\.\d+\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)/",
    "mlp": r"blocks\.\d+\.mlp\.(fc1|fc2)/",
}
_ATTENTION = re.compile(r"(.*/)(MatMul_scores_BAMN|Softmax_weights_BAMN|MatMul_mixed_BAMK)")


def choose_islands(asked: Sequence[str], nodes: Iterable[str]) -> tuple[str, ...]:
    """The names among `nodes`, in their order, of what was asked for; `ExportError` names what the graph lacks.

    One node of an attention brings the others: with a cast between them nothing would be fused.
    """
    order = list(nodes)
    chosen: set[str] = set()
    for word in asked:
        pattern = re.compile(ISLAND_SETS[word] if word in ISLAND_SETS else re.escape(word) + "$")
        found = [name for name in order if pattern.match(name)]
        if not found:
            raise ExportError(
                f"the graph has no {word}, which is to be an island; islands are nodes of the graph that is exported: "
                f"take those of a drift of the same model, or {', '.join(ISLAND_SETS)}"
            )
        chosen.update(found)
    touched = {match[1] for name in chosen if (match := _ATTENTION.fullmatch(name))}
    chosen |= {name for name in order if (match := _ATTENTION.fullmatch(name)) and match[1] in touched}
    return tuple(name for name in order if name in chosen)
