"""What does a report say of one candidate: on one clip, and on all?

Axes: B clips, D channels.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vjepa2.manifest import Manifest
from vjepa2.spec import OutputName

from .backends import Backend
from .backends.base import FloatArray
from .candidates import Candidate
from .clip_set import Case
from .figures import LEAST_FOR_P01, Figures
from .gates import Gate
from .neighbours import explain_none, overlap_neighbours
from .oracle import PYTORCH
from .parity_report import CandidateRow, ClipRow, TokenPlace


def judge_clip(case: Case, got: Mapping[OutputName, FloatArray], gate: Gate, manifest: Manifest) -> ClipRow:
    """One candidate's outputs of one clip, held to its gate."""
    figures = case.measure(got, gate)
    faults = tuple(figures.faults(gate))
    place = None if figures.worst_token is None else _place(figures.worst_token, case, manifest)
    return ClipRow(
        name=case.name,
        kind=case.kind,
        expected_by=case.expected_by,
        change=case.change,
        figures=figures,
        worst_place=place,
        faults=faults,
        passed=not faults,
    )


def _place(token: int, case: Case, manifest: Manifest) -> TokenPlace:
    """Where a token lies: tokens run over columns, rows, and steps of time through all frames."""
    _, rows, columns = manifest.clip.grid
    steps = case.expected["tokens"].shape[1] // (rows * columns)
    time, within = divmod(token, rows * columns)
    frame = time * len(case.frames_THWC) // steps
    return TokenPlace(frame=frame, row=within // columns, column=within % columns)


def sum_up(
    candidate: Candidate,
    backend: Backend,
    gate: Gate,
    rows: Sequence[ClipRow],
    vectors: Sequence[tuple[FloatArray, FloatArray]],
) -> CandidateRow:
    """What a candidate is worth on the clips so far; `vectors` are pairs of embeddings, the expected one first."""
    worst = Figures.worst([row.figures for row in rows])
    at = int(np.argmin([row.figures.token_cosine for row in rows]))
    neighbours, said = None, []
    if vectors:
        expected_BD, got_BD = (np.stack(side) for side in zip(*vectors, strict=True))
        neighbours = overlap_neighbours(expected_BD, got_BD)
        said += [explain_none(len(vectors))] if neighbours is None else []
    if worst.token_p01 is None:
        count = f"{worst.counted_tokens} tokens of a clip count, it takes {LEAST_FOR_P01}"
        said.append(f"first percentile: {count}; the worst token is held to its limit")
    if candidate.backend == PYTORCH:
        said.append("PyTorch is the reference of all clips but the stored ones, and is held to these alone")
    return CandidateRow(
        name=candidate.name,
        bundle=candidate.bundle.path.name,
        backend=candidate.backend,
        device=backend.device,
        precision=backend.precision,
        limits=gate.limits,
        limits_from=gate.source,
        accepted=dict(gate.accepted),
        clips=tuple(rows),
        worst=worst,
        worst_clip=rows[at].name,
        neighbours=neighbours,
        said=tuple(said),
        passed=all(row.passed for row in rows),
    )
