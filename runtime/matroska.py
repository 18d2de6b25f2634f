"""Is a Matroska or WebM file whole: do its elements fill it, end to end, and match their checksums?

Its frames are counted nowhere, so a piece that is cut out leaves no other trace.
"""

import os
import zlib

_SEGMENT, _CLUSTER, _CRC = 0x18538067, 0x1F43B675, 0xBF
_HEADER = 0x1A45DFA3
_IN_SEGMENT = {
    0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1941A469, 0x1043A770, _CLUSTER,
}  # fmt: skip  # SeekHead, Info, Tracks, Cues, Tags, Attachments, Chapters
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF}  # Timestamp, SilentTracks, Position, PrevSize, blocks
_ANYWHERE = {_CRC, 0xEC}  # Void
_CHUNK = 1 << 20  # bytes


def find_damage(file: int) -> str | None:
    """What is wrong with the structure of an open file, or None. Live streams, of unknown size, are walked too."""
    size = os.fstat(file).st_size
    place, fault = _skip_header(file, size)
    while place < size and not fault:
        place, fault = _walk_element(file, place, size)
    return fault


def _skip_header(file: int, size: int) -> tuple[int, str | None]:
    name, length, body = _read_element(file, 0)
    if name != _HEADER or length is None or body + length > size:
        return 0, "its first element is not Matroska's header"
    return body + length, None


def _walk_element(file: int, place: int, size: int) -> tuple[int, str | None]:
    """The place after an element, or after the head of one that holds others."""
    name, length, body = _read_element(file, place)
    if name != _SEGMENT and name not in _IN_SEGMENT | _IN_CLUSTER | _ANYWHERE:
        return place, f"what stands at byte {place} is no element of Matroska"
    if length is not None and body + length > size:
        return place, f"the file ends at byte {size}, inside an element that reaches to byte {body + length}"
    if length is None or name == _SEGMENT:
        return body, None if name in (_SEGMENT, _CLUSTER) else f"the element at byte {place} has no size"
    if not _matches_checksum(file, body, length):
        return place, f"the element at byte {place} does not match its checksum"
    if name == _CLUSTER:
        return _walk_cluster(file, body, body + length)
    return body + length, None


def _walk_cluster(file: int, place: int, end: int) -> tuple[int, str | None]:
    while place < end:
        name, length, body = _read_element(file, place)
        if name not in _IN_CLUSTER | _ANYWHERE or length is None or body + length > end:
            return place, f"what stands at byte {place} does not fit into its cluster"
        place = body + length
    return end, None


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
