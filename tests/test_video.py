"""Are the frames of a video those it holds, and does a bad file say what is wrong with it?"""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from vjepa2.errors import VideoError
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.sampling import choose_frames
from vjepa2.runtime.video import count_frames, read_frames

Writer = Callable[..., Path]


def closest(frame: FramesArray, frames: FramesArray) -> int:
    """Which of `frames` looks most like `frame`, lossy compression or not."""
    return int(np.abs(frames.astype(np.int16) - frame).mean(axis=(1, 2, 3)).argmin())


@pytest.mark.parametrize("name", ["scene.mp4", "scene.avi", "scene.mkv"])
def test_frames_are_taken_evenly(name: str, write_video: Writer, scene: FramesArray) -> None:
    """From containers that say how many frames they have, and from Matroska, which does not."""
    file = write_video(scene, name)
    assert count_frames(file) == 24
    frames = read_frames(file, 8)
    assert frames.shape == (8, 120, 160, 3)
    assert frames.dtype == np.uint8
    assert [closest(frame, scene) for frame in frames] == [0, 3, 6, 9, 12, 15, 18, 21]


@pytest.mark.parametrize(("total", "count"), [(24, 8), (325, 16), (17, 16), (16, 16), (100, 7)])
def test_numbers_are_those_of_transformers(total: int, count: int) -> None:
    expected = [int(number) for number in np.arange(count) * total // count]
    assert choose_frames(total, count).tolist() == expected


def test_a_short_video_is_an_error_or_padded_when_asked(write_video: Writer, scene: FramesArray) -> None:
    file = write_video(scene[:5])
    with pytest.raises(VideoError, match=r"scene.mp4 has 5 frames and the clip takes 8; .* pad with repeat-last"):
        read_frames(file, 8)
    frames = read_frames(file, 8, pad="repeat-last")
    assert [closest(frame, scene) for frame in frames] == [0, 1, 2, 3, 4, 4, 4, 4]


def write_text(folder: Path) -> Path:
    (folder / "notes.mp4").write_text("this is not a video\n" * 50)
    return folder / "notes.mp4"


def write_nothing(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def write_playlist(folder: Path) -> Path:
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    return folder / "list.mp4"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_text, "notes.mp4 is not a video that can be read"),
        (write_nothing, "empty.mp4 is not a video that can be read"),
        (write_playlist, "list.mp4 "),
        (lambda folder: folder, "is not a file; give the path of a video"),
        (lambda folder: folder / "none.mp4", "none.mp4 is not a file"),
    ],
)
def test_what_is_not_a_video_is_refused(write: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=message):
        read_frames(write(tmp_path), 2)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sound.wav"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        assert isinstance(stream, av.AudioStream)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match=r"sound.wav has no video stream; it holds audio"):
        read_frames(file, 2)


@pytest.mark.parametrize("name", ["scene.mp4", "scene.avi", "scene.mkv"])
@pytest.mark.parametrize("part", [0.3, 0.6])
def test_a_truncated_file_is_refused(name: str, part: float, write_video: Writer, scene: FramesArray) -> None:
    file = write_video(scene, name)
    os.truncate(file, int(file.stat().st_size * part))
    with pytest.raises(VideoError, match=r"truncated or damaged|not a video that can be read"):
        read_frames(file, 4)


def test_a_video_that_changes_its_size_is_refused(tmp_path: Path, scene: FramesArray) -> None:
    """Two raw streams one after the other: what a camera does when it is told to."""
    parts = []
    for number, height in enumerate((64, 96)):
        part = tmp_path / f"{number}.m4v"
        with av.open(str(part), "w", format="m4v") as container:
            stream = container.add_stream("mpeg4", rate=8)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width, stream.pix_fmt = height, 64, "yuv420p"
            for image in scene[:8, :height, :64]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            container.mux(stream.encode())
        parts.append(part.read_bytes())
    file = tmp_path / "both.m4v"
    file.write_bytes(b"".join(parts))
    with pytest.raises(VideoError, match=r"changes its size on the way \(\[\(64, 64\), \(96, 64\)\]\)"):
        read_frames(file, 8)
