"""What does a report say of one candidate: on one clip, and on all?

Axes: B clips, N tokens, T steps of time, H, W patches, D channels.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vjepa2.manifest import Manifest, hash_manifest
from vjepa2.spec import OutputName

from .backends import Backend
from .backends.base import FloatArray
from .candidates import Candidate
from .clip_set import Case
from .figures import LEAST_FOR_P01, Figures, find_quiet, measure
from .gates import Gate
from .neighbours import explain_overlap, overlap_neighbours
from .oracle import PYTORCH
from .parity_report import CandidateRow, ClipRow, TokenMap, TokenPlace
from .pictures import shrink_frames


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


def find_worst(rows: Sequence[ClipRow]) -> int:
    """Which clip has the worst token; the first, if it is no number."""
    return int(np.argmin([row.figures.token_cosine for row in rows]))


def map_tokens(case: Case, got: Mapping[OutputName, FloatArray], gate: Gate, manifest: Manifest) -> TokenMap | None:
    """Every token's distance on one clip, beside its frames; None of a head that gives no tokens."""
    if "tokens" not in case.expected:
        return None
    cosines_BN, _ = measure(case.expected["tokens"], got["tokens"])
    _, rows, columns = manifest.clip.grid
    distances = [float(f"{1 - cosine:.3g}") for cosine in cosines_BN[0]]
    lines = [tuple(distances[at : at + columns]) for at in range(0, len(distances), columns)]
    distances_THW = tuple(tuple(lines[at : at + rows]) for at in range(0, len(lines), rows))
    frames, steps = len(case.frames_THWC), len(distances_THW)
    firsts = [step * frames // steps for step in range(steps)]
    return TokenMap(
        clip=case.name,
        frames=frames,
        distances_THW=distances_THW,
        quiet=tuple(map(int, np.flatnonzero(find_quiet(case.norms_BN, gate.quiet)))),
        pictures=shrink_frames(case.frames_THWC, firsts, manifest.clip.patch),
    )


def sum_up(
    candidate: Candidate,
    backend: Backend,
    gate: Gate,
    rows: Sequence[ClipRow],
    vectors: Sequence[tuple[FloatArray, FloatArray]],
    worst_map: TokenMap | None,
) -> CandidateRow:
    """What a candidate is worth on the clips so far; `vectors` are pairs of embeddings, the expected one first."""
    worst = Figures.worst([row.figures for row in rows])
    neighbours, said = None, []
    if vectors:
        expected_BD, got_BD = (np.stack(side) for side in zip(*vectors, strict=True))
        neighbours = overlap_neighbours(expected_BD, got_BD)
        said.append(explain_overlap(neighbours, len(vectors)))
    if worst.token_p01 is None:
        count = f"{worst.counted_tokens} tokens of a clip count, it takes {LEAST_FOR_P01}"
        said.append(f"first percentile: {count}; the worst token is held to its limit")
    if candidate.backend == PYTORCH:
        said.append("PyTorch is the reference of all clips but the stored ones, and is held to these alone")
    return CandidateRow(
        name=candidate.name,
        bundle=candidate.bundle.path.name,
        bundle_sha256=hash_manifest(candidate.bundle.manifest),
        backend=candidate.backend,
        device=backend.device,
        precision=backend.precision,
        limits=gate.limits,
        limits_from=gate.source,
        accepted=dict(gate.accepted),
        clips=tuple(rows),
        worst=worst,
        worst_clip=rows[find_worst(rows)].name,
        worst_map=worst_map,
        neighbours=neighbours,
        said=tuple(said),
        passed=all(row.passed for row in rows),
    )
