"""What is right: PyTorch float32, rebuilt from a bundle, or what export stored of it?"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError, ParityError
from vjepa2.extras import import_with_extra
from vjepa2.spec import OutputName

from .backends import Outputs, find_missing
from .backends.base import FloatArray, InputArray
from .clip_set import Case, Clip
from .figures import Figures
from .gates import GATES
from .parity_report import ReferenceRow

PYTORCH = "pytorch"


class Oracle:
    """PyTorch float32 on any clip, by the weights of one float32 bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        module = import_with_extra("vjepa2.runtime.backends.pytorch", "torch")
        self._backend: Any = module.PyTorchBackend(bundle)
        self._known: dict[str, tuple[Outputs, FloatArray]] = {}  # of clips that were asked for before

    @property
    def name(self) -> str:
        """Who expects what it gives."""
        return f"PyTorch float32, rebuilt from {self.bundle.path.name}"

    def expect(self, clip: Clip, inputs: Mapping[str, InputArray], outputs: Sequence[OutputName]) -> Case:
        """A clip with what PyTorch makes of it."""
        key = _fingerprint(clip, inputs)
        if key not in self._known:
            self._known[key] = self._backend.run_with_norms(clip.frames_THWC, tuple(outputs), inputs)
        results, norms_BN = self._known[key]
        return Case(
            name=clip.name,
            kind=clip.kind,
            frames_THWC=clip.frames_THWC,
            inputs=inputs,
            expected=results.by_name(),
            norms_BN=norms_BN,
            expected_by=self.name,
        )

    def anchor(self, stored: Case) -> Figures:
        """PyTorch against what export stored of its own model; `ParityError` if these are not the same weights."""
        clip = Clip(name=stored.name, kind=stored.kind, frames_THWC=stored.frames_THWC)
        got: Mapping[OutputName, FloatArray] = self.expect(clip, stored.inputs, tuple(stored.expected)).expected
        figures = stored.measure(got, GATES["fp32"])
        faults = figures.faults(GATES["fp32"])
        if faults:
            raise ParityError(
                f"{self.name} does not give what {stored.expected_by} holds: {'; '.join(faults)}; these are different "
                "weights, or one of the bundles is wrong: export both again from one source"
            )
        return figures

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        self._backend.close()


def find_oracle(bundles: Sequence[Bundle], given: Bundle | None) -> tuple[Bundle | None, str]:
    """The bundle whose weights PyTorch can run, or None and why; `BackendError` if the `given` one cannot."""
    reasons = []
    for bundle in [given] if given is not None else bundles:
        missing = find_missing(PYTORCH, bundle=bundle)
        if missing is None:
            return bundle, ""
        reasons.append(missing)
    why = "; ".join(dict.fromkeys(reasons))
    if given is not None:
        raise BackendError(f"{given.path.name} cannot be the reference: {why}")
    return None, why


def describe_reference(oracle: Bundle | None, why: str, anchors: Mapping[str, Figures]) -> ReferenceRow:
    """What candidates are held against, in words that claim no more than was done."""
    stored = (
        "stored clips are held against reference.npz, which export wrote from the original weights before any rounding"
    )
    if oracle is None:
        says = (
            stored,
            f"no other clip is compared, for PyTorch float32 of the original weights is not to be had here: {why}",
        )
        return ReferenceRow(kind="reference.npz", bundle=None, says=says, anchors={})
    says = (
        stored,
        f"all other clips against PyTorch float32 of the weights in {oracle.path.name}, which are the original ones as "
        "far as it gives what reference.npz holds of the clip that changes most (`anchors`)",
    )
    return ReferenceRow(
        kind="PyTorch float32 and reference.npz", bundle=oracle.path.name, says=says, anchors=dict(anchors)
    )


def _fingerprint(clip: Clip, inputs: Mapping[str, InputArray]) -> str:
    digest = hashlib.sha256(clip.frames_THWC.tobytes())
    for name in sorted(inputs):
        digest.update(inputs[name].tobytes())
    return digest.hexdigest()
