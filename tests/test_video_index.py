"""Is it noticed, and said, when a part of a video is not there or cannot be decoded?"""

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tests.videos import FramesArray, decode_all, fit, write
from vjepa2.runtime.claims import Claims, Found, find_loss
from vjepa2.runtime.decode_messages import ClipRequest, VideoReport
from vjepa2.runtime.decoder import VideoDecoder

REQUEST = ClipRequest(frames=8, height=48, width=64)


@pytest.fixture(scope="module")
def decoder() -> Iterator[VideoDecoder]:
    with VideoDecoder() as opened:
        yield opened


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.webm", "a.ts"])
@pytest.mark.parametrize("part", [0.5, 0.7, 0.95])
def test_a_truncated_file_is_partial_and_its_clip_is_of_what_is_left(
    name: str, part: float, decoder: VideoDecoder, scene: FramesArray, tmp_path: Path
) -> None:
    codec = "libvpx" if name == "a.webm" else "mpeg4"
    file = write(tmp_path / name, scene, codec, options={"g": "4"})
    left = decode_all(file)
    os.truncate(file, int(file.stat().st_size * part) | 1)  # inside a packet of a transport stream
    clips, report = decoder.read(file, replace(REQUEST, pad="repeat-last"))
    assert report.status == "partial", report
    assert report.frames is not None
    assert 0 < report.frames < 24
    assert len(clips) == 1
    exact = []
    for total in (report.frames, report.frames + 1):  # the last picture may be there in part, and is lost
        chosen = np.minimum(np.arange(8) * max(8, total) // 8, report.frames - 1)
        exact.append(np.array_equal(clips[0].frames_THWC, fit(left[chosen], REQUEST)))
    assert any(exact)


def test_a_truncated_mp4_says_how_many_frames_it_promised(
    decoder: VideoDecoder, scene: FramesArray, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.mp4", scene, "mpeg4")
    data = bytearray(file.read_bytes())
    head, rest = data.index(b"moov") - 4, data.index(b"mdat") - 4
    assert rest < head, "its table of frames stands at its end"
    os.truncate(file, head)
    assert decoder.read(file, REQUEST)[1].status == "rejected"
    place = data.index(b"stco") + 12
    (offset,) = struct.unpack(">I", data[place : place + 4])
    data[place : place + 4] = struct.pack(">I", offset + len(data) - head)  # the table first, then what it tells of
    moved = bytes(data[:rest]) + bytes(data[head:]) + bytes(data[rest:head])
    file.write_bytes(moved)
    assert str(decoder.read(file, REQUEST)[1]) == "ok"
    file.write_bytes(moved[: -len(moved) // 3])
    report = decoder.read(file, REQUEST)[1]
    assert (report.status, report.expected) == ("partial", 24)
    assert report.frames is not None
    assert 8 <= report.frames < 24
    assert f"partial ({report.frames} of 24 frames: " in str(report)


@pytest.mark.parametrize(("sampling", "asked"), [("uniform", 1), ("segments:2x1", 2)])
def test_a_frame_that_cannot_be_decoded_is_counted_and_the_one_before_it_shown(
    sampling: str, asked: int, decoder: VideoDecoder, tmp_path: Path
) -> None:
    """Every picture of this one stands alone; that of number 12 is wiped out."""
    grey = np.arange(24 * 48 * 64, dtype=np.uint32).reshape(24, 48, 64) * 2654435761 >> np.uint32(24)
    pictures = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=3)
    file = write(tmp_path / "a.mov", pictures, "png", pixels="rgb24")
    whole = decode_all(file)
    data = bytearray(file.read_bytes())
    starts = [place for place in range(len(data)) if data.startswith(b"\x89PNG", place)]
    assert len(starts) == 24
    data[starts[12] : starts[13]] = bytes(starts[13] - starts[12])
    file.write_bytes(data)
    clips, report = decoder.read(file, replace(REQUEST, sampling=sampling))
    assert str(report) == "partial (23 of 24 frames: 1 could not be decoded)"
    assert len(clips) == asked
    numbers = [0, 3, 6, 9, 11, 15, 18, 21] if asked == 1 else [11, 13, 14, 15, 16, 17, 18, 19]
    if asked == 2:
        numbers = [11, *range(13, 20)]
    assert np.array_equal(clips[-1].frames_THWC, fit(whole[numbers], REQUEST))


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        ((0.4, 0.6), "checksum|no element|fit into its cluster|inside an element"),
        ((0.99, 1.0), "inside an element|checksum"),
    ],
)
def test_a_piece_cut_out_of_a_matroska_file_is_missed(
    cut: tuple[float, float], reason: str, decoder: VideoDecoder, scene: FramesArray, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.mkv", scene)
    data = file.read_bytes()
    file.write_bytes(data[: int(cut[0] * len(data))] + data[int(cut[1] * len(data)) :])
    report = decoder.read(file, replace(REQUEST, pad="repeat-last"))[1]
    assert report.status == "partial"
    assert any(word in str(report) for word in reason.split("|")), report


def test_a_bit_that_flips_in_a_picture_of_a_matroska_file_is_noticed(
    decoder: VideoDecoder, scene: FramesArray, tmp_path: Path
) -> None:
    """By the checksum of its cluster: the decoder itself may see nothing wrong."""
    file = write(tmp_path / "a.mkv", scene, "mpeg4")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert "does not match its checksum" in str(decoder.read(file, REQUEST)[1])


def write_fragments(file: Path, frames: FramesArray) -> list[int]:
    """An MP4 in fragments of eight frames; where each begins."""
    with av.open(str(file), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("mpeg4", rate=8, options={"g": "8"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    data = file.read_bytes()
    return [place - 4 for place in range(len(data)) if data.startswith(b"moof", place)]


def test_fragments_that_are_missing_are_missed(decoder: VideoDecoder, scene: FramesArray, tmp_path: Path) -> None:
    """Such a file counts its frames nowhere; its fragments are numbered, and each begins where another ends."""
    file = tmp_path / "a.mp4"
    _, second, third = write_fragments(file, scene)
    assert str(decoder.read(file, REQUEST)[1]) == "ok"
    data = file.read_bytes()
    file.write_bytes(data[:second] + data[third:])
    assert "its fragments have the numbers 1, 3, and must follow each other" in str(decoder.read(file, REQUEST)[1])
    file.write_bytes(data[: third + 100])
    assert "the box at byte" in str(decoder.read(file, REQUEST)[1])
    spoilt = bytearray(data)
    spoilt[second + 4 : second + 8] = b"moog"
    file.write_bytes(spoilt)
    assert decoder.read(file, REQUEST)[1].status == "partial"


FOUND = Found(frames=20, hidden=0, end_s=2.5, frame_s=0.125, fault=None)


@pytest.mark.parametrize(
    ("claims", "found", "structure", "expected"),
    [
        (Claims(None, None), FOUND, None, (None, None)),
        (Claims(20, None), FOUND, None, (20, None)),
        (Claims(24, None), FOUND, None, (24, "its header promises 24")),
        (Claims(24, None), replace(FOUND, hidden=4), None, (20, None)),
        (Claims(20, None), FOUND, "torn", (20, "torn")),
        (Claims(None, 2.5), FOUND, None, (None, None)),
        (Claims(None, 2.56), FOUND, None, (None, None)),
        (Claims(None, 2.625), FOUND, None, (21, "it says it lasts 2.625 s and ends at 2.500 s")),
        (Claims(None, 3.0), replace(FOUND, fault="cut"), None, (24, "cut")),
        (Claims(20, 9.9), FOUND, None, (20, None)),
        (Claims(10, None), FOUND, None, (10, "its header promises 10")),
    ],
)
def test_what_was_found_is_held_against_what_was_promised(
    claims: Claims, found: Found, structure: str | None, expected: tuple[int | None, str | None]
) -> None:
    assert find_loss(found, claims, structure) == expected


def test_tags_of_matroska_are_promises() -> None:
    assert Claims.of(0, {"DURATION": "00:01:02.500000000"}, 70.0) == Claims(None, 62.5)
    assert Claims.of(0, {"NUMBER_OF_FRAMES-eng": "240", "DURATION-eng": "00:00:10.0"}, None) == Claims(240, 10.0)
    assert Claims.of(12, {"DURATION": "soon", "NUMBER_OF_FRAMES": "99"}, None) == Claims(12, None)


def test_a_report_reads_as_a_sentence() -> None:
    assert str(VideoReport(status="ok", frames=24)) == "ok"
    assert str(VideoReport(status="rejected", reason="it is empty")) == "rejected (it is empty)"
    partial = VideoReport(status="partial", reason="it ends early", frames=20, expected=24)
    assert str(partial) == "partial (20 of 24 frames: it ends early)"
    assert "20 of an unknown number of frames" in str(replace(partial, expected=None))


def test_a_video_that_changes_its_size_is_refused(decoder: VideoDecoder, scene: FramesArray, tmp_path: Path) -> None:
    """Two raw streams one after the other: what a camera does when it is told to."""
    parts = [
        write(tmp_path / f"{height}.m4v", scene[:8, :height, :64], "mpeg4", container_format="m4v")
        for height in (64, 96)
    ]
    file = tmp_path / "both.m4v"
    file.write_bytes(b"".join(part.read_bytes() for part in parts))
    report = decoder.read(file, REQUEST)[1]
    assert "it changes its size on the way ([(64, 64), (96, 64)]); cut it into videos of one size" in str(report)


def test_two_videos_in_one_file_are_not_one(decoder: VideoDecoder, scene: FramesArray, tmp_path: Path) -> None:
    file = write(tmp_path / "a.mp4", scene, "mpeg4")
    file.write_bytes(2 * file.read_bytes())
    assert "a second video begins before byte" in str(decoder.read(file, REQUEST)[1])
