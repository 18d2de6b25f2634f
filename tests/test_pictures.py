"""Are the pictures of a report what a library that reads PNG says, small, and is anything else kept off the page?"""

import io
import struct
from base64 import b64decode, b64encode
from pathlib import Path

import av
import numpy as np
import pytest

from vjepa2.bundle import Bundle
from vjepa2.errors import BundleError
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.clip_set import list_stored
from vjepa2.runtime.gates import GATES
from vjepa2.runtime.parity_report import TokenMap
from vjepa2.runtime.parity_rows import map_tokens
from vjepa2.runtime.pictures import MAX_CHARS, find_fault, shrink_frames
from vjepa2.runtime.reference import Reference
from vjepa2.runtime.scenes import generate_scene
from vjepa2.schema import read_record

PREFIX = "data:image/png;base64,"


def read_picture(address: str) -> FramesArray:
    """What FFmpeg makes of it."""
    with av.open(io.BytesIO(b64decode(address.removeprefix(PREFIX))), mode="r", format="png_pipe") as container:
        (frame,) = container.decode(video=0)
        return frame.to_ndarray(format="rgb24").astype(np.uint8, casting="no")


def test_another_reader_sees_the_frame() -> None:
    frames_THWC = generate_scene(4, 64, 96, seed=1)
    pictures = shrink_frames(frames_THWC, [0, 2], 16)
    assert len(pictures) == 2
    for address, number in zip(pictures, (0, 2), strict=True):
        got_HWC = read_picture(address).astype(int)
        assert got_HWC.shape == (64, 96, 3)
        assert set(np.unique(got_HWC)) <= {0, 51, 102, 153, 204, 255}
        assert np.abs(got_HWC - frames_THWC[number]).max() <= 26, "half of what parts two levels"


def test_a_picture_is_the_mean_of_squares_upright_and_in_its_colours() -> None:
    frames_THWC = np.zeros((1, 256, 256, 3), np.uint8)
    frames_THWC[0, :64, 128:] = (255, 102, 0)
    (address,) = shrink_frames(frames_THWC, [0], 16)
    got_HWC = read_picture(address)
    assert got_HWC.shape == (64, 64, 3)
    assert (got_HWC[:16, 32:] == (255, 102, 0)).all()
    assert not got_HWC[16:].any()
    assert not got_HWC[:, :32].any()


@pytest.mark.parametrize(("frames", "size"), [(8, 256), (32, 256), (32, 384), (8, 1024)])
def test_pictures_of_noise_have_their_limit(frames: int, size: int) -> None:
    noise_THWC = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8).repeat(frames, 0)
    noise_THWC = np.ascontiguousarray(np.tile(noise_THWC, (1, size // 16, size // 16, 1)))
    pictures = shrink_frames(noise_THWC, range(frames), 16)
    assert len(pictures) == frames
    assert sum(map(len, pictures)) <= MAX_CHARS
    assert find_fault(pictures) is None


def test_pictures_that_cannot_be_small_are_left_out() -> None:
    noise_THWC = np.random.default_rng(0).integers(0, 256, (2, 512, 512, 3), np.uint8)
    assert shrink_frames(noise_THWC, [0, 1], 1) == ()


def png(wide: int, high: int, rest: int = 17) -> str:
    """An address of what begins as a PNG of that size does."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", wide, high) + bytes(rest)
    return PREFIX + b64encode(head).decode()


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/a.png",
        "data:image/svg+xml;base64,PHN2Zy8+",
        PREFIX + "PHN2Zy8+",
        PREFIX + 'AAAA"/><script>alert(1)</script>',
        PREFIX + "AAA",
        png(8, 8) + "\n",
        png(0, 8),
        png(60000, 8),
        png(8, 8, rest=3),
        png(8, 8, rest=MAX_CHARS),
        "",
    ],
)
def test_what_is_no_small_picture_is_refused(address: str) -> None:
    assert find_fault([png(8, 8)]) is None
    assert find_fault([png(8, 8), address]) is not None
    record = {"clip": "a", "frames": 2, "distances_THW": [[[0.0]]], "quiet": [], "pictures": [address]}
    with pytest.raises(BundleError, match=r"pictures.*run vjepa2 parity again"):
        read_record(TokenMap, record, "map")


def test_a_map_has_a_picture_of_each_step_or_none() -> None:
    record = {"clip": "a", "frames": 4, "distances_THW": [[[0.0]], [[0.0]]], "quiet": []}
    assert read_record(TokenMap, record, "map").pictures == (), "as maps were written before there were pictures"
    assert len(read_record(TokenMap, record | {"pictures": [png(8, 8)] * 2}, "map").pictures) == 2
    with pytest.raises(BundleError, match="pictures are 1; they must be one of each of 2 steps"):
        read_record(TokenMap, record | {"pictures": [png(8, 8)]}, "map")
    with pytest.raises(BundleError, match=r"map\.pictures is 7; it must be tuple"):
        read_record(TokenMap, record | {"pictures": 7}, "map")
    with pytest.raises(BundleError, match="lacks \\['quiet'\\]"):
        read_record(TokenMap, {name: record[name] for name in record if name != "quiet"}, "map")


def test_the_map_of_a_clip_holds_the_first_frame_of_each_step(exported: Path) -> None:
    bundle = Bundle.open(exported)
    case = list_stored(Reference.load(bundle), "exported")[0]
    tokens = map_tokens(case, dict(case.expected), GATES["fp32"], bundle.manifest)
    assert tokens is not None
    assert len(tokens.pictures) == 2
    for address, frame_HWC in zip(tokens.pictures, case.frames_THWC[::2], strict=True):
        assert np.abs(read_picture(address).astype(int) - frame_HWC).max() <= 26
