"""On which clips are graphs proven, on which others calibrated, and what does PyTorch float32 make of them?"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vjepa2.errors import ExportError
from vjepa2.headed import Headed, compute_outputs, embed_clips
from vjepa2.manifest import CROP_DOWN, Crop
from vjepa2.runtime.backends import Outputs
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.clip_set import read_folder
from vjepa2.runtime.decode_messages import ClipRequest
from vjepa2.runtime.reference import Reference
from vjepa2.runtime.scenes import OddClip, generate_odd_clip, generate_scene
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec, OutputName

from .extras import ExtraArrays

_LEAST_CLIPS = 3
_LEAST_CALIBRATION_CLIPS = 8
_CALIBRATION_SEED = 100  # of the first generated one; those of the gate and of parity are below
_ODD: tuple[OddClip, ...] = ("static", "flashing", "noise", "saturated")  # what is black is so in every clip


def gather_clips(clip: ClipSpec, folder: Path | None, crop: Crop = CROP_DOWN) -> FramesArray:
    """Frames `[B, T, H, W, 3]` to prove the graphs on: every video of `folder`, scenes up to three, and a fast clip."""
    size = (clip.frames, clip.height, clip.width)
    clips = _read_clips(clip, folder, crop)
    for seed in range(len(clips), _LEAST_CLIPS):
        clips.append(generate_scene(*size, seed=seed))
    clips.append(generate_odd_clip("fast", *size))  # on slow ones a frame off by one is no mistake
    return np.stack(clips)


def gather_calibration_clips(
    clip: ClipSpec, folder: Path | None, crop: Crop = CROP_DOWN, *, proven_on_BTHWC: FramesArray
) -> FramesArray:
    """Frames `[B, T, H, W, 3]` to find ranges on: every video of `folder`, scenes up to eight, and four odd clips.

    `ExportError` if one of them is among those that the graphs are proven on: on it nothing could be out of range.
    """
    size = (clip.frames, clip.height, clip.width)
    clips = _read_clips(clip, folder, crop)
    for seed in range(len(clips), _LEAST_CALIBRATION_CLIPS):
        clips.append(generate_scene(*size, seed=_CALIBRATION_SEED + seed))
    clips += [generate_odd_clip(kind, *size, seed=_CALIBRATION_SEED) for kind in _ODD]
    for number, frames_THWC in enumerate(clips):
        if any(np.array_equal(frames_THWC, proven) for proven in proven_on_BTHWC):
            raise ExportError(
                f"video {number} of the calibration clips is also one that the graphs are proven on; 8-bit ranges "
                "must be found on other videos: take it out of one of the two folders"
            )
    return np.stack(clips)


def _read_clips(clip: ClipSpec, folder: Path | None, crop: Crop) -> list[FramesArray]:
    if folder is None:
        return []
    wanted = ClipRequest(frames=clip.frames, height=clip.height, width=clip.width, crop=crop)
    return [read.frames_THWC for read in read_folder(wanted, folder, pad="repeat-last")]


def run_clip(model: Headed, frames_THWC: FramesArray, inputs: ExtraArrays) -> dict[OutputName, Tensor]:
    """What the module makes of one clip; `inputs` are arrays of one row."""
    clip_BTCHW = torch.from_numpy(normalise(frames_THWC[None], RGB_MEAN, RGB_STD))
    return compute_outputs(model, embed_clips(model, clip_BTCHW), [torch.from_numpy(row) for row in inputs.values()])


def compute_reference(model: Headed, frames_BTHWC: FramesArray, inputs: ExtraArrays) -> Reference:
    """What PyTorch float32 makes of the clips, one at a time."""
    rows: list[dict[OutputName, Tensor]] = []
    norms: list[Tensor] = []

    def keep_norms(_: nn.Module, streams: tuple[Tensor, ...]) -> None:
        norms.append(streams[0].norm(dim=-1).flatten())

    hook = model.encoder.last_norm.register_forward_pre_hook(keep_norms)
    of_clip = []
    with torch.inference_mode():
        for index, frames_THWC in enumerate(frames_BTHWC):
            row = {name: array[index : index + 1] for name, array in inputs.items()}
            rows.append(run_clip(model, frames_THWC, row))
            of_clip.append(norms[-1])  # an earlier one is of a layer below, through the same LayerNorm
    hook.remove()
    return Reference(
        frames_BTHWC=frames_BTHWC,
        norms_BN=torch.stack(of_clip).numpy(),
        outputs=Outputs.from_names({name: torch.cat([row[name] for row in rows]).numpy() for name in rows[0]}),
        inputs=inputs,
    )
