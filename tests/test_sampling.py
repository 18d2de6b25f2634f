"""Which frames does each sampling take, and are they those of the implementations it is named after?"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vjepa2.errors import VideoError
from vjepa2.runtime.sampling import Footage, Pad, Sampling, choose_frames, parse_sampling

RECORDED = json.loads((Path(__file__).parent / "data" / "loader_indices.json").read_text())


def choose(text: str, total: int, count: int, *, rate_hz: float | None = 25.0, pad: Pad = "none") -> list[list[int]]:
    footage = Footage(total=total, count=count, rate_hz=rate_hz, pad=pad)
    chosen: list[list[int]] = choose_frames(parse_sampling(text), footage).tolist()
    return chosen


@pytest.mark.parametrize(("total", "count"), [(24, 8), (325, 16), (17, 16), (16, 16), (100, 7)])
def test_uniform_is_that_of_transformers(total: int, count: int) -> None:
    transformers = pytest.importorskip("transformers.video_utils")
    metadata = transformers.VideoMetadata(total_num_frames=total, fps=25)
    expected = transformers.default_sample_indices_fn(metadata, num_frames=count)
    assert choose("uniform", total, count) == [expected.tolist()]


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: f"{case['sampling']}-{case['total']}")
def test_fps_and_segments_are_those_of_the_original_loader(case: dict[str, Any]) -> None:
    """Recorded from its code by tests/record_sampling.py; short videos are padded there, unasked."""
    footage = Footage(total=case["total"], count=case["count"], rate_hz=case["rate"], pad="repeat-last")
    assert choose_frames(parse_sampling(case["sampling"]), footage).tolist() == case["frames"]


@pytest.mark.parametrize("case", [case for case in RECORDED["cases"] if case["sampling"].startswith("segments")])
def test_joined_is_what_the_loader_takes_of_every_segment_one_after_the_other(case: dict[str, Any]) -> None:
    parts, step = (int(number) for number in (case["sampling"].removeprefix("segments:") + "x4").split("x")[:2])
    footage = Footage(total=case["total"], count=parts * case["count"], segments=parts, pad="repeat-last")
    assert choose_frames(parse_sampling(f"joined:{step}"), footage).tolist() == [np.ravel(case["frames"]).tolist()]


def test_joined_of_one_segment_is_segments_of_one() -> None:
    assert choose("joined", 100, 8) == choose("segments:1x4", 100, 8)
    assert not parse_sampling("joined:2").several


def test_stride_is_that_of_the_original_demo() -> None:
    assert choose("stride:2", 300, 64) == [list(np.arange(0, 128, 2))]
    assert choose("stride:1", 16, 16) == [list(range(16))]


def test_windows_slide_by_their_stride_over_everything_that_fits() -> None:
    assert choose("window", 10, 4) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert choose("window:2", 8, 4) == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert choose("window:3x2", 11, 4) == [[0, 2, 4, 6], [3, 5, 7, 9]]
    assert choose("window:9", 8, 4) == [[0, 1, 2, 3]]


def test_padding_fills_with_the_last_frame() -> None:
    assert choose("uniform", 3, 5, pad="repeat-last") == [[0, 1, 2, 2, 2]]
    assert choose("stride:2", 5, 4, pad="repeat-last") == [[0, 2, 4, 4]]
    assert choose("window", 10, 4, pad="repeat-last")[-1] == [8, 9, 9, 9]
    assert choose("window:2", 8, 4, pad="repeat-last")[-1] == [4, 5, 6, 7], "what was seen needs no window"
    assert choose("window:9", 9, 4, pad="repeat-last") == [[0, 1, 2, 3]], "no window begins behind the end"
    assert choose("window", 2, 4, pad="repeat-last") == [[0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uniform", r"the video has 6 frames and the clip takes 8; .* ask to pad with repeat-last"),
        ("stride:2", r"has 6 frames and the clip takes 8 over 15"),
        ("fps:5", r"has 6 frames and the clip takes 8 over 40"),
        ("segments:2x1", r"has segments of 3 frames, from 6 frames and the clip takes 8"),
        ("window:2", r"has 6 frames and the clip takes 8;"),
    ],
)
def test_a_video_that_is_too_short_is_refused_unless_it_may_be_padded(text: str, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        choose(text, 6, 8)
    assert len(choose(text, 6, 8, pad="repeat-last")[0]) == 8


@pytest.mark.parametrize(
    ("text", "total", "rate_hz", "message"),
    [
        ("uniform", 0, 25.0, "has no frames"),
        ("fps:4", 99, None, "does not say how many frames a second it has; sample it by stride:N"),
        ("fps:30", 99, 25.0, "has 25 frames a second; fps:30 asks for more than it has"),
        ("segments:9x1", 8, 25.0, "has 8 frames; it cannot be cut into 9 segments"),
    ],
)
def test_what_a_video_cannot_give_is_refused(text: str, total: int, rate_hz: float | None, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        choose(text, total, 4, rate_hz=rate_hz, pad="repeat-last")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sampling is ''; it must be one of uniform, fps:N, stride:N"),
        ("random", "must be one of"),
        ("fps", "fps takes a number, as in fps:2"),
        ("fps:0", "fps takes a number above 0"),
        ("fps:4x2", "only segments and window take a step"),
        ("stride:1.5", "stride takes a whole number from 1 on"),
        ("segments:0", "segments takes a whole number from 1 on"),
        ("segments:2x0", "it is at least 1"),
        ("uniform:3", "uniform takes no number"),
        ("window:-2", "must be one of"),
        ("window:2x", "must be one of"),
        ("Uniform", "must be one of"),
        ("uniform\n", "must be one of"),
    ],
)
def test_a_sampling_that_is_not_one_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        parse_sampling(text)


def test_names_are_read_with_their_numbers() -> None:
    assert parse_sampling("fps:0.5") == Sampling("fps", 0.5)
    assert parse_sampling("window:8x2") == Sampling("window", 8, 2)
    assert replace(parse_sampling("segments:2"), step=4).several
    assert not parse_sampling("uniform").several
