"""How do the figures of a bundle get into README: from its reports by way of docs/results, or not at all?

python -m benchmarks.readme BUNDLE, after `make parity` and `make bench` of it. Only whole reports of a whole model are
taken, and the JSON of which the tables are made is kept beside them.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path

from vjepa2.bundle import Bundle
from vjepa2.errors import BundleError, Vjepa2Error
from vjepa2.outputs import write_whole
from vjepa2.registry import RELEASES
from vjepa2.runtime.evidence import Evidence, gather_evidence, write_evidence
from vjepa2.runtime.parity_report import ParityReport

from .readme_blocks import render_bench, render_parity

ROOT = Path(__file__).parent.parent
RESULTS = Path("docs") / "results" / "readme.json"  # what README's tables are made of
SECTIONS = ("parity", "bench")
_BLOCK = "<!-- make {0}: begin; make readme writes this -->\n(.*?)<!-- make {0}: end -->"


def main(folder: str, root: Path = ROOT) -> int:
    """Write both files; 0 if they are written, 2 if these figures are not for README."""
    try:
        evidence = choose_evidence(gather_evidence(Bundle.open(folder)))
        text = fill(read_readme(root), evidence)
        (root / RESULTS).parent.mkdir(parents=True, exist_ok=True)
        write_evidence(str(root / RESULTS), evidence)
        write_whole(root / "README.md", lambda stream: stream.write(text.encode()))
    except Vjepa2Error as error:
        print(f"make readme: {error}", file=sys.stderr)
        return error.exit_code
    print(f"README.md has the figures of {folder}; commit it with {RESULTS}")
    return 0


def choose_evidence(evidence: Evidence) -> Evidence:
    """What README's tables are made of, without maps of tokens; `BundleError` for what does not belong there."""
    subject, parity, latency = evidence.subject, evidence.parity, evidence.latency
    if parity is None or latency is None:
        needed = " and ".join(evidence.commands[name] for name in ("parity", "latency") if not getattr(evidence, name))
        raise BundleError(f"{subject.name} was not measured; run first: {needed}")
    foreign = [what for section, what in evidence.foreign.items() if section in ("parity", "latency")]
    if foreign:
        raise BundleError(f"{', '.join(foreign)} in {subject.name} is of another bundle; measure again")
    if parity.partial or latency.partial:
        raise BundleError(f"a report of {subject.name} is partial; let make parity and make bench come to their end")
    release = RELEASES.get(subject.model.name)
    if release is None or subject.model.depth != release.spec.depth:
        whole = "no released one" if release is None else f"{release.spec.depth} blocks"
        raise BundleError(
            f"{subject.name} is {subject.model.name} of {subject.model.depth} blocks; README tells of whole models "
            f"({whole}): leave LAYERS out"
        )
    return replace(evidence, parity=_without_maps(parity), lint=None, drift=None, foreign={})


def read_readme(root: Path) -> str:
    """README's text."""
    return (root / "README.md").read_text()


def read_blocks(text: str) -> dict[str, str]:
    """What stands between the marks of each section; `BundleError` if a section has none, or more than one."""
    found = {section: re.findall(_BLOCK.format(section), text, re.DOTALL) for section in SECTIONS}
    for section, blocks in found.items():
        if len(blocks) != 1:
            raise BundleError(f"README.md has {len(blocks)} blocks of make {section}; it must have one, between marks")
    return {section: block for section, (block,) in found.items()}


def fill(text: str, evidence: Evidence) -> str:
    """README's text with both blocks as these figures make them; nothing outside the marks is touched."""
    read_blocks(text)
    assert evidence.parity is not None
    assert evidence.latency is not None
    blocks = {
        "parity": render_parity(evidence.subject, evidence.parity),
        "bench": render_bench(evidence.subject, evidence.latency),
    }
    for section, block in blocks.items():
        found = re.search(_BLOCK.format(section), text, re.DOTALL)
        assert found is not None
        text = f"{text[: found.start(1)]}{block}\n{text[found.end(1) :]}"
    return text


def _without_maps(report: ParityReport) -> ParityReport:
    return replace(report, candidates=tuple(replace(row, worst_map=None) for row in report.candidates))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
