"""What does `--islands` name: a set, or the islands that `vjepa2 drift` found and wrote?"""

from pathlib import Path

from vjepa2.errors import SpecError
from vjepa2.runtime.evidence import read_drift

from .island_sets import ISLAND_SETS


def read_islands(word: str) -> tuple[str, ...]:
    """What one `--islands` says: the name of a set, or the names of nodes in the JSON that drift wrote."""
    if word in ISLAND_SETS:
        return (word,)
    file = Path(word)
    if not file.is_file():
        raise SpecError(f"islands is {word!r}; it must be {', '.join(ISLAND_SETS)}, or what vjepa2 drift --json wrote")
    record = read_drift(file)
    if record.islands is None:
        raise SpecError(f"{file} holds no islands: {record.islands_note}")
    return tuple(dict.fromkeys(name for island in record.islands.islands for name in island.nodes))
