"""What does a head take beside pixels, and with which values is it proven?

Axes: B batch, K context tokens, L target tokens, S steps, C numbers of an action or a state.
"""

import zlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from vjepa2.errors import ExportError
from vjepa2.headed import ActionEncoder, Headed, PredictiveEncoder
from vjepa2.manifest import TensorInfo

ExtraArrays = Mapping[str, npt.NDArray[np.generic]]


def describe_extras(model: Headed, context: int | None, targets: int | None) -> tuple[TensorInfo, ...]:
    """The inputs of one clip; `context` and `targets` are how many tokens a predictor is told and asked, or all."""
    if isinstance(model, PredictiveEncoder):
        tokens = model.encoder.clip.tokens
        counts = {"context": tokens if context is None else context, "targets": tokens if targets is None else targets}
        for name, count in counts.items():
            if not 1 <= count <= tokens:
                raise ExportError(f"{name} is {count}; of {tokens} tokens it must be from 1 to all")
        return (
            TensorInfo(name="context_ids", dtype="int64", shape=(1, counts["context"]), axes=("batch", "tokens")),
            TensorInfo(name="target_ids", dtype="int64", shape=(1, counts["targets"]), axes=("batch", "tokens")),
        )
    if context is not None or targets is not None:
        raise ExportError("context and targets are of the head predictor; leave them out")
    if isinstance(model, ActionEncoder):
        shape = (1, model.predictor.clip.grid[0], model.predictor.spec.action_dim)
        axes = ("batch", "steps", "numbers")
        return tuple(TensorInfo(name=name, dtype="float32", shape=shape, axes=axes) for name in ("actions", "states"))
    return ()


def make_extras(model: Headed, infos: tuple[TensorInfo, ...], count: int) -> ExtraArrays:
    """Seeded values for `count` clips: ids in no order, each clip's its own; actions and states of size one."""
    made: dict[str, npt.NDArray[np.generic]] = {}
    for info in infos:
        random = np.random.default_rng(zlib.crc32(info.name.encode()))
        shape = [int(side) for side in info.shape[1:]]
        if info.dtype == "int64":
            rows = [random.permutation(model.encoder.clip.tokens)[: shape[0]] for _ in range(count)]
            made[info.name] = np.stack(rows).astype(np.int64)
        else:
            made[info.name] = random.standard_normal((count, *shape)).astype(np.float32)
    return made
