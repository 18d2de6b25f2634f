"""What will a model cost to run and to build, before anything is built: integers from its shape, and why.

Widths below are channels of a token; times tokens, batch and bytes of a number they are a tensor. What ONNX Runtime's
CPU provider holds was read off its allocations and is checked by `make bench-memory`; what TensorRT holds is reckoned
from which tensors must live at once, and no GPU has confirmed it.
"""

from dataclasses import dataclass
from typing import Literal

from vjepa2.errors import SpecError
from vjepa2.manifest import Precision
from vjepa2.spec import ClipSpec, ModelSpec

from .file_sizes import graph_file_bytes, list_tensors, weights_file_bytes

Engine = Literal["tensorrt", "onnxruntime", "onnxruntime-portable"]
Attention = Literal["fused", "scores in memory"]

_SESSION_BYTES = 24_000_000  # of ONNX Runtime: code that was touched, threads, the graph
_HEAP_LIMIT = 32 * 2**20  # glibc maps larger blocks one by one and gives them back; smaller ones share a heap
_FIRST_LAYERS = 2  # whose heads-first copies still find room in the heap


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes of one call, of building and of files, and operations of one call."""

    model: str
    clip: ClipSpec
    batch: int
    precision: Precision
    engine: Engine
    attention: Attention
    tokens: int  # of one clip
    depth: int  # blocks
    parameters: int  # of the encoder; heads are not included
    patch_flops: int  # of the projection of patches, which is float32 in every precision
    linear_flops: int  # of the blocks' linear layers
    attention_flops: int  # of both MatMuls between tokens
    weights_bytes: int
    tables_bytes: int  # of positions
    frames_bytes: int  # uint8 pixels
    outputs_bytes: int  # tokens and their mean, float32; of ONNX Runtime they are among the activations
    activations_bytes: int
    scores_bytes: int  # of one layer's attention, all heads; 0 if fused
    runtime_bytes: int  # ONNX Runtime's own; of TensorRT not known
    heap_bytes: int  # freed by ONNX Runtime and not given back by glibc's malloc (before 2.38)
    build_host_bytes: int  # while TensorRT builds: graph, its copy and the plan; or while a session is made
    build_device_bytes: int  # at least, while TensorRT builds; its workspace comes on top
    graph_file_bytes: int  # about
    weights_file_bytes: int
    engine_file_bytes: int  # about; 0 without TensorRT

    @property
    def flops(self) -> int:
        """Floating-point operations of one call."""
        return self.patch_flops + self.linear_flops + self.attention_flops

    @property
    def run_bytes(self) -> int:
        """The most that is held at once, by TensorRT on its GPU, beyond a process that has imported what it needs."""
        held = self.weights_bytes + self.tables_bytes + self.frames_bytes + self.activations_bytes
        if self.engine == "tensorrt":  # its session gives every output memory, asked for or not
            held += self.outputs_bytes
        return held + self.scores_bytes + self.runtime_bytes + self.heap_bytes

    @property
    def host_bytes(self) -> int:
        """What TensorRT's session holds beside its GPU: pinned pixels, with the plan while it loads, then the results.

        On a Jetson that is the same memory. 0 without TensorRT.
        """
        if self.engine != "tensorrt":
            return 0
        return self.frames_bytes + max(self.engine_file_bytes, self.outputs_bytes)


def plan_memory(
    model: ModelSpec,
    clip: ClipSpec,
    *,
    batch: int = 1,
    precision: Precision = "fp16",
    engine: Engine = "tensorrt",
    fused: bool | None = None,
) -> MemoryPlan:
    """The plan of an encoder with its mean; `fused` None is what `engine` does with attention of this precision.

    `SpecError` for a batch below one and for what the engine cannot do.
    """
    attention = _choose_attention(engine, precision, fused)
    if batch < 1:
        raise SpecError(f"batch is {batch}; it must be at least 1")
    _check_clip(model, clip)
    tensors = list(list_tensors(model, clip, precision))
    weights = sum(tensor.bytes for tensor in tensors if not tensor.is_table)
    file_bytes, built = weights_file_bytes(tensors), engine == "tensorrt"
    tables = sum(tensor.bytes for tensor in tensors if tensor.is_table)
    scores = _scores_bytes(model, clip, batch, precision) if attention != "fused" else 0
    activations = _tensorrt_bytes(model, clip, batch, precision) if built else _pool_bytes(model, clip, batch, engine)
    patch_flops = 2 * clip.tokens * clip.patch_values * model.dim
    return MemoryPlan(
        model=model.name,
        clip=clip,
        batch=batch,
        precision=precision,
        engine=engine,
        attention=attention,
        tokens=clip.tokens,
        depth=model.depth,
        parameters=model.parameters,
        patch_flops=batch * patch_flops,
        linear_flops=batch * (model.flops(clip) - model.attention_flops(clip) - patch_flops),
        attention_flops=batch * model.attention_flops(clip),
        weights_bytes=weights,
        tables_bytes=tables,
        frames_bytes=batch * clip.frames * clip.height * clip.width * 3,
        outputs_bytes=_width_bytes(model, clip, batch) + 4 * batch * model.dim,
        activations_bytes=activations,
        scores_bytes=scores,
        runtime_bytes=0 if built else _SESSION_BYTES,
        heap_bytes=0 if built else _heap_bytes(model, clip, batch, engine),
        build_host_bytes=2 * file_bytes + weights + tables if built else weights + tables + _SESSION_BYTES,
        build_device_bytes=weights + tables + activations + scores if built else 0,
        graph_file_bytes=graph_file_bytes(model, precision),
        weights_file_bytes=file_bytes,
        engine_file_bytes=weights + tables if built else 0,
    )


def _choose_attention(engine: Engine, precision: Precision, fused: bool | None) -> Attention:
    if engine == "tensorrt":
        can = precision != "fp32"  # no fused kernel takes float32
        if fused and not can:
            raise SpecError("fp32 attention is never fused by TensorRT; plan fp16 or bf16, or leave fused out")
        return "fused" if (can if fused is None else fused) else "scores in memory"
    if precision != "fp32":
        raise SpecError(f"{engine} is planned in fp32 alone, which was measured; {precision} was asked for")
    does = engine == "onnxruntime"
    if fused is not None and fused != does:
        raise SpecError(f"{engine} {'fuses' if does else 'does not fuse'} attention; leave fused out")
    return "fused" if does else "scores in memory"


def _check_clip(model: ModelSpec, clip: ClipSpec) -> None:
    taken = model.make_clip(clip.frames, clip.height, clip.width)
    if clip != taken:
        raise SpecError(
            f"the clip has tubelets of {clip.tubelet} and patches of {clip.patch}; "
            f"{model.name} takes {taken.tubelet} and {taken.patch}"
        )


def _width_bytes(model: ModelSpec, clip: ClipSpec, batch: int) -> int:
    """A float32 tensor of one width D: the residual stream."""
    return 4 * batch * clip.tokens * model.dim


def _scores_bytes(model: ModelSpec, clip: ClipSpec, batch: int, precision: Precision) -> int:
    """Scores of every head in one layer, computed in place: 21.7 GB of 16 heads at 18,432 tokens in float32."""
    return batch * model.heads * clip.tokens**2 * (4 if precision == "fp32" else 2)


def _tensorrt_bytes(model: ModelSpec, clip: ClipSpec, batch: int, precision: Precision) -> int:
    """The larger of what attention, the MLP and the patches need at once; the residual stream is float32.

    Attention: qkv, rotated q and k, and its result. MLP: normed tokens, and its inner width before and after GELU.
    Patches: the pixels in their own order and in that of patches.
    """
    number = 4 if precision == "fp32" else 2
    attention = 4 * model.dim + number * (3 + 2 + 1) * model.dim
    mlp = 4 * model.dim + number * (model.dim + 2 * model.mlp_dim)
    patches = number * 2 * clip.patch_values + 4 * model.dim
    return batch * clip.tokens * max(attention, mlp, patches)


def _pool_bytes(model: ModelSpec, clip: ClipSpec, batch: int, engine: Engine) -> int:
    """What ONNX Runtime holds through a call: a buffer once used is kept for the next tensor of the same shape.

    So buffers of different shapes add up, though they are never needed at once: qkv; q and k cut off it, swapped and
    both products of the rotation; the MLP's inner width three times; narrow ones of width D.
    """
    rotary = 2 if model.positions == "sincos" else 8
    block = (3 + rotary + _narrow_buffers(engine)) * model.dim + 3 * model.mlp_dim
    patches = 2 * clip.patch_values + model.dim
    return 4 * batch * clip.tokens * (max(block, patches) + _passing(engine) * model.dim)


def _narrow_buffers(engine: Engine) -> int:
    """Buffers of width D: residual before and after, normed, mixed and projected, q, k; plain operators turn both."""
    return 6 if engine == "onnxruntime" else 8


def _passing(engine: Engine) -> int:
    """Widths D outside the pool: heads-first copies of q, k and v inside the fused operator, or the result."""
    return 3 if engine == "onnxruntime" else 1


def _heap_bytes(model: ModelSpec, clip: ClipSpec, batch: int, engine: Engine) -> int:
    """What malloc keeps beside the pool, if a tensor of width D is small enough for its heap.

    Before the first call ends there is no pool, and narrow buffers come from the heap; it keeps them, and from the
    second call on the pool is one block beside it. In the first call, malloc before glibc 2.38 does not reuse two of
    each layer's three heads-first copies, because they are aligned.
    """
    width = _width_bytes(model, clip, batch)
    if width >= _HEAP_LIMIT:
        return 0
    passing = _passing(engine)
    second = _narrow_buffers(engine) + (passing if engine == "onnxruntime" else 0)
    first = passing + 2 * max(0, model.depth - _FIRST_LAYERS) if engine == "onnxruntime" else passing
    return (max(first, second) - passing) * width
