"""What does a bundle say of itself, as far as a person reads it?"""

from dataclasses import dataclass

from vjepa2.bundle import Bundle
from vjepa2.engine_folder import list_engines
from vjepa2.manifest import FileInfo, GraphInfo, ParityVerdict, Source, hash_manifest
from vjepa2.spec import ClipSpec, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine of the bundle, by its folder."""

    name: str
    precision: str | None  # None of one that cannot be read
    passed: bool  # its gate
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The bundle, without what only a program reads."""

    name: str  # of its folder
    manifest_sha256: str
    model: ModelSpec
    clip: ClipSpec
    head: str
    precision: str
    batch: str
    labels: tuple[str, ...]  # of a classifier
    source: Source
    tools: dict[str, str]
    graphs: dict[str, GraphInfo]
    files: dict[str, FileInfo]
    verdicts: dict[str, ParityVerdict]  # of export, by graph
    engines: tuple[Engine, ...]


def describe_subject(bundle: Bundle) -> Subject:
    """The bundle's manifest, as far as a person reads it."""
    stated = bundle.manifest
    engines = [
        Engine(
            name=listing.name,
            precision=None if listing.manifest is None else listing.manifest.precision,
            passed=listing.manifest is not None and listing.manifest.verdict.passed,
            faults=listing.faults,
        )
        for listing in list_engines(bundle)
    ]
    return Subject(
        name=bundle.path.resolve().name,
        manifest_sha256=hash_manifest(stated),
        model=stated.model,
        clip=stated.clip,
        head=stated.head,
        precision=stated.precision,
        batch=str(stated.batch),
        labels=stated.labels or (),
        source=stated.source,
        tools=stated.tools,
        graphs=stated.graphs,
        files=stated.files,
        verdicts=stated.parity,
        engines=tuple(engines),
    )
