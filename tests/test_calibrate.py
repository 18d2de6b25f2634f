"""Are the ranges of 8 bits found on clips that the gate does not see, and does the gate see what is out of range?"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY_CLIP, tiny_request
from tests.test_hard_weights import hard_request
from vjepa2.bundle import PORTABLE, Bundle
from vjepa2.errors import ExportError, ParityError
from vjepa2.export import pipeline
from vjepa2.export.pipeline import export_bundle
from vjepa2.export.reference import gather_calibration_clips, gather_clips
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.clip_set import generate_clips

Write = Callable[..., Path]


def test_no_clip_is_calibrated_on_that_graphs_are_proven_on(exported: Path) -> None:
    proven = [*gather_clips(TINY_CLIP, None), *(clip.frames_THWC for clip in generate_clips(Bundle.open(exported)))]
    calibrated = gather_calibration_clips(TINY_CLIP, None, proven_on_BTHWC=np.stack(proven))
    assert len(calibrated) == 12
    assert len({clip.tobytes() for clip in calibrated}) == 12


def test_the_gate_sees_what_calibration_did_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of the gate's own clips would pass whatever the graph does on others."""

    def darken(*given: object, **named: object) -> FramesArray:
        return np.zeros_like(gather_calibration_clips(*given, **named))  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "gather_calibration_clips", darken)
    with pytest.raises(ParityError, match=r"portable\.onnx is outside its gate"):
        export_bundle(hard_request(precision="int8"), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_videos_are_calibrated_on_and_named(tmp_path: Path, write_video: Write, scene: FramesArray) -> None:
    videos = tmp_path / "street"
    videos.mkdir()
    write_video(scene).rename(videos / "one.mp4")
    request = tiny_request(precision="int8", calibration_clips=videos, simplify=False)
    manifest = export_bundle(request, tmp_path / "bundle").bundle.manifest
    assert manifest.calibration is not None
    assert (manifest.calibration.source, manifest.calibration.clips) == ("street", 12)
    assert manifest.words[manifest.words.index("--calibration-clips") + 1] == "street"
    assert manifest.parity[PORTABLE].clips == 4


def test_a_video_of_both_folders_is_refused(tmp_path: Path, write_video: Write, scene: FramesArray) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(scene).rename(videos / "one.mp4")
    request = tiny_request(precision="int8", clips=videos, calibration_clips=videos)
    with pytest.raises(ExportError, match="video 0 of the calibration clips is also one that the graphs are proven on"):
        export_bundle(request, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_where_nothing_is_calibrated_clips_for_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--calibration-clips are for int8 and fp8; leave them out of fp16"):
        export_bundle(tiny_request(precision="fp16", calibration_clips=tmp_path), tmp_path / "bundle")
