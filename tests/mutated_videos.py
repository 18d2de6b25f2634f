"""Which videos would a hostile or a broken world send: whole ones, spoilt in six ways, each from a seed?"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from vjepa2.runtime.scenes import generate_scene

FRAMES, HEIGHT, WIDTH = 24, 64, 80
Random = np.random.Generator

_SAME = {"x264-params": "asm=0"}  # its assembly reads memory that nobody wrote, and its output varies with it
# name -> (codec, pixel format, options of the stream, options of the container, with sound)
_BASES: dict[str, tuple[str, str, dict[str, str], dict[str, str], bool]] = {
    "h264.mp4": ("libx264", "yuv420p", {"g": "8", "bf": "2"} | _SAME, {}, False),
    "h264-fast.mp4": ("libx264", "yuv420p", {"g": "8"} | _SAME, {"movflags": "faststart"}, True),
    "h264-parts.mp4": ("libx264", "yuv420p", {"g": "8"} | _SAME, {"movflags": "frag_keyframe+empty_moov"}, False),
    "h264.mkv": ("libx264", "yuv420p", {"g": "8", "bf": "2"} | _SAME, {}, False),
    "mpeg4.mkv": ("mpeg4", "yuv420p", {"g": "8"}, {}, True),
    "vp8.webm": ("libvpx", "yuv420p", {"g": "8", "deadline": "realtime"}, {}, False),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "8", "deadline": "realtime", "cpu-used": "8"}, {}, False),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "8"}, {}, False),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}, {}, True),
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A file's bytes, and how they came about."""

    name: str
    base: str  # "" if it was made from nothing
    data: bytes


def write_bases(folder: Path) -> dict[str, bytes]:
    """Small whole videos of every container, of `FRAMES` frames each."""
    scene = generate_scene(FRAMES, HEIGHT, WIDTH, seed=5)
    bases = {}
    for name, (codec, pixels, stream_options, options, sound) in _BASES.items():
        file = folder / name
        with av.open(str(file), "w", options=options | {"fflags": "bitexact"}) as container:
            stream: Any = container.add_stream(codec, rate=8, options=stream_options)
            stream.codec_context.thread_count = 1  # the same bytes every time
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixels
            audio: Any = (
                container.add_stream("aac" if name.endswith("mp4") else "pcm_s16le", rate=8000) if sound else None
            )
            for image in scene:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
            if audio:
                _write_sound(container, audio)
        bases[name] = file.read_bytes()
    return bases


def _write_sound(container: Any, stream: Any) -> None:
    shape = (1, 8000 * FRAMES // 8)
    planar = stream.format.name == "fltp"
    samples = np.zeros(shape, np.float32 if planar else np.int16)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp" if planar else "s16", layout="mono")
    frame.sample_rate, frame.pts = 8000, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def mutate(bases: dict[str, bytes], number: int, *, seed: int) -> Mutant:
    """Mutant `number` of a series: its kind goes round, the rest follows from `seed` and `number`."""
    random = np.random.default_rng([seed, number])
    kind = _KINDS[number % len(_KINDS)]
    name = list(bases)[int(random.integers(len(bases)))]
    data, note = kind(random, bases, name)
    from_base = "" if kind in (_inject, _swell) else name
    return Mutant(f"{number:05d}-{kind.__name__[1:]}-{note}-{name}", from_base, data)


def _truncate(random: Random, bases: dict[str, bytes], name: str) -> tuple[bytes, str]:
    data = bases[name]
    end = int(random.integers(len(data)))
    return data[:end], str(end)


def _flip(random: Random, bases: dict[str, bytes], name: str) -> tuple[bytes, str]:
    data = bytearray(bases[name])
    reach = (
        len(data) if random.random() < 0.5 else min(len(data), 1500)
    )  # half of them in the head, where the tables are
    for place in random.integers(reach, size=int(random.integers(1, 17))):
        data[int(place)] ^= 1 << int(random.integers(8))
    return bytes(data), "bits"


def _splice(random: Random, bases: dict[str, bytes], name: str) -> tuple[bytes, str]:
    data = bases[name]
    start, end = sorted(int(place) for place in random.integers(len(data), size=2))
    other = bases[list(bases)[int(random.integers(len(bases)))]]
    way = int(random.integers(5))
    piece = (b"", data[start:end] * 2, random.bytes(end - start), bytes(end - start), other[start:end])[way]
    return data[:start] + piece + data[end:], ("cut", "doubled", "noise", "zeros", "foreign")[way]


# a word of the container -> (bytes from its start to a number, bytes of the number)
_NUMBERS: dict[bytes, list[tuple[int, int]]] = {
    b"mvhd": [(16, 4), (20, 4)],
    b"mdhd": [(16, 4), (20, 4)],
    b"tkhd": [(24, 4), (80, 4), (84, 4)],
    b"elst": [(8, 4), (12, 4), (16, 4)],
    b"stts": [(8, 4), (12, 4), (16, 4)],
    b"stsz": [(8, 4), (12, 4), (16, 4), (40, 4)],
    b"stsc": [(8, 4), (16, 4)],
    b"stco": [(8, 4), (12, 4)],
    b"stss": [(8, 4), (12, 4)],
    b"ctts": [(8, 4), (12, 4), (16, 4)],
    b"trun": [(8, 4), (12, 4), (20, 4)],
    b"tfdt": [(8, 8)],
    b"avc1": [(28, 2), (30, 2)],
    b"avih": [(8, 4), (24, 4), (40, 4), (44, 4)],
    b"strh": [(28, 4), (32, 4), (40, 4)],
    b"strf": [(12, 4), (16, 4)],
    b"idx1": [(4, 4), (16, 4)],
    b"\x44\x89": [(2, 1), (3, 4)],  # Matroska: Duration
    b"\x2a\xd7\xb1": [(4, 3)],  # TimestampScale
    b"\xb0": [(2, 1)],  # PixelWidth
    b"\xba": [(2, 1)],
    b"\x1f\x43\xb6\x75": [(4, 1), (5, 7)],  # the size of a Cluster
    b"\x18\x53\x80\x67": [(4, 1), (5, 7)],
    b"\xa3": [(1, 1), (3, 2)],  # SimpleBlock: its size and time
    b"\x23\xe3\x83": [(3, 1), (4, 4)],  # DefaultDuration
}


def _lie(random: Random, bases: dict[str, bytes], name: str) -> tuple[bytes, str]:
    data = bytearray(bases[name])
    words = [word for word in _NUMBERS if word in data]
    word = words[int(random.integers(len(words)))]
    places = [place for place in range(len(data)) if data.startswith(word, place)]
    place = places[int(random.integers(len(places)))]
    offset, size = _NUMBERS[word][int(random.integers(len(_NUMBERS[word])))]
    start = place + offset
    old = int.from_bytes(data[start : start + size], "big")
    lies = (
        0,
        1,
        old - 1,
        old + 1,
        old // 2,
        old * 2,
        2 ** (8 * size) - 1,
        2 ** (8 * size - 1),
        int(random.integers(256)),
    )
    lie = lies[int(random.integers(len(lies)))] % 2 ** (8 * size)
    data[start : start + size] = lie.to_bytes(size, "big")
    return bytes(data), f"{word.hex()}+{offset}={lie}"


_INJECTIONS = (
    b"ffconcat version 1.0\nfile /etc/hostname\n",
    b"ffconcat version 1.0\nfile 'http://127.0.0.1:9/x.mp4'\n",
    b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
    b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    b"#EXTM3U\n#EXTINF:9,\nconcat:/etc/hostname|/etc/passwd\n#EXT-X-ENDLIST\n",
    b"#EXTM3U\n#EXTINF:9,\nsubfile,,start,0,end,9,,:/etc/passwd\n#EXT-X-ENDLIST\n",
    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\n",
    b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>file:///etc/</BaseURL></MPD>',
    b"RTSPtext\r\nrtsp://127.0.0.1:9/x\r\n",
    b"[playlist]\nFile1=file:///etc/passwd\n",
    b"imgseq%03d.png",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\xff\xff\x00\x00\xff\xff\x08\x02\x00\x00\x00",
    b"GIF89a\xff\xff\xff\xff\x00\x00\x00",
    b"WEBVTT\n\n00:00.000 --> 00:01.000\nx\n",
    b"",
    b"\x00" * 4096,
)


def _inject(random: Random, _: dict[str, bytes], __: str) -> tuple[bytes, str]:
    place = int(random.integers(len(_INJECTIONS)))
    text = _INJECTIONS[place]
    return text + random.bytes(int(random.integers(64))) if random.random() < 0.3 else text, f"list{place}"


def _swell(random: Random, bases: dict[str, bytes], _: str) -> tuple[bytes, str]:
    """A bomb: a small file that asks for much."""
    way = int(random.integers(6))
    side = int(random.integers(8000, 16384))
    if way == 0:  # every JPEG says it is huge
        return _patch(bases["mjpeg.avi"], b"\xff\xc0\x00\x11\x08", 5, struct.pack(">HH", side * 3, side * 3)), "jpeg"
    if way == 1:  # every VP8 keyframe
        return _patch(bases["vp8.webm"], b"\x9d\x01\x2a", 3, struct.pack("<HH", side, side)), "vp8"
    if way == 2:  # a billion samples of no size
        data = _patch(bases["h264-fast.mp4"], b"stsz", 8, struct.pack(">II", 1, 2**30))
        return _patch(data, b"stts", 8, struct.pack(">II", 2**30, 1)), "samples"
    if way == 3:  # a frame that lasts for years
        return _patch(bases["h264.mp4"], b"stts", 12, struct.pack(">I", 2**31 - 1)), "years"
    if way == 4:  # boxes in boxes
        return bases["h264.mp4"][:32] + b"".join(
            struct.pack(">I4s", 2**31 - 1, b"moov") for _ in range(20_000)
        ), "boxes"
    return _patch(bases["mpeg4.avi"], b"strf", 12, struct.pack("<II", side, side)), "canvas"


def _patch(data: bytes, word: bytes, offset: int, value: bytes) -> bytes:
    """`data` with `value` written `offset` bytes after every `word`."""
    changed, place = bytearray(data), data.find(word)
    while place >= 0:
        changed[place + offset : place + offset + len(value)] = value
        place = data.find(word, place + 1)
    return bytes(changed)


# truncated and flipped most, as the world does it; a bomb and a playlist in every ten
_KINDS: tuple[Callable[[Random, dict[str, bytes], str], tuple[bytes, str]], ...] = (
    _truncate, _flip, _splice, _lie, _truncate, _flip, _splice, _lie, _inject, _swell,
)  # fmt: skip
