"""What would TensorRT of that version do: a module with exactly the names of the real one, which keeps every call.

The names, parameters and enum numbers are those of `tests/tensorrt_api`; what the real version lacks raises
`AttributeError`, and so does setting a property that it cannot set. What happens is told by a `Script`.

Lifetimes are the real bindings' (`keep_alive` in pyOnnx.cpp and pyCore.cpp): a parser keeps its logger and not its
network, a network keeps its parser and its builder, an engine its runtime, a context its engine, a configuration its
timing cache and its monitor. Who uses what nobody kept is told so; the real one would read freed memory. The library
itself takes the first logger of a process, keeps no Python object of it, and ignores every later one.
"""

import ctypes
import json
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

API = Path(__file__).parent / "tensorrt_api"
VERSIONS = ("8.6", "10.3", "10.13", "10.16", "11.4")
# ONNX's numbers of types -> TensorRT's names; 8.6 knows neither BF16 nor INT64
_TYPES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF", 16: "BF16", 17: "FP8"}
_LAYERS = {"Cast": "CAST", "LayerNormalization": "NORMALIZATION", "MatMul": "MATRIX_MULTIPLY", "Softmax": "SOFTMAX"}
_LAYERS |= {"Shape": "SHAPE", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE"}
_NUMPY: dict[str, Any] = {
    "FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64
}  # fmt: skip

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(slots=True)
class Script:
    """What the machine and its TensorRT do; and, afterwards, what was asked of them."""

    has_gpu: bool = True
    parser_errors: list[tuple[str, str, str, str]] = field(default_factory=list)  # code, text, node, operator
    unsupported: list[int] = field(default_factory=list)  # nodes, by the pre-check
    plans: list[bytes | None] = field(default_factory=list)  # of one build after another; the last again; b"plan"
    messages: list[tuple[str, str]] = field(default_factory=list)  # severity, text, while it builds
    phases: list[tuple[str, str | None, int]] = field(default_factory=list)  # name, parent, steps
    during_build: Callable[[], None] = lambda: None
    layers: list[Any] = field(default_factory=list)  # what the inspector tells
    bindings_key: str = "Bindings"  # of the inspector's JSON
    information: bytes | None = None  # what the inspector writes instead of JSON of `layers`
    device_memory: int = 4096
    loads: bool = True  # whether plans can be deserialised
    cache_matches: bool = True
    infer: Callable[[Arrays], Arrays] | None = None  # what an engine computes
    enqueue: Callable[[int, Callable[[], None]], None] = lambda stream, work: work()  # puts work into a stream
    most_clips: int = 1  # of a profile, where the batch is free
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # the library's objects as weak references
    living: "weakref.WeakSet[Any]" = field(default_factory=weakref.WeakSet)  # the library's objects
    graph: onnx.GraphProto | None = None  # parsed last

    def named(self, *names: str) -> list[dict[str, Any]]:
        """The arguments of every call of `names`, in order."""
        return [arguments for name, arguments in self.calls if name in names]

    def order(self) -> list[str]:
        """The names of all calls."""
        return [name for name, _ in self.calls]

    def count(self, kind: str) -> int:
        """How many objects of a class there are now."""
        return sum(type(item).__name__ == kind for item in tuple(self.living))


class Enum:
    """A member of an enum as pybind11 makes it: an index, and equal to nothing but itself."""

    __members__: dict[str, "Enum"]

    def __init__(self, name: str, value: int) -> None:
        self.name, self.value = name, value

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and int(self) == int(other)

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value}>"


class FakeModule(ModuleType):
    """Makes an enum or a class of its list when it is first asked for: a test needs a tenth of them."""

    def __init__(self, version: str, script: Script) -> None:
        super().__init__("tensorrt")
        self.__spec__ = ModuleSpec("tensorrt", None)
        lines = [line.split() for line in (API / f"{version}.txt").read_text().splitlines()]
        self.__version__ = lines[0][1]
        self._script = script
        self._enums = {name: words for kind, name, *words in lines if kind == "enum"}
        classes = {name: words for kind, name, *words in lines if kind == "class"}
        self._classes = {name.split("(")[0]: (name[:-1].split("(")[1], words) for name, words in classes.items()}
        self.shift = 0  # added to the number of every enum that is made from now on
        self._logger: weakref.ref[Any] | None = None  # of the process

    def take_logger(self, logger: Any) -> None:
        """Register the first; of any other only say that it is ignored."""
        assert isinstance(logger, self.ILogger), "a logger that is none"
        if self._logger is None:
            self._logger = weakref.ref(logger)
        elif self._logger() is not logger:
            self.write("WARNING", "the current new logger is ignored, and TensorRT will use the existing one")

    def write(self, severity: str, text: str) -> None:
        """A line, to the logger of the process."""
        logger = None if self._logger is None else self._logger()
        assert logger is not None, "TensorRT calls a logger that was freed"
        logger.log(self.ILogger.Severity.__members__[severity], text)

    def __getattr__(self, name: str) -> Any:
        if name in self._enums:
            made: Any = _make_enum(name.rpartition(".")[2], self._enums[name], self.shift)
        elif not name.startswith("_") and name in self._classes:
            base, words = self._classes[name]
            parent = getattr(self, base) if base in self._classes else bytes if name == "IHostMemory" else object
            made = _make_class(self, self._script, _Blueprint(name, base, words), parent)
        else:
            raise AttributeError(f"module 'tensorrt' {self.__version__} has no attribute {name!r}")
        setattr(self, name, made)
        return made


def fake_tensorrt(version: str, script: Script) -> FakeModule:
    """A module like `tensorrt` of `version` (a file of `tests/tensorrt_api`), which does as `script` says."""
    return FakeModule(version, script)


def _make_enum(name: str, words: Sequence[str], shift: int) -> type[Enum]:
    kind: Any = type(name, (Enum,), {"__members__": {}})
    for word in words:
        member, number = word.split("=")
        known = next((item for item in kind.__members__.values() if int(item) == int(number) + shift), None)
        kind.__members__[member] = known or kind(member, int(number) + shift)
        setattr(kind, member, kind.__members__[member])
    made: type[Enum] = kind
    return made


@dataclass(frozen=True, slots=True)
class _Blueprint:
    name: str
    base: str
    words: Sequence[str]


def _make_class(module: FakeModule, script: Script, plan: _Blueprint, base: type) -> type:
    names: dict[str, Any] = {"_settable": frozenset(word[:-1] for word in plan.words if word.endswith("="))}
    nested = {path.split(".")[1]: getattr(module, path) for path in module._enums if path.startswith(f"{plan.name}.")}
    constants = {name: item for kind in nested.values() for name, item in kind.__members__.items()}
    for word in plan.words:
        member, bracket, rest = word.partition("(")
        if bracket:
            names[member] = _make_method(module, script, plan.name, member, _read_overloads(bracket + rest))
        elif member in nested or member in constants:
            names[member] = nested.get(member, constants.get(member))
        else:
            names[member.rstrip("=")] = _make_property(module, script, plan.name, member.rstrip("="))
    if "__init__" not in names and base is not bytes:
        names["__init__"] = _refuse
    kind = type(plan.name, (base,), names)
    if base is not bytes:
        kind.__setattr__ = _strict_set(kind, script, plan.name)  # type: ignore[method-assign, assignment]
    return kind


def _read_overloads(text: str) -> list[list[str]]:
    return [[word for word in part.strip("()").split(",") if word] for part in text.split("|")]


def _make_method(module: ModuleType, script: Script, owner: str, name: str, overloads: list[list[str]]) -> Any:
    def method(self: Any, *values: Any, **named: Any) -> Any:
        arguments = _bind(overloads, values, named, f"{owner}.{name}")
        script.calls.append((f"{owner}.{name}", {key: _unheld(value) for key, value in arguments.items()}))
        script.living.add(self)
        behaviour = _BEHAVIOURS.get(f"{owner}.{name}")
        if behaviour is None:
            if name == "__init__" or name.startswith("set_") or name in _SILENT:
                return None
            raise NotImplementedError(f"the fake has no {owner}.{name}; tell it what the real one does")
        return behaviour(module, script, self, **arguments)

    return method


def _unheld(value: Any) -> Any:
    """What a record of calls keeps: no object of the library, whose life is looked at."""
    is_plain = value is None or isinstance(value, (Enum, str, bytes, int, tuple, list))
    return value if is_plain else weakref.ref(value)


def _bind(overloads: list[list[str]], values: Sequence[Any], named: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments by name, as the first overload that fits takes them; pybind11 raises `TypeError` if none does."""
    for parameters in overloads:
        names = [parameter.rstrip("?") for parameter in parameters]
        needed = {parameter for parameter in parameters if not parameter.endswith("?")}
        given = dict(zip(names, values, strict=False)) | dict(named)
        twice = set(names[: len(values)]) & set(named)
        if len(values) <= len(names) and not twice and set(given) <= set(names) and needed <= set(given):
            return given
    raise TypeError(f"{where}(): incompatible function arguments: {values}, {named}; it takes {overloads}")


def _make_property(module: ModuleType, script: Script, owner: str, name: str) -> property:
    def read(self: Any) -> Any:
        if name in vars(self).get("_state", {}):
            return vars(self)["_state"][name]
        behaviour = _BEHAVIOURS.get(f"{owner}.{name}")
        if behaviour is None:
            raise NotImplementedError(f"the fake has no {owner}.{name}; tell it what the real one is")
        return behaviour(module, script, self)

    return property(read)


def _strict_set(kind: type, script: Script, owner: str) -> Callable[[Any, str, Any], None]:
    def write(self: Any, name: str, value: Any) -> None:
        inherits = type(self) is not kind and name not in dir(kind)  # then it may keep what it likes
        if inherits or name == "__class__":
            object.__setattr__(self, name, value)
        elif name not in kind._settable:  # type: ignore[attr-defined]
            raise AttributeError(f"{owner} has no {name} that can be set")
        else:
            script.calls.append((f"{owner}.{name}=", {"value": _unheld(value)}))
            vars(self).setdefault("_state", {})[name] = value

    return write


def _refuse(self: Any) -> None:
    raise TypeError(f"tensorrt.{type(self).__name__}: No constructor defined!")


def _new(module: Any, kind: str, /, **state: Any) -> Any:
    """An instance of a class that only the library makes."""
    item = object.__new__(getattr(module, kind))
    item.__dict__["_state"] = state
    module._script.living.add(item)
    return item


# ---- what the real one does, as far as it is needed: "Class.member" -> function(module, script, self, arguments)


def _make_with_logger(module: Any, script: Script, self: Any, logger: Any) -> None:
    """A builder or a runtime."""
    module.take_logger(logger)
    if not script.has_gpu:
        raise TypeError("pybind11::init(): factory function returned nullptr")
    vars(self)["_logger"] = logger


def _make_parser(_: ModuleType, __: Script, self: Any, network: Any, logger: Any) -> None:
    self.__dict__.update(_network=weakref.ref(network), _logger=logger, _errors=[])
    vars(network)["_parser"] = self


def _network_of(parser: Any) -> Any:
    network = vars(parser)["_network"]()
    assert network is not None, "the parser's network was freed"
    return network


def _parse_file(module: ModuleType, script: Script, self: Any, model: str) -> bool:
    network, found = _network_of(self), []
    assert Path(model).is_absolute(), "external data would be looked for in the working folder"
    try:
        graph = onnx.load(model, load_external_data=False).graph
    except Exception:  # protobuf's own
        found = [("MODEL_DESERIALIZE_FAILED", f"Failed to parse ONNX model from file: {model}!", "", "")]
    else:
        script.graph = graph
        vars(network)["_graph"] = _read_graph(module, graph)
    vars(self)["_errors"] = [*found, *script.parser_errors]
    return not (vars(self)["_errors"] or script.unsupported)


def _read_graph(module: ModuleType, graph: onnx.GraphProto) -> dict[str, list[Any]]:
    tensors: dict[str, Any] = {}

    def tensor(name: str) -> Any:
        return tensors.setdefault(name, _new(module, "ITensor", name=name))

    def describe(info: onnx.ValueInfoProto) -> Any:
        kind = info.type.tensor_type
        shape = tuple(side.dim_value if side.HasField("dim_value") else -1 for side in kind.shape.dim)
        known = _TYPES[kind.elem_type]
        # 8.6 has no INT64, and its parser makes INT32 of it
        dtype = getattr(module.DataType, "INT32" if known == "INT64" and not hasattr(module.DataType, known) else known)
        vars(tensor(info.name))["_state"].update(shape=shape, dtype=dtype)
        return tensor(info.name)

    constants = {item.name for item in graph.initializer}
    layers = []
    for item in graph.initializer:
        layers.append(_new(module, "ILayer", name=item.name, type=module.LayerType.CONSTANT, num_inputs=0))
        vars(layers[-1]).update(_inputs=[], _outputs=[tensor(item.name)])
    for node in graph.node:
        kind = getattr(module.LayerType, _LAYERS.get(node.op_type, "ELEMENTWISE"))
        layer = _new(module, "ILayer", name=node.name, type=kind, num_inputs=len(node.input))
        vars(layer).update(
            _inputs=[tensor(name) for name in node.input], _outputs=[tensor(name) for name in node.output]
        )
        if node.op_type == "Cast":
            vars(layer)["_state"]["to_type"] = getattr(module.DataType, _TYPES[node.attribute[0].i])
        layers.append(layer)
    for layer in layers:
        vars(layer)["_state"].update(num_outputs=len(vars(layer)["_outputs"]))
    inputs = [describe(info) for info in graph.input if info.name not in constants]
    return {"inputs": inputs, "outputs": [describe(info) for info in graph.output], "layers": layers}


def _parser_error(module: ModuleType, _: Script, self: Any, index: int) -> Any:
    error = _new(module, "ParserError")
    vars(error)["_error"] = vars(self)["_errors"][index]
    return error


def _supports(module: ModuleType, script: Script, self: Any, model: bytes, path: str | None = None) -> Any:
    assert path is not None, "external data would be looked for in the working folder"
    _network_of(self)
    try:
        graph = onnx.load_from_string(model).graph
    except Exception:  # protobuf's own
        vars(self)["_errors"], vars(self)["_subgraphs"] = [("MODEL_DESERIALIZE_FAILED", "Failed to parse", "", "")], []
        return False
    bad = set(script.unsupported)
    good = [index for index in range(len(graph.node)) if index not in bad]
    vars(self)["_subgraphs"] = [(good, True), *(([index], False) for index in sorted(bad))]
    vars(self)["_errors"] = list(script.parser_errors) if bad else []
    return not bad


def _supports_with_list(module: ModuleType, script: Script, self: Any, model: bytes, path: str | None = None) -> Any:
    return _supports(module, script, self, model, path), vars(self)["_subgraphs"]


def _build(module: Any, script: Script, self: Any, network: Any, config: Any) -> Any:
    state = vars(config).get("_state", {})
    for severity, text in script.messages:
        module.write(severity, text)
    monitor, go_on = state.get("progress_monitor"), True
    for name, parent, steps in script.phases if monitor else ():
        monitor.phase_start(name, parent, steps)
        for step in range(steps):
            script.during_build()
            go_on = go_on and monitor.step_complete(name, step)
        monitor.phase_finish(name)
        if not go_on:
            return None
    if not monitor:
        script.during_build()
    plan = script.plans.pop(0) if len(script.plans) > 1 else (script.plans or [b"plan"])[0]
    if plan is not None:
        vars(config)["_cache_after"] = b"timings of " + plan
    script.calls.append(("built", {"level": state.get("builder_optimization_level")}))
    return None if plan is None else module.IHostMemory(plan)


def _make_cache(module: ModuleType, _: Script, self: Any, serialized_timing_cache: bytes) -> Any:
    if serialized_timing_cache == b"spoilt":
        return None
    cache = _new(module, "ITimingCache")
    vars(cache)["_bytes"] = serialized_timing_cache
    return cache


def _take_cache(_: ModuleType, script: Script, self: Any, cache: Any, ignore_mismatch: bool) -> bool:
    matches = script.cache_matches or not vars(cache)["_bytes"]
    vars(self)["_cache"] = cache if matches else None
    return matches


def _give_cache(_: ModuleType, __: Script, self: Any) -> Any:
    cache = vars(self).get("_cache")
    if cache is not None:
        vars(cache)["_bytes"] = vars(self).get("_cache_after", vars(cache)["_bytes"])
    return cache


def _load_plan(module: ModuleType, script: Script, self: Any, serialized_engine: bytes) -> Any:
    if not script.loads:
        return None
    assert script.graph is not None, "no graph was parsed"
    engine = _new(module, "ICudaEngine", owner=self)
    graph = _read_graph(module, script.graph)
    vars(engine)["_io"] = [(tensor, "INPUT") for tensor in graph["inputs"]]
    vars(engine)["_io"] += [(tensor, "OUTPUT") for tensor in graph["outputs"]]
    return engine


def _io(self: Any, name: str) -> Any:
    """A tensor, and whether it is INPUT or OUTPUT."""
    return next(pair for pair in vars(self)["_io"] if pair[0].name == name)


def _open_context(module: ModuleType, _: Script, self: Any, **__: Any) -> Any:
    context = _new(module, "IExecutionContext")
    vars(context).update(_engine=self, _addresses={}, _shapes={})
    return context


def _execute(_: ModuleType, script: Script, self: Any, stream_handle: int) -> bool:
    """Read the inputs where they lie, compute, write the outputs: device memory is this machine's own."""
    held, engine = vars(self), vars(self)["_engine"]
    assert script.infer is not None, "the script does not say what the engine computes"
    assert set(held["_addresses"]) == {tensor.name for tensor, _ in vars(engine)["_io"]}, "a tensor has no address"

    def compute() -> None:
        inputs = {}
        for tensor, mode in vars(engine)["_io"]:
            if mode == "INPUT":
                shape = held["_shapes"].get(tensor.name, tensor.shape)
                raw = ctypes.string_at(held["_addresses"][tensor.name], _size(tensor, shape))
                inputs[tensor.name] = np.frombuffer(raw, _NUMPY[tensor.dtype.name]).reshape(shape)
        assert script.infer is not None
        for name, array in script.infer(inputs).items():
            data = np.ascontiguousarray(array, _NUMPY[_io(engine, name)[0].dtype.name]).tobytes()
            ctypes.memmove(held["_addresses"][name], data, len(data))

    script.enqueue(stream_handle, compute)
    return True


def _profile_shape(_: ModuleType, script: Script, self: Any, name: str, profile_index: int) -> list[tuple[int, ...]]:
    """Least, best and most, of the only profile."""
    assert profile_index == 0
    shape = tuple(_io(self, name)[0].shape)
    batches = (1, script.most_clips, script.most_clips) if shape[0] == -1 else (shape[0],) * 3
    return [(batch, *shape[1:]) for batch in batches]


def _size(tensor: Any, shape: Sequence[int]) -> int:
    return int(np.prod(shape)) * int(np.dtype(_NUMPY[tensor.dtype.name]).itemsize)


def _shape_of(_: ModuleType, __: Script, self: Any, name: str) -> tuple[int, ...]:
    """With the batch that was set, where it is free."""
    tensor, _mode = _io(vars(self)["_engine"], name)
    batches = [shape[0] for shape in vars(self)["_shapes"].values()]
    shape = tuple(tensor.shape)
    return (batches[0], *shape[1:]) if shape[0] == -1 and batches else shape


def _open_inspector(module: ModuleType, _: Script, self: Any) -> Any:
    inspector = _new(module, "EngineInspector")
    vars(inspector)["_engine"] = weakref.ref(self)  # kept from 10 on, not before
    return inspector


def _information(_: ModuleType, script: Script, self: Any, format: Any) -> str:
    assert format.name == "JSON"
    assert vars(self)["_engine"]() is not None, "the inspector's engine was freed"
    text = json.dumps({"Layers": script.layers, script.bindings_key: ["frames", "tokens"]}).encode()
    return (text if script.information is None else script.information).decode()  # as pybind11 makes a str of it


def _set_flag(_: ModuleType, __: Script, self: Any, flag: Enum) -> None:
    vars(self).setdefault("_flags", {"TF32"}).add(flag.name)


def _clear_flag(_: ModuleType, __: Script, self: Any, flag: Enum) -> None:
    vars(self).setdefault("_flags", {"TF32"}).discard(flag.name)


_SILENT = {"clear_errors", "reset", "phase_start", "phase_finish", "log"}
_BEHAVIOURS: dict[str, Callable[..., Any]] = {
    "Builder.__init__": _make_with_logger,
    "Builder.create_network": lambda module, script, self, flags=0: _new(module, "INetworkDefinition", owner=self),
    "Builder.create_builder_config": lambda module, script, self: _new(module, "IBuilderConfig", owner=self),
    "Builder.create_optimization_profile": lambda module, script, self: _new(
        module, "IOptimizationProfile", owner=self
    ),
    "Builder.build_serialized_network": _build,
    "OnnxParser.__init__": _make_parser,
    "OnnxParser.parse_from_file": _parse_file,
    "OnnxParser.num_errors": lambda module, script, self: len(vars(self)["_errors"]),
    "OnnxParser.get_error": _parser_error,
    "OnnxParser.supports_model": _supports_with_list,
    "OnnxParser.supports_model_v2": _supports,
    "OnnxParser.num_subgraphs": lambda module, script, self: len(vars(self)["_subgraphs"]),
    "OnnxParser.is_subgraph_supported": lambda module, script, self, index: vars(self)["_subgraphs"][index][1],
    "OnnxParser.get_subgraph_nodes": lambda module, script, self, index: vars(self)["_subgraphs"][index][0],
    "ParserError.code": lambda module, script, self: module.ErrorCode.__members__[vars(self)["_error"][0]],
    "ParserError.desc": lambda module, script, self: vars(self)["_error"][1],
    "ParserError.node": lambda module, script, self: 7,
    "ParserError.node_name": lambda module, script, self: vars(self)["_error"][2],
    "ParserError.node_operator": lambda module, script, self: vars(self)["_error"][3],
    "INetworkDefinition.num_inputs": lambda module, script, self: len(vars(self)["_graph"]["inputs"]),
    "INetworkDefinition.num_layers": lambda module, script, self: len(vars(self)["_graph"]["layers"]),
    "INetworkDefinition.get_input": lambda module, script, self, index: vars(self)["_graph"]["inputs"][index],
    "INetworkDefinition.get_layer": lambda module, script, self, index: vars(self)["_graph"]["layers"][index],
    "ILayer.get_input": lambda module, script, self, index: vars(self)["_inputs"][index],
    "ILayer.get_output": lambda module, script, self, index: vars(self)["_outputs"][index],
    "ILayer.output_type_is_set": lambda module, script, self, index: False,
    "ICastLayer.get_input": lambda module, script, self, index: vars(self)["_inputs"][index],
    "ICastLayer.get_output": lambda module, script, self, index: vars(self)["_outputs"][index],
    "IBuilderConfig.add_optimization_profile": lambda module, script, self, profile: 0,
    "IBuilderConfig.set_flag": _set_flag,
    "IBuilderConfig.clear_flag": _clear_flag,
    "IBuilderConfig.create_timing_cache": _make_cache,
    "IBuilderConfig.set_timing_cache": _take_cache,
    "IBuilderConfig.get_timing_cache": _give_cache,
    "IBuilderConfig.get_tactic_sources": lambda module, script, self: sum(
        1 << int(item) for item in module.TacticSource.__members__.values()
    ),
    "IBuilderConfig.set_tactic_sources": lambda module, script, self, tactic_sources: True,
    "ITimingCache.serialize": lambda module, script, self: module.IHostMemory(vars(self)["_bytes"]),
    "IHostMemory.nbytes": lambda module, script, self: len(self),
    "IProgressMonitor.step_complete": lambda module, script, self, phase_name, step: True,
    "Runtime.__init__": _make_with_logger,
    "Runtime.deserialize_cuda_engine": _load_plan,
    "ICudaEngine.create_engine_inspector": _open_inspector,
    "ICudaEngine.create_execution_context": _open_context,
    "ICudaEngine.device_memory_size": lambda module, script, self: script.device_memory,
    "ICudaEngine.device_memory_size_v2": lambda module, script, self: script.device_memory,
    "ICudaEngine.num_io_tensors": lambda module, script, self: len(vars(self)["_io"]),
    "ICudaEngine.get_tensor_name": lambda module, script, self, index: vars(self)["_io"][index][0].name,
    "ICudaEngine.get_tensor_mode": lambda module, script, self, name: getattr(module.TensorIOMode, _io(self, name)[1]),
    "ICudaEngine.get_tensor_dtype": lambda module, script, self, name: _io(self, name)[0].dtype,
    "ICudaEngine.get_tensor_shape": lambda module, script, self, name: _io(self, name)[0].shape,
    "ICudaEngine.get_tensor_location": lambda module, script, self, name: module.TensorLocation.DEVICE,
    "ICudaEngine.get_tensor_format": lambda module, script, self, name, profile_index=0: module.TensorFormat.LINEAR,
    "ICudaEngine.get_tensor_profile_shape": _profile_shape,
    "EngineInspector.get_engine_information": _information,
    "IExecutionContext.set_tensor_address": lambda module, script, self, name, memory: (
        vars(self)["_addresses"].update({name: memory}) or True
    ),
    "IExecutionContext.set_input_shape": lambda module, script, self, name, shape: (
        vars(self)["_shapes"].update({name: tuple(shape)}) or True
    ),
    "IExecutionContext.infer_shapes": lambda module, script, self: [],
    "IExecutionContext.get_tensor_shape": _shape_of,
    "IExecutionContext.execute_async_v3": _execute,
}


def install(version: str, script: Script) -> ModuleType:
    """Put a fake where `import tensorrt` finds it; for a process of its own, tests have `monkeypatch`."""
    sys.modules["tensorrt"] = fake_tensorrt(version, script)
    return sys.modules["tensorrt"]
