"""Do two backends compute the same: a backend held to the limits of `gates` on the clips that its bundle carries."""

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from vjepa2.errors import BackendError
from vjepa2.manifest import ParityVerdict

from .backends import Backend
from .backends.base import FramesArray
from .figures import Figures, compare_outputs, find_breaches, measure
from .gates import GATES, Gate
from .reference import Reference

__all__ = [
    "GATES",
    "Figures",
    "Gate",
    "Reference",
    "check_parity",
    "check_stored",
    "compare_outputs",
    "find_faults",
    "find_gate",
    "measure",
    "prove_stored",
    "shuffle_frames",
]


def check_stored(backend: Backend) -> ParityVerdict:
    """The verdict on an open backend: the clips of its own bundle, by the gate of the precision that it computes in.

    It runs every stored clip and one shuffled, and reads no report: what is measured beside it is of the same backend.
    """
    return prove_stored(Reference.load(backend.bundle), backend)[0]


def prove_stored(reference: Reference, backend: Backend) -> tuple[ParityVerdict, Gate]:
    """What `check_stored` says, of clips that are loaded already, and the gate that it held them to."""
    gate = find_gate(backend)
    verdict = check_parity(reference, backend, gate)
    executed = find_gate(backend)  # some know what they compute in from the first run on
    return verdict if executed == gate else check_parity(reference, backend, executed), executed


def find_gate(backend: Backend) -> Gate:
    """The gate of the precision that a backend computes in, with what its bundle's export accepted.

    `BackendError` if none is written down for that precision.
    """
    if backend.precision not in GATES:
        raise BackendError(
            f"{backend.name} computes in {backend.precision}, for which no gate is written down; it must be one of "
            f"{', '.join(GATES)}"
        )
    stated = backend.bundle.manifest
    gate = GATES[backend.precision]
    if backend.precision != stated.precision:
        return gate
    return gate.accept({name: limit for each in stated.parity.values() for name, limit in each.accepted.items()})


def check_parity(reference: Reference, backend: Backend, gate: Gate) -> ParityVerdict:
    """Run every clip of `reference` on `backend`, and its most moving one with the frames shuffled.

    The verdict passes if every output is within `gate` on every clip and the tokens of the shuffled clip are not: a
    graph that gives the same for any order of frames would agree with nothing that was learnt.
    """
    shown = [_compare(reference, index, backend, gate) for index in range(len(reference.frames_BTHWC))]
    probe_figures = _compare(reference, reference.probe, backend, gate, shuffle_frames)
    worst = Figures.worst(shown)
    held = {entry.name: getattr(worst, entry.name) for entry in fields(ParityVerdict) if hasattr(worst, entry.name)}
    if held["token_p01"] is None:
        held["token_p01"] = worst.token_cosine
    return ParityVerdict(
        proved_by=backend.name,
        clips=len(shown),
        **held,
        probe_cosine=probe_figures.token_cosine,
        accepted=dict(gate.accepted),
        passed=not worst.faults(gate) and bool(probe_figures.faults(gate)),
    )


def find_faults(verdict: ParityVerdict, gate: Gate) -> list[str]:
    """Why a verdict did not pass `gate`, figure by figure; empty if it did."""
    faults = find_breaches(verdict, gate)
    if not faults and not verdict.passed:
        faults.append(f"shuffled frames pass as well (worst token {verdict.probe_cosine:.7g})")
    return faults


def shuffle_frames(frames_BTHWC: FramesArray) -> FramesArray:
    """The same frames in another order: the odd ones first, then the even ones; a single frame upside down."""
    if frames_BTHWC.shape[1] == 1:
        return np.ascontiguousarray(frames_BTHWC[:, :, ::-1])
    numbers = np.arange(frames_BTHWC.shape[1])
    return frames_BTHWC[:, np.concatenate([numbers[1::2], numbers[::2]])]


def _compare(
    reference: Reference,
    index: int,
    backend: Backend,
    gate: Gate,
    change: Callable[[FramesArray], FramesArray] = np.ascontiguousarray,
) -> Figures:
    """The figures of one clip, its frames changed by `change`."""
    one = slice(index, index + 1)
    inputs = {name: array[one] for name, array in reference.inputs.items()}
    expected = {name: array[one] for name, array in reference.outputs.by_name().items()}
    got = backend.run(change(reference.frames_BTHWC[one]), tuple(expected), inputs).by_name()
    return compare_outputs(expected, got, reference.norms_BN[one], gate.quiet)
