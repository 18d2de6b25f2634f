"""What does a bundle say of itself: `manifest.json` as a type, and its one canonical form."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal

from vjepa2.errors import BundleError, SpecError
from vjepa2.head_specs import HeadParts
from vjepa2.schema import read_record, to_record
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec, Head, ModelSpec

SCHEMA = 4
MAX_BYTES = 4 * 2**20

GraphInput = Literal["frames", "pixel_values_videos"]
Transform = Literal["none", "transposed", "folded"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
CalibrationMethod = Literal["percentile", "entropy"]
Batch = int | Literal["dynamic"]
# of the margin that is cut away: an odd one is not halved alike in transformers (down) and the original repository
Crop = Literal["centre, odd margins rounded down", "centre, odd margins rounded half to even"]
CROP_DOWN: Crop = "centre, odd margins rounded down"
CROP_EVEN: Crop = "centre, odd margins rounded half to even"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """An input or output of a graph."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    axes: tuple[str, ...]  # what each axis is


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a video becomes the clip that the model was trained on."""

    sampling: str = "uniform: arange(T) * total // T"
    resize_factor: tuple[int, int] = (256, 224)  # the resized side is int(size * 256 / 224)
    interpolation: str = "bilinear, antialiased, rounded to uint8"
    crop: Crop = CROP_DOWN
    mean: tuple[float, float, float] = RGB_MEAN
    std: tuple[float, float, float] = RGB_STD
    pooling: str = "mean over tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the weights came from."""

    name: str  # what was asked for: a model, a repository, a folder's or file's name, or "random"
    revision: str | None = None
    key: str | None = None  # of a Meta checkpoint
    seed: int | None = None  # of random weights
    files: dict[str, str]  # file name -> sha256
    layers: int | None = None  # what --layers cut the model to
    warning: str | None = None  # what nobody may overlook


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredParameter:
    """Where a parameter of the module lies, and how it was changed on the way (see `vjepa2.export.trace`)."""

    file: str
    offset: int  # bytes
    shape: tuple[int, ...]  # as stored
    dtype: str
    scales: int | None = None  # of an 8-bit weight: offset in bytes of float32 factors, one a column, of fp8 one in all
    transform: Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInfo:
    """A graph of the bundle."""

    nodes: int
    simplified: str  # what onnxsim did, or why its result was not kept
    targets: tuple[str, ...] = ()  # whose lint it passed
    refused: dict[str, str] = field(default_factory=dict)  # target -> why it takes no such precision


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """A file as export wrote it."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityVerdict:
    """The worst figures of one graph over the clips that were tried, against PyTorch float32; cosines in float64."""

    proved_by: str  # the backend that ran the graph, or "evaluator": float32, rounded to what the graph declares
    clips: int
    embedding_cosine: float | None  # of the worst of what is one vector a clip; None if nothing is
    token_cosine: float  # of the worst token that counts, of the encoder's or predicted
    token_p01: float  # first percentile of those that count, or the worst of fewer than 100, of the worst clip
    token_median: float  # of all tokens, of the worst clip
    quiet_tokens: int  # most in a clip, that do not count: a tiny norm before the final LayerNorm
    quiet_cosine: float | None  # of the worst of these
    agreement: float | None  # of a head's likeliest classes with the reference's
    relative_max: float  # max |difference| / max |reference|
    probe_cosine: float  # worst token of the same frames shuffled; must be clearly below 1
    accepted: dict[str, float]  # limits of the gate that a user put lower, by name
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How the ranges of activations were found, of a bundle with 8-bit Linears."""

    method: CalibrationMethod
    clips: int
    source: str  # of the clips: generated, or the name of a folder, whose videos stand beside generated ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that is needed to trust and to run a bundle."""

    schema: int = SCHEMA
    model: ModelSpec
    clip: ClipSpec
    head: Head
    parts: HeadParts
    classes: int | None  # that `logits` are of
    labels: tuple[str, ...] | None
    batch: Batch
    precision: Precision
    calibration: Calibration | None  # of activations in 8 bits
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    preprocessing: Preprocessing
    source: Source
    graphs: dict[str, GraphInfo]
    parameters: dict[str, StoredParameter]
    parity: dict[str, ParityVerdict]
    tools: dict[str, str]  # name -> version
    islands: tuple[str, ...] = ()  # nodes that are float32 beside what a 16-bit graph leaves so anyway
    words: tuple[str, ...] = ()  # of `vjepa2 export`, that make it again in any precision (see `vjepa2.export.words`)
    files: dict[str, FileInfo]

    @property
    def graph_input(self) -> str:
        """The graph's input: `frames` or `pixel_values_videos`."""
        return self.inputs[0].name

    @property
    def frames_shape(self) -> tuple[int, int, int, int]:
        """Frames `[T, H, W, 3]` of one clip as a backend takes them; before actions one frame a step."""
        frames = self.inputs[0].shape[1]
        assert isinstance(frames, int)
        return frames, self.clip.height, self.clip.width, 3


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical JSON of `manifest`, closed by the hash of what precedes it."""
    return seal_record(to_record(manifest))


def hash_manifest(manifest: Manifest) -> str:
    """The `self_sha256` of a manifest: what an engine calls its bundle by."""
    return hashlib.sha256(_canonical(to_record(manifest))).hexdigest()


def seal_record(record: dict[str, object]) -> bytes:
    """Canonical JSON of `record`, closed by `self_sha256` over what precedes it."""
    return _canonical({**record, "self_sha256": hashlib.sha256(_canonical(record)).hexdigest()})


def decode_manifest(data: bytes) -> Manifest:
    """Read what `encode_manifest` wrote; anything else is a `BundleError`."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is not JSON ({error}); export the bundle again") from error
    if not isinstance(record, dict) or "self_sha256" not in record:
        raise BundleError("manifest.json lacks self_sha256; it was not written by vjepa2 export")
    record.pop("self_sha256")
    if record.get("schema") != SCHEMA:
        raise BundleError(
            f"manifest.json has schema {record.get('schema')!r}; this version reads {SCHEMA}: export again"
        )
    try:
        manifest = read_record(Manifest, record, "manifest")
    except SpecError as error:
        raise BundleError(f"manifest.json describes no model: {error}; export again") from error
    if encode_manifest(manifest) != data:
        raise BundleError("manifest.json is not what export wrote (its self_sha256 or form differs); export again")
    return manifest


def _canonical(record: dict[str, object]) -> bytes:
    return (json.dumps(record, indent=1, allow_nan=False, ensure_ascii=True) + "\n").encode()
