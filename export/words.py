"""Which words of `vjepa2 export` make a bundle again?

All but those of its precision and of where it is written, which whoever exports it again chooses anew.
"""

from pathlib import Path

from vjepa2.headed import Headed, count_frames, head_of
from vjepa2.manifest import CROP_EVEN, Source
from vjepa2.spec import ClipSpec, Head

from .describe import ExportRequest


def spell_request(request: ExportRequest, model: Headed, source: Source) -> tuple[str, ...]:
    """The words of a request; `model` and `source` are what it came to.

    Files and folders are called by their names alone: where they lie is nobody's business who has the bundle.
    """
    head, clip = head_of(model), model.encoder.clip
    return (
        _name_file(request.weights.source),
        *_spell(_weights(request, source)),
        *_spell(_clip(request, head, clip, count_frames(model))),
        *_spell(_head(request, head)),
        *(["--context-only"] if request.context_only else []),
        *([] if request.simplify else ["--no-simplify"]),
    )


def _weights(request: ExportRequest, source: Source) -> dict[str, object]:
    asked = request.weights
    return {
        "--model": asked.model if asked.model is None or isinstance(asked.model, str) else asked.model.name,
        "--key": asked.key or source.key,
        # the commit that was found; beside a probe's file it is the encoder's, which goes by the name that it is given
        "--revision": source.revision if request.encoder is None else asked.revision,
        "--seed": source.seed,
        "--layers": asked.layers,
    }


def _clip(request: ExportRequest, head: Head, clip: ClipSpec, frames: int) -> dict[str, object]:
    return {
        "--frames": frames if head == "action" else clip.frames,
        "--size": f"{clip.height}x{clip.width}",
        "--batch": request.batch,
        "--input": request.graph_input,
        "--odd-margin": "even" if request.crop == CROP_EVEN else None,
        "--clips": None if request.clips is None else _name_file(str(request.clips)),
        "--calibration-clips": _name_file(str(request.calibration_clips)) if request.calibration_clips else None,
    }


def _head(request: ExportRequest, head: Head) -> dict[str, object]:
    classes = request.classes
    return {
        "--head": head,
        "--classes": ",".join(map(str, classes)) if isinstance(classes, tuple) else classes,
        "--pooling": request.pooling,
        "--probe": request.probe,
        "--segments": request.segments,
        "--encoder": None if request.encoder is None else _name_file(request.encoder),
        "--context": request.context,
        "--targets": request.targets,
        "--ahead": request.ahead,
        "--predictor-side": request.predictor_side,
    }


def _spell(options: dict[str, object]) -> list[str]:
    return [word for option, value in options.items() if value is not None for word in (option, str(value))]


def _name_file(source: str) -> str:
    """A file's or folder's own name; any other word as it is."""
    path = Path(source)
    return path.resolve().name if path.exists() else source
