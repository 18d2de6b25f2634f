"""Which bundles in which backends are compared, and do they hold one model?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vjepa2.bundle import Bundle
from vjepa2.errors import BundleError, MissingDependencyError
from vjepa2.extras import import_with_extra
from vjepa2.manifest import Manifest

from .backends import BACKENDS, Backend, find_missing, open_backend

EVALUATOR = "evaluator"  # of export: every result rounded to the type that the graph declares
# left out unless named: the reference itself; whose first run takes minutes to build what it runs; what is often slower
# than the CPU beside it
_BY_NAME = ("pytorch", "onnxruntime-tensorrt", "pytorch-compile", "openvino-gpu")
_SAME = ("model", "clip", "head", "parts", "classes", "frames_shape", "source")  # of the manifests of one model


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bundle in a backend."""

    bundle: Bundle
    backend: str

    @property
    def name(self) -> str:
        """What a report calls it."""
        return f"{self.bundle.path.name} in {self.backend}"

    def open(self) -> Backend:
        """The loaded backend; the evaluator needs what exports."""
        if self.backend != EVALUATOR:
            return open_backend(self.bundle, self.backend)
        backend: Backend = import_with_extra("vjepa2.export.prove", "export").EvaluatorBackend(self.bundle)
        return backend


def choose_candidates(bundles: Sequence[Bundle], backends: Sequence[str]) -> tuple[list[Candidate], dict[str, str]]:
    """Every bundle in every one of `backends`, and why some are left out.

    Without `backends`, those that this machine has. `MissingDependencyError` for a named one that runs none of the
    bundles here.
    """
    names = tuple(dict.fromkeys(backends)) or tuple(
        name for name in BACKENDS if name not in _BY_NAME and find_missing(name) is None
    )
    candidates: list[Candidate] = []
    not_run: dict[str, str] = {}
    for bundle in bundles:
        for each in (Candidate(bundle, name) for name in names):
            missing = None if each.backend == EVALUATOR else find_missing(each.backend, bundle=bundle)
            if missing is None:
                candidates.append(each)
            else:
                not_run[each.name] = missing
    for name in backends:
        if not any(each.backend == name for each in candidates):
            raise MissingDependencyError(not_run[Candidate(bundles[0], name).name])
    return candidates, not_run


def check_same_model(bundles: Sequence[Bundle]) -> None:
    """`BundleError` unless all bundles say that they hold the same weights of the same model, for the same clip."""
    first = bundles[0]
    if len({bundle.path.resolve().name for bundle in bundles}) < len(bundles):
        raise BundleError("two of the bundles have the same name, and a report would mix them up; rename one")
    for other in bundles[1:]:
        for name in _SAME:
            left, right = _say(first.manifest, name), _say(other.manifest, name)
            if left != right:
                raise BundleError(
                    f"{first.path.name} and {other.path.name} are of different models: {name} is {left} and {right}; "
                    "give bundles of one model, one clip and one head"
                )


def _say(manifest: Manifest, name: str) -> object:
    return replace(manifest.source, warning=None) if name == "source" else getattr(manifest, name)
