"""What is to be compiled, and what of it can be refused before minutes are spent?"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from vjepa2.bundle import PORTABLE, WEIGHTS, Bundle
from vjepa2.engine_manifest import ShapeRange
from vjepa2.errors import CompileError
from vjepa2.manifest import Manifest

DEFAULT_LEVEL = 3  # of the builder's optimisation
LONGEST_UNFUSED = 4096  # tokens; beyond, scores of N x N in memory are gigabytes a block
_LOWER_LEVELS = (2, 1)  # tried next, with fewer, plainer kernels
_PLAN_MARGIN = 1.1  # a plan holds the weights, and kernels
_PLAN_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileRequest:
    """Bundles in the order in which they are tried, and how."""

    bundles: tuple[Bundle, ...]
    timings: Path  # folder
    max_batch: int | None = None  # of a bundle whose batch is dynamic
    level: int = DEFAULT_LEVEL
    workspace_bytes: int | None = None  # None: TensorRT's own limit

    @property
    def levels(self) -> tuple[int, ...]:
        """The level that was asked for, and the lower ones to try on the same graph."""
        return self.level, *(level for level in _LOWER_LEVELS if level < self.level)

    def name_of(self, bundle: Bundle) -> str:
        """What `bundle` is called in reports: its folder's name, or its path where another's folder has that name."""
        name = named_path(bundle).name
        return name if sum(named_path(each).name == name for each in self.bundles) == 1 else str(bundle.path)


def named_path(bundle: Bundle) -> Path:
    """Where a bundle is, in words that end in its folder's name, as `.` and `..` do not."""
    return bundle.path.resolve() if bundle.path.name in ("", "..") else bundle.path


def choose_profile(manifest: Manifest, max_batch: int | None) -> dict[str, ShapeRange]:
    """The shapes of each input that the engine is built for; `CompileError` if `max_batch` does not fit the bundle."""
    if manifest.batch == "dynamic" and max_batch is None:
        raise CompileError("the bundle's batch is dynamic; say with --max-batch how many clips a call has at most")
    if manifest.batch != "dynamic" and max_batch not in (None, manifest.batch):
        raise CompileError(
            f"the bundle's batch is {manifest.batch} and --max-batch {max_batch}; leave it out, "
            "or export the bundle with --batch dynamic"
        )
    least, most = (1, max_batch) if manifest.batch == "dynamic" else (manifest.batch, manifest.batch)

    def shape(sides: tuple[int | str, ...], batch: int | None) -> tuple[int, ...]:
        return tuple(batch if index == 0 else side for index, side in enumerate(sides))  # type: ignore[misc]

    return {
        info.name: ShapeRange(
            least=shape(info.shape, least), best=shape(info.shape, most), most=shape(info.shape, most)
        )
        for info in manifest.inputs
    }


def refuse_unfusable(manifest: Manifest) -> None:
    """Raise `CompileError` for what no TensorRT fuses: attention in float32 over many tokens."""
    tokens = manifest.clip.tokens
    if manifest.precision == "fp32" and tokens > LONGEST_UNFUSED:
        raise CompileError(
            f"the bundle is fp32 and has {tokens} tokens; TensorRT never fuses attention in fp32, and beyond "
            f"{LONGEST_UNFUSED} tokens it must be fused: export it with --precision fp16"
        )


def check_disk(bundle: Bundle) -> None:
    """Raise `CompileError` unless a plan of this bundle will fit beside it."""
    files = bundle.manifest.files
    needed = int((files[PORTABLE].bytes + files[WEIGHTS].bytes) * _PLAN_MARGIN) + _PLAN_BYTES
    free = shutil.disk_usage(bundle.path).free
    if free < needed:
        raise CompileError(
            f"{bundle.path} has {free / 1e6:.0f} MB of disk left and an engine needs about {needed / 1e6:.0f} MB; "
            "free some space"
        )
