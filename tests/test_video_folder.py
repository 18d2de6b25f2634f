"""Are the videos of a folder those that an app means?"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from vjepa2.errors import VideoError
from vjepa2.runtime.video_folder import expand_folders, is_single, list_videos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Videos by their names alone, for nobody opens them here."""
    names = ("b.mp4", "a/z.MKV", "a/c/d.webm", "a.avi", "notes.txt", ".hidden.mp4", ".trash/e.mp4", "a/._f.mp4")
    for name in names:
        file = tmp_path / "videos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "g.mp4").touch()
    (tmp_path / "videos" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "videos" / "h.mp4").symlink_to(tmp_path / "other" / "g.mp4")
    return tmp_path / "videos"


def test_they_are_found_at_any_depth_and_sorted_by_path(folder: Path) -> None:
    found = [str(path.relative_to(folder)) for path in list_videos(folder)]
    assert found == ["a/c/d.webm", "a/z.MKV", "a.avi", "b.mp4", "h.mp4"]


def test_a_folder_stands_for_its_videos_among_others(folder: Path) -> None:
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    items, total = expand_folders(["x.mp4", folder / "a", frames])
    listed = list(items)
    assert total == 4
    assert [str(item) for item in listed[:3]] == ["x.mp4", str(folder / "a/c/d.webm"), str(folder / "a/z.MKV")]
    assert listed[3] is frames
    items, total = expand_folders(path for path in (str(folder), "x.mp4"))
    assert (len(list(items)), total) == (6, None)
    assert [is_single(video) for video in (frames, "x.mp4", folder, [folder])] == [True, True, False, False]


def test_an_endless_iterator_is_read_one_by_one() -> None:
    taken: list[int] = []

    def give() -> Iterator[str]:
        while True:
            taken.append(1)
            yield f"{len(taken)}.mp4"

    items, _ = expand_folders(give())
    assert [next(items), next(items)] == ["1.mp4", "2.mp4"]
    assert len(taken) == 2


def test_a_folder_without_videos_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(VideoError, match=r"empty holds no video \(\.mp4, .*\); give a folder that does, or files"):
        list_videos(folder / "empty")

    def refuse(path: str) -> NoReturn:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(VideoError, match=r"videos cannot be listed \(Permission denied\); make it readable"):
        list_videos(folder)


def test_what_cannot_be_looked_at_is_left_to_whoever_opens_it() -> None:
    items, _ = expand_folders(["x" * 5000, "a\0b"])
    assert len(list(items)) == 2
