"""Is an MP4 or QuickTime file whole: do its boxes fill it, and do its fragments follow each other?

A file in one piece counts its frames in its head. One in fragments, as cameras and streams write it, does not.
"""

import os
from dataclasses import dataclass

_KNOWN = {
    b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"udta", b"uuid", b"meta", b"sidx",
    b"ssix", b"prft", b"emsg", b"mfra", b"pdin",
}  # fmt: skip
_LONG, _REST = 1, 0  # sizes that mean: eight bytes follow; to the end of the file


@dataclass(slots=True)
class _Walk:
    """What was seen on the way through the boxes of a file."""

    fragments: list[int]  # their sequence numbers
    heads: int = 0
    strange: str | None = None  # the first box of a kind that is not known
    fragment_bytes: int = 0  # of media, behind the first fragment
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class _Body:
    """What is inside a box."""

    file: int
    start: int
    length: int


def find_damage(file: int, packet_bytes: int) -> str | None:
    """What is wrong with the boxes of an open file whose packets are `packet_bytes` together, or None."""
    walk = _walk_boxes(file)
    if walk.fault or not walk.fragments:
        return walk.fault
    if walk.strange:
        return walk.strange
    first = walk.fragments[0]
    if walk.fragments != list(range(first, first + len(walk.fragments))):
        return f"its fragments have the numbers {_shorten(walk.fragments)}, and must follow each other"
    if packet_bytes < walk.fragment_bytes:
        return f"its fragments hold {walk.fragment_bytes} bytes and its packets only {packet_bytes}"
    return None


def _walk_boxes(file: int) -> _Walk:
    walk, size, place = _Walk([]), os.fstat(file).st_size, 0
    while place < size and not walk.fault:
        head = os.pread(file, 24, place)
        length, kind, body = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == _LONG:
            length, body = int.from_bytes(head[8:16], "big"), 16
        elif length == _REST:
            length = size - place
        if length < body or place + length > size:
            walk.fault = f"the box at byte {place} has {length} bytes, and the file {size - place} from there on"
        else:
            _look_at(walk, kind, place, _Body(file, place + body, length - body))
        place += length
    return walk


def _look_at(walk: _Walk, kind: bytes, place: int, body: _Body) -> None:
    if kind == b"moov":
        walk.heads += 1
        if walk.heads > 1:
            walk.fault = f"a second video begins before byte {place}"
    elif kind == b"moof":
        walk.fragments.append(_sequence_number(body))
    elif kind == b"mdat" and walk.fragments:
        walk.fragment_bytes += body.length
    elif kind not in _KNOWN:
        walk.strange = walk.strange or f"what stands at byte {place} is no box of a file in fragments"


def _sequence_number(body: _Body) -> int:
    """Of a fragment, from the box that must come first in it; -1 if it does not."""
    head = os.pread(body.file, 16, body.start)
    return int.from_bytes(head[12:16], "big") if head[4:8] == b"mfhd" and len(head) == 16 else -1


def _shorten(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")
