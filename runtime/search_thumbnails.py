"""What does a clip look like: one of its frames, decoded where nothing else can be reached, as JPEG?"""

import threading
from collections import OrderedDict
from fractions import Fraction
from typing import Any

import av
import numpy as np

from vjepa2.errors import VideoError

from .backends.base import FramesArray
from .corpus_plan import ClipPolicy
from .decode_messages import ClipRequest
from .decoder import VideoDecoder
from .sampling import parse_sampling
from .search_corpus import SearchCorpus
from .search_files import check_file

WIDTH, HEIGHT = 256, 144  # pixels
_KEPT = 4096  # thumbnails: about 40 MB


class Thumbnails:
    """Frames of a corpus's clips. It owns its decoder."""

    def __init__(self, corpus: SearchCorpus, *, workers: int = 2) -> None:
        self._corpus = corpus
        self._decoder = VideoDecoder(workers=workers)
        self._lock = threading.Lock()
        self._made: OrderedDict[int, bytes] = OrderedDict()

    def make(self, row: int) -> bytes:
        """A JPEG of a clip; a `VideoError` if its video cannot be read, or is another one than was embedded."""
        with self._lock:
            if row in self._made:
                self._made.move_to_end(row)
                return self._made[row]
        video = self._corpus.videos[int(self._corpus.video_N[row])]
        request, clip = choose_frame(self._corpus.policy, row - video.first)
        clips, report = self._decoder.read(check_file(video), request)
        if len(clips) <= clip:
            raise VideoError(f"{video.name} is {report}")
        data = encode_jpeg(clips[clip].frames_THWC[-1])
        with self._lock:
            self._made[row] = data
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return data

    def close(self) -> None:
        """End the decoder."""
        self._decoder.close()


def choose_frame(policy: ClipPolicy, clip: int) -> tuple[ClipRequest, int]:
    """What to ask of a decoder, and which of the clips it gives has, as its last frame, the one to show.

    Of a window and of a whole video that is the one in the middle; of a segment, and of frames from the start, the
    first one or the second.
    """
    sampling, frames, number = parse_sampling(policy.sampling), 2, 0
    word = policy.sampling
    if sampling.name == "segments":
        frames, number = 1, clip
    if sampling.name == "window":
        step, count = sampling.step or 1, policy.frames or 1
        place = clip * int(sampling.number or count * step) + count // 2 * step
        word, frames = (f"stride:{place}", 2) if place else ("uniform", 1)
    return ClipRequest(frames=frames, height=HEIGHT, width=WIDTH, sampling=word, pad="repeat-last"), number


def encode_jpeg(frame_HWC: FramesArray) -> bytes:
    """A frame as a file."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
    codec: Any = av.CodecContext.create("mjpeg", "w")
    codec.height, codec.width = frame_HWC.shape[:2]
    codec.pix_fmt, codec.time_base = "yuvj420p", Fraction(1, 25)
    codec.qmin = codec.qmax = 4
    frame.pts = 0
    packets = codec.encode(frame) + codec.encode(None)
    return b"".join(bytes(packet) for packet in packets)
