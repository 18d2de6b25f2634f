"""How is a comparison run: every candidate on every clip, then the canaries, and what is known kept at any moment?

Axes: B clips, D channels.
"""

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from vjepa2 import __version__
from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError, EngineError
from vjepa2.spec import OutputName

from .backends import BACKENDS, Backend
from .backends.base import FloatArray
from .canaries import OF_INPUT, Bench, Canary
from .candidates import EVALUATOR, Candidate, check_same_model, choose_candidates
from .clip_set import Case, Clip, generate_clips, list_stored, read_folder
from .decode_messages import ClipRequest
from .doctor import find_version
from .oracle import PYTORCH, Oracle, describe_reference, find_oracle
from .parity import find_gate
from .parity_report import CandidateRow, ClipRow, ParityReport, ReferenceRow, TokenMap
from .parity_rows import find_worst, judge_clip, map_tokens, sum_up
from .reference import Reference
from .sampling import Pad

Announce = Callable[[str], None]
Save = Callable[[ParityReport], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityRequest:
    """What to compare, and on what."""

    bundles: tuple[Bundle, ...]
    backends: tuple[str, ...] = ()  # none: those that this machine has
    reference: Bundle | None = None  # whose float32 weights PyTorch runs; None: the first of `bundles` that has some
    clips: Path | None = None  # a folder of videos
    pad: Pad = "none"  # what to do with one that is too short


@dataclass(slots=True)
class _Log:
    """The report so far, handed to `save` after every clip."""

    report: ParityReport
    save: Save
    rows: dict[str, CandidateRow] = field(default_factory=dict)
    canaries: list[Canary] = field(default_factory=list)

    def has(self, bundle: Bundle) -> bool:
        """Whether any backend ran it."""
        return any(row.bundle == bundle.path.name for row in self.rows.values())

    def keep(self, *, partial: bool = True) -> ParityReport:
        """Draw the verdicts and save."""
        rows = tuple(self.rows.values())
        report = replace(self.report, partial=partial, candidates=rows, canaries=tuple(self.canaries)).judged()
        self.save(report)
        return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """What the candidates of one bundle run."""

    reference: Reference
    stored: list[Case]
    others: list[Case]


def run_parity(request: ParityRequest, *, save: Save, announce: Announce = lambda _: None) -> ParityReport:
    """Compare, and return the finished report; `save` is given it, called partial, after every clip before.

    `BackendError` if clips are to be compared that nothing here knows the right tokens of, `ParityError` if PyTorch
    does not give what export stored.
    """
    given = () if request.reference is None else (request.reference,)
    check_same_model((*request.bundles, *(each for each in given if each not in request.bundles)))
    candidates, not_run = choose_candidates(request.bundles, request.backends)
    weights, why = find_oracle(request.bundles, request.reference)
    if weights is None and request.clips is not None:
        raise BackendError(
            f"clips of {request.clips} need PyTorch float32 of the original weights, which is not to be had here: "
            f"{why}; give a float32 bundle of the same model with --reference, or leave the clips out"
        )
    libraries = {BACKENDS[each.backend].library for each in candidates if each.backend in BACKENDS}
    opened = _open_report(describe_reference(weights, why, {}), not_run, sorted(libraries | {"numpy", "torch"}))
    log = _Log(opened, save)
    log.keep()  # a place that cannot be written to is told before minutes are spent
    sets = _prepare(request, weights, log, announce)
    for bundle in request.bundles:
        here = [candidate for candidate in candidates if candidate.bundle is bundle]
        _run_bundle(bundle, here, sets[bundle.path.name], log, request, announce)
    return log.keep(partial=False)


def _prepare(request: ParityRequest, weights: Bundle | None, log: _Log, announce: Announce) -> dict[str, _Set]:
    """The clips of each bundle, by its name, with what is right for them."""
    references = {bundle.path.name: Reference.load(bundle) for bundle in request.bundles}
    stored = {name: list_stored(reference, name) for name, reference in references.items()}
    others: list[Case] = []
    if weights is not None:
        announce(f"{PYTORCH} from {weights.path.name}")
        clips = _gather(request)
        with closing(Oracle(weights)) as oracle:
            anchors = {name: oracle.anchor(stored[name][references[name].probe]) for name in stored}
            log.report = replace(log.report, reference=describe_reference(weights, "", anchors))
            others = _expect(oracle, clips, next(iter(stored.values())))
    return {name: _Set(reference=references[name], stored=stored[name], others=others) for name in stored}


def _run_bundle(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    runs: _Set,
    log: _Log,
    request: ParityRequest,
    announce: Announce,
) -> None:
    """Run a bundle's candidates; where nobody named any and all refuse it, export's evaluator."""
    for candidate in candidates:
        is_oracle = candidate.backend == PYTORCH and bool(runs.others)
        _try(candidate, replace(runs, others=[]) if is_oracle else runs, log, request, announce)
    if not request.backends and not log.has(bundle):
        _try(Candidate(bundle, EVALUATOR), runs, log, request, announce)
    if not log.has(bundle):
        name = bundle.path.name
        whys = [why for left, why in log.report.not_run.items() if left.startswith(f"{name} in ")]
        raise BackendError(f"nothing here runs {name}: {'; '.join(whys)}")


def _gather(request: ParityRequest) -> list[Clip]:
    bundle = request.bundles[0]
    clips = list(generate_clips(bundle))
    if request.clips is not None:
        clips += read_folder(ClipRequest.of(bundle.manifest), request.clips, request.pad)
    return clips


def _expect(oracle: Oracle, clips: Sequence[Clip], stored: Sequence[Case]) -> list[Case]:
    """What is right for each clip; beside frames a head takes what the stored clips have, in turn."""
    cases = []
    for number, clip in enumerate(clips):
        like = stored[number % len(stored)]
        cases.append(oracle.expect(clip, like.inputs, tuple(like.expected)))
    return cases


def _open_report(reference: ReferenceRow, not_run: Mapping[str, str], libraries: Sequence[str]) -> ParityReport:
    versions = {name: version for name in libraries if (version := find_version(name)) is not None}
    return ParityReport(
        passed=False,
        partial=True,
        invalid=(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=" ".join(["vjepa2", *sys.argv[1:]]),
        machine=f"{platform.system()} {platform.machine()}",
        versions={"vjepa2-edge": __version__, "python": platform.python_version()} | versions,
        reference=reference,
        candidates=(),
        canaries=(),
        not_run=dict(not_run),
    )


def _try(candidate: Candidate, runs: _Set, log: _Log, request: ParityRequest, announce: Announce) -> None:
    """Run one candidate; one that nobody named and that refuses the bundle is left out, with the reason."""
    try:
        announce(f"{candidate.name}: clips")
        with candidate.open() as backend:
            _run(candidate, backend, runs, log, announce)
    except (BackendError, EngineError) as error:
        if request.backends or candidate.name in log.rows:
            raise
        log.report = replace(log.report, not_run={**log.report.not_run, candidate.name: str(error)})


def _run(candidate: Candidate, backend: Backend, runs: _Set, log: _Log, announce: Announce) -> None:
    cases = [*runs.stored, *runs.others]
    probe = max(cases, key=lambda case: case.change)
    rows: list[ClipRow] = []
    vectors: list[tuple[FloatArray, FloatArray]] = []
    alike: dict[OutputName, FloatArray] = {}
    worst_map: TokenMap | None = None
    for case in cases:
        got = backend.run(case.frames_THWC[None], tuple(case.expected), case.inputs).by_name()
        gate = find_gate(backend)  # some know what they compute in from the first run on
        rows.append(judge_clip(case, got, gate, candidate.bundle.manifest))
        if find_worst(rows) == len(rows) - 1:
            worst_map = map_tokens(case, got, gate, candidate.bundle.manifest)
        if "embedding" in got:
            vectors.append((case.expected["embedding"][0], got["embedding"][0]))
        if case is not probe and not alike:
            alike = got
        log.rows[candidate.name] = sum_up(candidate, backend, gate, rows, vectors, worst_map)
        log.keep()
    bench = Bench(candidate=candidate.name, backend=backend, gate=gate, probe=probe)
    announce(f"{candidate.name}: canaries")
    for name in OF_INPUT:
        log.canaries.append(bench.run(name))
        log.keep()
    log.canaries.append(bench.answer_alike(alike))
    assert runs.reference.mistaken is not None
    log.canaries += bench.judge_stored(runs.stored[runs.reference.probe], runs.reference.mistaken)
    log.keep()
