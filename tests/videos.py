"""Which videos do the tests of decoding read: of every make, from arrays, and the same bytes every time?"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from vjepa2.fitting import fit_pixels
from vjepa2.runtime.decode_messages import ClipRequest
from vjepa2.spec import ClipSpec

FramesArray = npt.NDArray[np.uint8]


def write(
    file: Path,
    frames: Sequence[npt.NDArray[Any]] | npt.NDArray[Any],
    codec: str = "libx264",
    *,
    pixels: str = "yuv420p",
    source: str = "rgb24",
    times_s: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    container_format: str | None = None,
) -> Path:
    """Encode frames of format `source` at 8 a second, or shown at `times_s`; two B-frames and a short GOP in H.264."""
    own = {"g": "12", "bf": "2", "x264-params": "asm=0"} if codec == "libx264" else {}
    with av.open(str(file), "w", container_format, options={"fflags": "bitexact"}) as container:
        stream: Any = container.add_stream(codec, rate=8, options=own | (options or {}))
        stream.height, stream.width, stream.pix_fmt = frames[0].shape[0], frames[0].shape[1], pixels
        stream.codec_context.thread_count = 1
        if times_s is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=source)
            if times_s is not None:
                frame.pts, frame.time_base = round(1000 * times_s[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def decode_all(file: Path) -> FramesArray:
    """Every frame of a whole file `[T, H, W, 3]`, from its start to its end, by PyAV and nothing of ours."""
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def fit(frames: Sequence[FramesArray] | FramesArray, request: ClipRequest) -> FramesArray:
    """Frames as a decoder gives them for `request`."""
    clip = ClipSpec(frames=1, height=request.height, width=request.width, tubelet=1, patch=1)
    return np.stack([fit_pixels(frame, clip, request.crop) for frame in frames])
