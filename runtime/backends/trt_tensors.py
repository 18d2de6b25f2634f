"""What goes in and out of an engine, in which shapes, and what does numpy call its types?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vjepa2.engine_manifest import EngineTensor, ShapeRange
from vjepa2.errors import BackendError

# TensorRT's types that numpy has
_DTYPES: dict[str, type[np.generic]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


def read_tensors(engine: Any) -> tuple[EngineTensor, ...]:
    """Inputs and outputs of an engine; a `BackendError` for what numpy cannot hold or the host cannot reach."""
    tensors = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        place, layout = engine.get_tensor_location(name).name, engine.get_tensor_format(name).name
        if dtype not in _DTYPES or (place, layout) != ("DEVICE", "LINEAR"):
            raise BackendError(f"the engine's {name} is {dtype}, {layout}, on the {place}; that cannot be run here")
        mode = engine.get_tensor_mode(name).name.lower()
        tensors.append(EngineTensor(name=name, mode=mode, dtype=dtype, shape=tuple(engine.get_tensor_shape(name))))
    return tuple(tensors)


def read_ranges(engine: Any, tensors: Sequence[EngineTensor]) -> dict[str, ShapeRange]:
    """The shapes that the engine's first profile, the only one that we build, was made for."""
    ranges = {}
    for tensor in tensors:
        if tensor.mode == "input":
            least, best, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(tensor.name, 0))
            ranges[tensor.name] = ShapeRange(least=least, best=best, most=most)
    return ranges


def numpy_type(tensor: EngineTensor) -> type[np.generic]:
    """What numpy calls the type of an engine's tensor."""
    return _DTYPES[tensor.dtype]
