"""Is a Matroska or WebM file whole: do its elements fill it, end to end, and match their checksums?

Its frames are counted nowhere, so a piece that is cut out leaves no other trace.
"""

import os
import zlib
from dataclasses import dataclass

_SEGMENT, _CLUSTER, _CRC = 0x18538067, 0x1F43B675, 0xBF
_HEADER = 0x1A45DFA3
_IN_SEGMENT = {
    0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1941A469, 0x1043A770, _CLUSTER,
}  # fmt: skip  # SeekHead, Info, Tracks, Cues, Tags, Attachments, Chapters
_BLOCKS = {0xA3, 0xA0}
_NUMBERS = {0xE7, 0xA7, 0xAB}  # Timestamp, Position, PrevSize: eight bytes at most
_IN_CLUSTER = _BLOCKS | _NUMBERS | {0x5854}  # SilentTracks
_ANYWHERE = {_CRC, 0xEC}  # Void
_CHUNK = 1 << 20  # bytes


@dataclass(slots=True)
class _Walk:
    """What was seen on the way through the elements of a file."""

    file: int
    size: int  # bytes
    blocks: int = 0
    fault: str | None = None


def find_damage(file: int, packets: int) -> str | None:
    """What is wrong with the structure of an open file that gave `packets` of all streams, or None.

    Live streams, of unknown size, are walked too.
    """
    walk = _Walk(file, os.fstat(file).st_size)
    place = _skip_header(walk)
    while place < walk.size and not walk.fault:
        place = _walk_element(walk, place)
    if not walk.fault and packets < walk.blocks:
        return f"it holds {walk.blocks} blocks, of which {packets} could be read"
    return walk.fault


def _skip_header(walk: _Walk) -> int:
    name, length, body = _read_element(walk.file, 0)
    if name != _HEADER or length is None or body + length > walk.size:
        walk.fault = "its first element is not Matroska's header"
        return 0
    return body + length


def _walk_element(walk: _Walk, place: int) -> int:
    """The place after an element, or after the head of one that holds others."""
    name, length, body = _read_element(walk.file, place)
    if name != _SEGMENT and name not in _IN_SEGMENT | _IN_CLUSTER | _ANYWHERE:
        walk.fault = f"what stands at byte {place} is no element of Matroska"
    elif length is None and name not in (_SEGMENT, _CLUSTER):
        walk.fault = f"the element at byte {place} has no size"
    elif length is not None and body + length > walk.size:
        walk.fault = f"the file ends at byte {walk.size}, inside an element that reaches to byte {body + length}"
    elif length is not None and name != _SEGMENT and not _matches_checksum(walk.file, body, length):
        walk.fault = f"the element at byte {place} does not match its checksum"
    if walk.fault or length is None or name == _SEGMENT:
        return body
    walk.blocks += name in _BLOCKS
    if name == _CLUSTER:
        _walk_cluster(walk, body, body + length)
    return body + length


def _walk_cluster(walk: _Walk, place: int, end: int) -> None:
    while place < end and not walk.fault:
        name, length, body = _read_element(walk.file, place)
        walk.blocks += name in _BLOCKS
        fits = length is not None and body + length <= end and (name not in _NUMBERS or length <= 8)
        if name not in _IN_CLUSTER | _ANYWHERE or length is None or not fits:
            walk.fault = f"what stands at byte {place} does not fit into its cluster"
            return
        place = body + length


def _matches_checksum(file: int, body: int, length: int) -> bool:
    """Whether the bytes after a leading CRC-32 element are those it was made of; True where there is none."""
    if length < 6 or os.pread(file, 2, body) != b"\xbf\x84":
        return True
    stored = int.from_bytes(os.pread(file, 4, body + 2), "little")
    place, end, checksum = body + 6, body + length, 0
    while place < end:
        data = os.pread(file, min(_CHUNK, end - place), place)
        if not data:
            return False
        checksum = zlib.crc32(data, checksum)
        place += len(data)
    return checksum == stored


def _read_element(file: int, place: int) -> tuple[int, int | None, int]:
    """An element's name, the length of its body (None: unknown), and where the body starts; name 0 if there is none."""
    head = os.pread(file, 12, place)
    name_bytes = 9 - head[0].bit_length() if head else 9
    if name_bytes > 4 or len(head) <= name_bytes:
        return 0, 0, place + 1
    size_bytes = 9 - head[name_bytes].bit_length()
    field = head[name_bytes : name_bytes + size_bytes]
    if size_bytes > 8 or len(field) < size_bytes:
        return 0, 0, place + 1
    length = int.from_bytes(field, "big") & ((1 << 7 * size_bytes) - 1)
    unknown = length == (1 << 7 * size_bytes) - 1
    return int.from_bytes(head[:name_bytes], "big"), None if unknown else length, place + name_bytes + size_bytes
