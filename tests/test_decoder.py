"""Are the frames that come out of a worker those of the video, whatever it is made of?"""

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tests.videos import FramesArray, decode_all, fit, write
from vjepa2.runtime import frame_reader
from vjepa2.runtime.decode_messages import ClipRequest, DecodeLimits
from vjepa2.runtime.decoder import VideoDecoder
from vjepa2.runtime.frame_reader import FrameReader
from vjepa2.runtime.preprocess import fit_views
from vjepa2.runtime.scenes import generate_scene
from vjepa2.runtime.video_index import index_video
from vjepa2.spec import ClipSpec

REQUEST = ClipRequest(frames=8, height=48, width=64)
MAKES = {
    "h264.mp4": ("libx264", {}),
    "h264.mkv": ("libx264", {}),
    "h264.ts": ("libx264", {}),
    "h264.avi": ("libx264", {}),
    "mpeg4.avi": ("mpeg4", {"bf": "2"}),
    "mpeg4.mp4": ("mpeg4", {"g": "10"}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "ffv1.mkv": ("ffv1", {}),
}


@pytest.fixture(scope="module")
def long_scene() -> FramesArray:
    return generate_scene(90, 72, 96, seed=3)


@pytest.fixture(scope="module")
def decoder() -> Iterator[VideoDecoder]:
    with VideoDecoder() as opened:
        yield opened


@pytest.mark.parametrize("name", MAKES)
def test_every_make_gives_the_frames_that_decoding_it_whole_gives(
    name: str, decoder: VideoDecoder, long_scene: FramesArray, tmp_path: Path
) -> None:
    """Bit for bit, wherever in the video they lie, whether the worker sought them or not."""
    codec, options = MAKES[name]
    file = write(tmp_path / name, long_scene, codec, options=options)
    frames = decode_all(file)
    assert len(frames) == 90
    for sampling, numbers in {
        "uniform": [[0, 11, 22, 33, 45, 56, 67, 78]],
        "stride:2": [[0, 2, 4, 6, 8, 10, 12, 14]],
        "segments:2x1": [[0, 1, 2, 3, 4, 5, 6, 7], [45, 46, 47, 48, 49, 50, 51, 52]],  # 0 to 8 in 8 numbers, cut
        "window:41": [list(range(8)), list(range(41, 49)), list(range(82, 90))],
    }.items():
        clips, report = decoder.read(file, replace(REQUEST, sampling=sampling))
        assert str(report) == "ok"
        assert (report.frames, report.clips) == (90, len(numbers))
        for clip, expected in zip(clips, numbers, strict=True):
            assert np.array_equal(clip.frames_THWC, fit(frames[expected], REQUEST)), (sampling, clip.number)
            assert clip.start_s == pytest.approx(expected[0] / 8, abs=2e-3)
            assert clip.end_s == pytest.approx((expected[-1] + 1) / 8, abs=2e-3)


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vp9.webm"])
def test_a_frame_far_from_the_start_is_sought(
    name: str, long_scene: FramesArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, options = MAKES[name]
    file = write(tmp_path / name, long_scene, codec, options=options)
    decoded = []
    plain = frame_reader._decode_packets

    def count(opened: object) -> Iterator[av.VideoFrame]:
        for frame in plain(opened):  # type: ignore[arg-type]
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(frame_reader, "_decode_packets", count)
    with file.open("rb") as stream:
        limits = DecodeLimits()
        reader = FrameReader(stream.fileno(), index_video(stream.fileno(), limits), limits)
        (number, frame), *rest = reader.read([76])
    assert (number, rest, reader.lost) == (76, [], set())
    assert np.array_equal(frame.to_ndarray(format="rgb24"), decode_all(file)[76])
    assert len(decoded) < 20


def test_a_keyframe_that_does_not_stand_alone_is_not_trusted(tmp_path: Path, long_scene: FramesArray) -> None:
    """Its index says that frame 45 is one. What a seek there brings is not exact, and the start is taken instead."""
    file = write(tmp_path / "a.mp4", long_scene, options={"g": "90", "keyint_min": "90", "sc_threshold": "0"})
    with file.open("rb") as stream:
        limits = DecodeLimits()
        index = index_video(stream.fileno(), limits)
        assert index.keys.tolist() == [0]
        reader = FrameReader(stream.fileno(), replace(index, keys=np.array([0, 45])), limits)
        ((number, frame),) = reader.read([50])
    assert number == 50
    assert np.array_equal(frame.to_ndarray(format="rgb24"), decode_all(file)[50])


# the eight ways in which a camera may have been held: matrix of a track's head -> what to do with the pixels
TURNS = {
    "upright": ((1, 0, 0, 1), lambda frame: frame),
    "clockwise": ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    "upside down": ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
    "anticlockwise": ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    "flipped": ((1, 0, 0, -1), lambda frame: frame[::-1]),
    "transposed": ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
    "transposed back": ((0, -1, -1, 0), lambda frame: np.rot90(frame, 2).transpose(1, 0, 2)),
}


def turn(file: Path, matrix: tuple[float, float, float, float]) -> None:
    """Write a display matrix into the head of an MP4's only track."""
    data = bytearray(file.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (int(value * 65536) for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    file.write_bytes(data)


@pytest.mark.parametrize("name", TURNS)
def test_a_video_is_turned_as_its_display_matrix_says(
    name: str, decoder: VideoDecoder, scene: FramesArray, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.mp4", scene[:8], "mpeg4")
    stored = decode_all(file)
    matrix, upright = TURNS[name]
    turn(file, matrix)
    (clip,), report = decoder.read(file, REQUEST)
    assert str(report) == "ok"
    assert np.array_equal(clip.frames_THWC, fit([upright(frame) for frame in stored], REQUEST))


def test_a_video_at_another_angle_is_refused(decoder: VideoDecoder, scene: FramesArray, tmp_path: Path) -> None:
    file = write(tmp_path / "a.mp4", scene[:8], "mpeg4")
    turn(file, (0.7, 0.7, -0.7, 0.7))
    assert str(decoder.read(file, REQUEST)[1]).startswith("rejected (it is to be shown turned by an angle")


TIMES_S = [0.5, 0.6, 0.7, 1.0, 1.1, 1.2, 3.0, 3.1, 3.2, 4.0, 4.1, 5.0]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_frames_may_be_shown_for_as_long_as_they_like_and_start_late(
    name: str, decoder: VideoDecoder, scene: FramesArray, tmp_path: Path
) -> None:
    """Variable frame rate, from half a second on: nothing is missing, and clips lie where they are shown."""
    file = write(tmp_path / name, scene[:12], times_s=TIMES_S)
    clips, report = decoder.read(file, replace(REQUEST, frames=4, sampling="window"))
    assert str(report) == "ok"
    frames = decode_all(file)
    for clip, first in zip(clips, (0, 4, 8), strict=True):
        assert np.array_equal(clip.frames_THWC, fit(frames[first : first + 4], REQUEST))
        assert clip.start_s == pytest.approx(TIMES_S[first] - 0.5, abs=2e-3)
    assert clips[0].end_s == pytest.approx(0.6, abs=2e-3)


def test_what_an_edit_list_cuts_away_is_not_shown_and_not_missed(
    decoder: VideoDecoder, scene: FramesArray, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.mp4", scene)
    data = bytearray(file.read_bytes())
    place = data.index(b"elst") + 12
    duration, start = struct.unpack(">Ii", data[place : place + 8])
    assert duration == 3000
    frame = 16384 // 8  # ticks of the track
    data[place : place + 8] = struct.pack(">Ii", 1000, start + 3 * frame)
    file.write_bytes(data)
    (clip,), report = decoder.read(file, REQUEST)
    assert (str(report), report.frames, report.hidden) == ("ok", 8, 16)
    assert np.array_equal(clip.frames_THWC, fit(decode_all(file), REQUEST))
    assert len(decode_all(file)) == 8


def ramp(kind: type, *shape: int) -> np.ndarray:
    """Eight pictures in which every value of a range occurs, each another."""
    top = np.iinfo(kind).max if kind is np.uint8 else 1023
    values = np.arange(np.prod((8, *shape))) * 97 % (top + 1)
    return values.reshape(8, *shape).astype(kind)


def test_grey_is_red_green_and_blue(decoder: VideoDecoder, tmp_path: Path) -> None:
    grey = ramp(np.uint8, 48, 64)
    file = write(tmp_path / "a.mkv", grey, "ffv1", pixels="gray", source="gray")
    (clip,), report = decoder.read(file, REQUEST)
    assert str(report) == "ok"
    assert np.array_equal(clip.frames_THWC, fit(np.repeat(grey[..., None], 3, axis=3), REQUEST))


def test_alpha_is_left_out_and_colours_stay(decoder: VideoDecoder, tmp_path: Path) -> None:
    coloured = ramp(np.uint8, 48, 64, 4)
    file = write(tmp_path / "a.mov", coloured, "png", pixels="rgba", source="rgba")
    (clip,), report = decoder.read(file, REQUEST)
    assert str(report) == "ok"
    assert np.array_equal(clip.frames_THWC, fit(coloured[..., :3], REQUEST))


def test_ten_bits_are_rounded_to_eight(decoder: VideoDecoder, tmp_path: Path) -> None:
    ten = ramp(np.uint16, 48, 64)
    file = write(tmp_path / "a.mkv", ten, "ffv1", pixels="gray10le", source="gray10le")
    (clip,), report = decoder.read(file, REQUEST)
    assert str(report) == "ok"
    expected = fit(np.repeat(np.round(ten / 1023 * 255).astype(np.uint8)[..., None], 3, axis=3), REQUEST)
    assert np.abs(clip.frames_THWC.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(47, 63), (33, 1), (1, 33), (17, 301)])
def test_odd_sizes_are_whole(height: int, width: int, decoder: VideoDecoder, tmp_path: Path) -> None:
    frames = ramp(np.uint8, height, width, 3)
    file = write(tmp_path / "a.mov", frames, "png", pixels="rgb24")
    (clip,), report = decoder.read(file, REQUEST)
    assert str(report) == "ok"
    assert np.array_equal(clip.frames_THWC, fit(frames, REQUEST))


def test_the_matrix_of_high_definition_is_used_where_a_video_says_so(decoder: VideoDecoder, tmp_path: Path) -> None:
    """A saturated red comes back within rounding; by the other matrix it would be off by more than 15."""
    red = np.zeros((8, 48, 64, 3), np.uint8) + np.array([200, 40, 30], np.uint8)
    file = tmp_path / "a.mkv"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv444p"
        stream.codec_context.colorspace = 1
        for image in red:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv444p", dst_colorspace=1)))
        container.mux(stream.encode())
    (clip,), _ = decoder.read(file, REQUEST)
    assert np.abs(clip.frames_THWC.astype(int) - red[0, 0, 0]).max() <= 2


def test_a_picture_that_vp8_hides_is_no_frame(decoder: VideoDecoder, scene: FramesArray, tmp_path: Path) -> None:
    """Such pictures are only looked at by others; here one is made by taking its mark away."""
    plain, file = write(tmp_path / "a.webm", scene, "libvpx", options={"deadline": "realtime"}), tmp_path / "b.webm"
    with av.open(str(plain)) as source, av.open(str(file), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux() if packet.size):
            data = bytearray(bytes(packet))
            data[0] &= ~16 if number == 9 else 255
            hidden = av.Packet(bytes(data))
            hidden.pts, hidden.dts, hidden.time_base, hidden.duration = packet.pts, packet.dts, packet.time_base, 125
            hidden.is_keyframe, hidden.stream = packet.is_keyframe, stream
            target.mux(hidden)
    assert len(decode_all(file)) == 23
    _, report = decoder.read(file, REQUEST)
    assert (str(report), report.frames) == ("ok", 23)


def test_names_of_any_kind_are_opened_as_files(decoder: VideoDecoder, scene: FramesArray, tmp_path: Path) -> None:
    plain = write(tmp_path / "a.mp4", scene[:8], "mpeg4").read_bytes()
    for name in ("-i", "concat:x|y", "line\nbreak.mp4", os.fsdecode(b"\xff\xfe.mp4"), "%03d.png", "http:", "клип.mp4"):
        file = tmp_path / name
        file.write_bytes(plain)
        assert str(decoder.read(file, REQUEST)[1]) == "ok", name


def test_views_of_a_clip_are_cut_in_the_worker(decoder: VideoDecoder, scene: FramesArray, tmp_path: Path) -> None:
    file = write(tmp_path / "a.mp4", scene[:8], "mpeg4")
    (clip,), _ = decoder.read(file, replace(REQUEST, height=64, width=64, views=3))
    expected = fit_views(decode_all(file), ClipSpec(frames=8, height=64, width=64), 3)
    assert np.array_equal(clip.views_VTHWC, expected)
    assert np.abs(expected[0].astype(int) - expected[2]).max() > 20
