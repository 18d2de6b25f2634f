"""What is left to try when no engine passed its gate: the commands that export it and compile it?"""

import shlex
from pathlib import Path

from vjepa2.bundle import PORTABLE, Bundle
from vjepa2.manifest import Manifest, Precision
from vjepa2.runtime.figures import find_breaches
from vjepa2.runtime.gates import GATES

from .compile_request import LONGEST_UNFUSED, CompileRequest, named_path

_ISLANDS = "mlp"  # whose products are the longest sums of a block; attention stays fused
_SIXTEEN: tuple[Precision, ...] = ("fp16", "bf16")

# precision, and whether with islands beside its own. What comes first is faster; bf16 keeps three bits less of every
# number than fp16 does, so it is for what has no float32 left: more tokens than may go unfused.
_RUNGS: tuple[tuple[Precision, bool], ...] = (("fp16", False), ("fp16", True), ("fp32", False))
_LONG_RUNGS: tuple[tuple[Precision, bool], ...] = (("fp16", False), ("fp16", True), ("bf16", False), ("bf16", True))


def suggest_export(request: CompileRequest) -> str:
    """The commands for the first of what none of the bundles was, or that nothing is left."""
    tried = {(bundle.manifest.precision, bool(bundle.manifest.islands)) for bundle in request.bundles}
    first = request.bundles[0]
    rungs = _LONG_RUNGS if first.manifest.clip.tokens > LONGEST_UNFUSED else _RUNGS
    left = [rung for rung in rungs if rung not in tried]
    if not left or any(precision == "fp32" for precision, _ in tried):
        return "no precision is left to try: this TensorRT computes it wrongly; take another version of it"
    precision, has_islands = left[0]
    target = named_path(first).with_name(_name(first, precision, has_islands))
    commands = [*_export(_like(request, precision), precision, has_islands, target), _compile(request, target)]
    return f"run: {'; then: '.join(commands)}"


def _like(request: CompileRequest, precision: Precision) -> Bundle:
    """The bundle of that precision among those that were tried, or the first: its clips and limits are taken over."""
    same = [bundle for bundle in request.bundles if bundle.manifest.precision == precision]
    return (same or list(request.bundles))[0]


def _name(bundle: Bundle, precision: Precision, has_islands: bool) -> str:
    stem = named_path(bundle).name.removesuffix(f"-{bundle.manifest.precision}")
    return f"{stem}-{precision}{'-islands' if has_islands else ''}"


def _export(like: Bundle, precision: Precision, has_islands: bool, target: Path) -> list[str]:
    """Export's command; before it drift's, where what the bundle lost when it was exported says which islands."""
    stated, before = like.manifest, []
    words = ["vjepa2", "export", *stated.words, "--precision", precision]
    is_found = has_islands and stated.precision == precision and _lost_too_much(stated)
    if is_found:
        file = str(target.with_name(f"{target.name}.json"))
        before = [shlex.join(["vjepa2", "drift", str(like.path), "--json", file])]
        words += ["--islands", file]
    elif has_islands:
        words += ["--islands", _ISLANDS]
    if not is_found and precision in _SIXTEEN and stated.precision in _SIXTEEN:
        for name, limit in stated.parity[PORTABLE].accepted.items():
            words += ["--accept", f"{name}={limit!r}"]
    return [*before, shlex.join([*words, "-o", str(target)])]


def _lost_too_much(stated: Manifest) -> bool:
    """Whether the graph itself is outside its precision's gate, of which less was accepted when it was exported."""
    return bool(find_breaches(stated.parity[PORTABLE], GATES[stated.precision]))


def _compile(request: CompileRequest, target: Path) -> str:
    batch = [] if request.max_batch is None else ["--max-batch", str(request.max_batch)]
    return shlex.join(["vjepa2", "compile", str(target), *batch])
