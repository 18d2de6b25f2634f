"""On which clips are graphs proven, and what does PyTorch float32 make of them?"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vjepa2.headed import Headed, compute_outputs, embed_clips
from vjepa2.manifest import CROP_DOWN, Crop
from vjepa2.runtime.backends import Outputs
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.clip_set import read_folder
from vjepa2.runtime.decode_messages import ClipRequest
from vjepa2.runtime.reference import Reference
from vjepa2.runtime.scenes import generate_odd_clip, generate_scene
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec, OutputName

from .extras import ExtraArrays

_LEAST_CLIPS = 3


def gather_clips(clip: ClipSpec, folder: Path | None, crop: Crop = CROP_DOWN) -> FramesArray:
    """Frames `[B, T, H, W, 3]` to prove the graphs on: every video of `folder`, scenes up to three, and a fast clip."""
    size = (clip.frames, clip.height, clip.width)
    clips = []
    if folder is not None:
        wanted = ClipRequest(frames=clip.frames, height=clip.height, width=clip.width, crop=crop)
        clips = [read.frames_THWC for read in read_folder(wanted, folder, pad="repeat-last")]
    for seed in range(len(clips), _LEAST_CLIPS):
        clips.append(generate_scene(*size, seed=seed))
    clips.append(generate_odd_clip("fast", *size))  # on slow ones a frame off by one is no mistake
    return np.stack(clips)


def compute_reference(model: Headed, frames_BTHWC: FramesArray, inputs: ExtraArrays) -> Reference:
    """What PyTorch float32 makes of the clips, one at a time."""
    rows: list[dict[OutputName, Tensor]] = []
    norms: list[Tensor] = []

    def keep_norms(_: nn.Module, streams: tuple[Tensor, ...]) -> None:
        norms.append(streams[0].norm(dim=-1).flatten())

    hook = model.encoder.last_norm.register_forward_pre_hook(keep_norms)
    of_clip = []
    with torch.inference_mode():
        for index, frames in enumerate(frames_BTHWC):
            clip_BTCHW = torch.from_numpy(normalise(frames[None], RGB_MEAN, RGB_STD))
            extras = [torch.from_numpy(array[index : index + 1]) for array in inputs.values()]
            rows.append(compute_outputs(model, embed_clips(model, clip_BTCHW), extras))
            of_clip.append(norms[-1])  # an earlier one is of a layer below, through the same LayerNorm
    hook.remove()
    return Reference(
        frames_BTHWC=frames_BTHWC,
        norms_BN=torch.stack(of_clip).numpy(),
        outputs=Outputs.from_names({name: torch.cat([row[name] for row in rows]).numpy() for name in rows[0]}),
        inputs=inputs,
    )
