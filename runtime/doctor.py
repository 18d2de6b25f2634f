"""What can this machine run, and what does it lack for the rest?"""

import platform
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from vjepa2.bundle import Bundle
from vjepa2.errors import MissingDependencyError
from vjepa2.extras import advise

from .backends.choice import BACKENDS, choose_backend, find_missing
from .gpus import Gpu, explain_no_gpu, list_gpus

# what stands beside the backends: library -> (the extra that brings it, what it is for)
_TOOLS = {
    "av": ("video", "read videos"),
    "pyarrow": ("parquet", "write Parquet"),
    "onnx": ("export", "export"),
}


_NARROW = ("fp16", "bf16", "fp8")
_KEEPING = ("tensorrt",)  # computes the types in the graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One backend, or one library beside them."""

    name: str
    usable: bool
    version: str | None  # of its library
    lacks: str | None  # a sentence with what to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that decides what runs here."""

    vjepa2: str
    python: str
    machine: str
    gpus: tuple[Gpu, ...]
    no_gpu: str | None  # why there is none
    backends: tuple[Finding, ...]
    tools: tuple[Finding, ...]
    auto: str | None  # the backend that `auto` takes; None if there is none
    reason: str  # why
    caution: str | None  # what is only known once the bundle is opened


def diagnose(bundle: Bundle | None = None) -> Diagnosis:
    """Try every backend's library, driver and devices; with `bundle`, what that bundle needs too. Loads no model."""
    gpus = tuple(list_gpus())
    try:
        choice = choose_backend(bundle)
        auto, reason = choice.name, choice.reason
    except MissingDependencyError as error:
        auto, reason = None, str(error)
    return Diagnosis(
        vjepa2=_version("vjepa2-edge") or "not installed",
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        gpus=gpus,
        no_gpu=None if gpus else explain_no_gpu(),
        backends=tuple(_examine(name, bundle) for name in BACKENDS),
        tools=tuple(_find_tool(library, *entry) for library, entry in _TOOLS.items()),
        auto=auto,
        reason=reason,
        caution=_caution(bundle, auto),
    )


def _caution(bundle: Bundle | None, auto: str | None) -> str | None:
    """Libraries tell what they compute a narrow graph in only after they have compiled it."""
    if bundle is None or auto is None or bundle.manifest.precision not in _NARROW or auto in _KEEPING:
        return None
    return (
        f"{bundle.path.name} is in {bundle.manifest.precision}; {auto} may compute parts in another precision: then it "
        "is refused once that is seen, unless --allow names the other one"
    )


def _examine(name: str, bundle: Bundle | None) -> Finding:
    lacks = find_missing(name, bundle=bundle)
    return Finding(name=name, usable=lacks is None, version=find_version(BACKENDS[name].library), lacks=lacks)


def find_version(library: str) -> str | None:
    """The version of an inference library, whichever distribution brought it; None if it is not installed."""
    return _version(library) or _version(f"{library}-gpu")


def _find_tool(library: str, extra: str, purpose: str) -> Finding:
    if find_spec(library) is None:
        lacks = f"to {purpose}: {advise(extra)}"
        return Finding(name=library, usable=False, version=None, lacks=lacks)
    return Finding(name=library, usable=True, version=_version(library), lacks=None)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
