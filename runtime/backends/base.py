"""What every backend promises.

Axes: B batch, T frames, H, W pixels, C colours, N tokens, D channels of a token, L classes or predicted tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError
from vjepa2.manifest import Manifest, TensorInfo
from vjepa2.spec import OutputName

from .held import HeldCall, HeldClips
from .placement import Executed, Placed

FramesArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
InputArray = npt.NDArray[np.generic]
OUTPUT_FIELDS: dict[OutputName, str] = {  # of `Outputs`
    "tokens": "tokens_BND",
    "embedding": "embeddings_BD",
    "logits": "logits_BL",
    "predicted": "predicted_BLD",
    "verb": "verbs_BL",
    "noun": "nouns_BL",
    "action": "actions_BL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a backend computed, float32; what was not asked for is None."""

    tokens_BND: FloatArray | None = None
    embeddings_BD: FloatArray | None = None
    logits_BL: FloatArray | None = None
    predicted_BLD: FloatArray | None = None  # by a predictor, at target_ids or after each step's action
    verbs_BL: FloatArray | None = None  # logits of what is anticipated
    nouns_BL: FloatArray | None = None
    actions_BL: FloatArray | None = None

    @classmethod
    def from_names(cls, arrays: Mapping[OutputName, FloatArray]) -> "Outputs":
        """The same arrays, each in its field."""
        return cls(**{OUTPUT_FIELDS[name]: array for name, array in arrays.items()})

    def by_name(self) -> dict[OutputName, FloatArray]:
        """What there is, under the names of the graph's outputs."""
        return {name: array for name, field in OUTPUT_FIELDS.items() if (array := getattr(self, field)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a bundle is to be run. What cannot be done so is an error, never something else."""

    device: str | None = None  # "cpu", "cuda", "cuda:1", "gpu"; None: the backend's first
    precision: Executed | None = None  # None: the bundle's
    allow: tuple[str, ...] = ()  # places and precisions that parts may fall to, in the words of `Placed`
    threads: int | None = None  # of the CPU; None: as many as the library likes
    cuda_graph: bool = False  # from its second call on, each set of outputs is one launch


class Backend(ABC):
    """One bundle in one library on one device, from construction to `close`."""

    name: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu",)  # kinds of device, the first by default
    has_cuda_graphs: ClassVar[bool] = False
    casts: ClassVar[tuple[Executed, ...]] = ()  # what the library makes of a float32 bundle when asked
    device: str  # with its number, if it is of a kind that has numbers
    precision: str  # asked for, and from the first run at the latest, executed
    placement: tuple[Placed, ...] = ()  # what ran where; empty until the library can tell, at the latest the first run
    reason: str = "asked for by name"
    build_ms: float = 0.0  # of opening, what went into making the graph that is then loaded

    def __init__(self, bundle: Bundle, options: RunOptions = RunOptions()) -> None:
        self.bundle, self.options = bundle, options
        self.device = self.check_device(options.device)
        self.precision = self._pick_precision(options.precision)
        if options.cuda_graph and not self.has_cuda_graphs:
            raise BackendError(
                f"{self.name} launches no CUDA graphs; take the tensorrt backend, or leave the option out"
            )
        self._is_open = True

    @classmethod
    def check_device(cls, asked: str | None) -> str:
        """The device in full, `cuda:0`; `BackendError` if it is of a kind that this backend does not know."""
        kind, _, number = (asked or cls.devices[0]).partition(":")
        if kind not in cls.devices or (number and (kind == "cpu" or not number.isdecimal())):
            known = (kind if kind == "cpu" else f"{kind}, {kind}:1" for kind in cls.devices)
            raise BackendError(f"{cls.name} has no device {asked!r}; it has {', '.join(known)}")
        return kind if kind == "cpu" else f"{kind}:{number or 0}"

    @classmethod
    def find_obstacle(cls, device: str | None = None, bundle: Bundle | None = None) -> str | None:
        """What this machine lacks, beside the library, to run bundles so; None if nothing is missing."""
        return None

    def describe(self) -> dict[str, object]:
        """What ran, where and in what, for a report."""
        return {
            "backend": self.name,
            "device": self.device,
            "precision": self.precision,
            "reason": self.reason,
            "placement": [asdict(row) for row in self.placement],
        }

    def run(
        self,
        frames_BTHWC: FramesArray,
        outputs: Sequence[OutputName] = ("embedding",),
        inputs: Mapping[str, InputArray] | None = None,
    ) -> Outputs:
        """Encode uint8 clips of the bundle's size, any number of them, and return once the results are in host memory.

        `inputs` are what the bundle's head takes beside frames, by name, a row for each clip. Only what `outputs`
        names is computed into the result, and the result is the caller's to keep.
        """
        return Outputs.from_names(self.run_by_name(frames_BTHWC, outputs, inputs))

    def run_by_name(
        self,
        frames_BTHWC: FramesArray,
        outputs: Sequence[OutputName],
        inputs: Mapping[str, InputArray] | None = None,
    ) -> dict[OutputName, FloatArray]:
        """As `run`, under the graph's names: a graph that is looked into has outputs that `Outputs` does not."""
        extras = dict(inputs or {})
        self.check(frames_BTHWC, outputs)
        check_extras(self.bundle.manifest, extras, len(frames_BTHWC))
        count = len(frames_BTHWC)
        step, is_fixed = self._clips_a_call(count), self.bundle.manifest.batch != "dynamic"
        parts = []
        for start in range(0, count, step):
            size = step if is_fixed else min(step, count - start)
            part = {name: _take(array, start, size) for name, array in extras.items()}
            parts.append(self._compute(_take(frames_BTHWC, start, size), part, outputs))
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in dict.fromkeys(outputs)}

    def check(self, frames_BTHWC: FramesArray, outputs: Sequence[OutputName]) -> None:
        """Raise `BackendError` unless `run` would take these."""
        if not self._is_open:
            raise BackendError(f"the {self.name} backend is closed; open it again")
        held = [info.name for info in self.bundle.manifest.outputs]
        unknown = [name for name in outputs if name not in held]
        if unknown or not outputs:
            raise BackendError(f"the bundle has no output {unknown}; it has {', '.join(held)}")
        must = self.bundle.manifest.frames_shape
        shape, dtype = np.shape(frames_BTHWC), getattr(frames_BTHWC, "dtype", None)
        if dtype != np.uint8 or len(shape) != 5 or shape[1:] != must or not shape[0]:
            raise BackendError(f"frames are {dtype} {list(shape)}; they must be uint8 [B, {', '.join(map(str, must))}]")

    def count_clips_a_call(self, count: int) -> int:
        """How many of `count` clips go through the graph at once."""
        return self._clips_a_call(count)

    def hold(
        self,
        frames_BTHWC: FramesArray,
        outputs: Sequence[OutputName] = ("embedding",),
        inputs: Mapping[str, InputArray] | None = None,
    ) -> HeldClips:
        """Put as many clips as the graph takes at once where the device reads them, to compute on them repeatedly."""
        extras, count = dict(inputs or {}), len(frames_BTHWC)
        self.check(frames_BTHWC, outputs)
        check_extras(self.bundle.manifest, extras, count)
        if count != self._clips_a_call(count):
            raise BackendError(f"{count} clips cannot be held; the graph takes {self._clips_a_call(count)} at once")
        return self._hold(frames_BTHWC, extras, outputs)

    def close(self) -> None:
        """Free what the backend holds. Safe to call twice."""
        self._is_open = False
        self._release()

    def __enter__(self) -> "Backend":
        """The backend itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _clips_a_call(self, count: int) -> int:
        """How many of `count` clips the graph takes at once; one of fixed batch is filled up."""
        limit = self.bundle.manifest.batch
        return count if isinstance(limit, str) else limit

    @abstractmethod
    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        """The outputs by name for clips that were checked; arrays that no later call writes to."""

    def _hold(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> HeldClips:
        """For a backend that does more in `_compute` than compute, the rest done beforehand."""
        return HeldCall(lambda: self._compute(frames_BTHWC, extras, outputs))

    def _graph_inputs(self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray]) -> dict[str, InputArray]:
        """What the bundle's graphs take, by name."""
        manifest = self.bundle.manifest
        clips: FramesArray | FloatArray = frames_BTHWC
        if manifest.graph_input == "pixel_values_videos":
            clips = normalise(frames_BTHWC, manifest.preprocessing.mean, manifest.preprocessing.std)
        return {manifest.graph_input: clips, **extras}

    @abstractmethod
    def _release(self) -> None:
        """Free the model. May be called twice."""

    def _pick_precision(self, asked: Executed | None) -> Executed:
        stored = self.bundle.manifest.precision
        choices = (stored, *self.casts) if stored == "fp32" else (stored,)
        if asked is not None and asked not in choices:
            raise BackendError(
                f"{self.name} runs this {stored} bundle in {' or '.join(choices)}; {asked} was asked for: "
                "export one in that precision, or choose another backend"
            )
        return asked or stored


def normalise(frames_BTHWC: FramesArray, mean: Sequence[float], std: Sequence[float]) -> FloatArray:
    """Clips float32 `[B, T, C, H, W]`: transformers' `pixel_values_videos` of the same pixels."""
    low_C, span_C = 255 * np.asarray(mean, np.float32), 255 * np.asarray(std, np.float32)
    frames_BTCHW = frames_BTHWC.transpose(0, 1, 4, 2, 3)
    pixels_BTCHW = np.empty(frames_BTCHW.shape, np.float32)
    for place in np.ndindex(frames_BTCHW.shape[:3]):  # plane by plane: nothing is moved twice, and all stays in caches
        plane_HW = pixels_BTCHW[place]
        np.subtract(frames_BTCHW[place], low_C[place[2]], out=plane_HW, dtype=np.float32)
        np.divide(plane_HW, span_C[place[2]], out=plane_HW)
    return pixels_BTCHW


def check_extras(manifest: Manifest, extras: Mapping[str, InputArray], count: int) -> None:
    """Raise `BackendError` unless `extras` are what the bundle's head takes beside frames, for `count` clips."""
    wanted = {info.name: info for info in manifest.inputs[1:]}
    if set(extras) != set(wanted):
        raise BackendError(
            f"inputs beside frames are {sorted(extras) or 'none'}; a bundle of head {manifest.head} takes "
            f"{', '.join(wanted) or 'none'}"
        )
    for name, info in wanted.items():
        array, must = extras[name], (count, *info.shape[1:])
        shape, dtype = np.shape(array), getattr(array, "dtype", None)
        if dtype != np.dtype(info.dtype) or shape != must:
            raise BackendError(f"{name} are {dtype} {list(shape)}; they must be {info.dtype} {list(must)}")
        if info.dtype == "int64":
            _check_ids(info, array, manifest.clip.tokens)
        elif not np.isfinite(array.astype(np.float64)).all():
            raise BackendError(f"{name} have values that are not finite numbers; each must be one")


def _check_ids(info: TensorInfo, ids_BK: InputArray, tokens: int) -> None:
    ordered_BK = np.sort(ids_BK.astype(np.int64), axis=1)
    least, most = int(ordered_BK.min()), int(ordered_BK.max())
    if least < 0 or most >= tokens:
        raise BackendError(f"{info.name} are from {least} to {most}; this bundle's tokens are 0 to {tokens - 1}")
    if (ordered_BK[:, 1:] == ordered_BK[:, :-1]).any():
        raise BackendError(f"{info.name} name a token twice in one row; name each token once")


_Scalar = TypeVar("_Scalar", bound=np.generic)


def _take(array_B: npt.NDArray[_Scalar], start: int, size: int) -> npt.NDArray[_Scalar]:
    """`size` rows from `start` on; behind the end the last one again, for a graph of fixed batch."""
    rows = array_B[start : start + size]
    if len(rows) < size:
        return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
    return rows
