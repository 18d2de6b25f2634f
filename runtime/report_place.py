"""Where in a bundle does a report lie, and what is told if it cannot lie there?"""

from pathlib import Path

from vjepa2.errors import Vjepa2Error

_ELSEWHERE = "copy the bundle to a place that can be written"


def make_place(bundle: Path, file: Path, *, otherwise: str = _ELSEWHERE) -> Path:
    """The path of a report `file` of a bundle, in a folder that is there; else a `Vjepa2Error` that says what to do."""
    folder = (bundle / file).parent
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise Vjepa2Error(f"{folder} cannot be made: {error.strerror or error}; {otherwise}") from error
    return bundle / file
