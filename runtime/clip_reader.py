"""Which clips does an app get of a video, be it a path, an array, or a clip that was cut from one already?

Axes: V views, T frames, H, W pixels.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from vjepa2.errors import VideoError
from vjepa2.spec import ClipSpec

from .backends.base import FramesArray
from .decode_messages import ClipRequest, SampledClip, VideoReport
from .decoder import Reading, VideoDecoder
from .preprocess import fit_views
from .sampling import Footage, Pad, choose_frames, parse_sampling

Video = str | Path | npt.NDArray[np.uint8] | SampledClip


class ClipReader:
    """Clips of one size. It owns a `VideoDecoder`, whose first process starts with the first path."""

    def __init__(self, request: ClipRequest, decoder: VideoDecoder | None = None) -> None:
        self.decoder = decoder or VideoDecoder()
        self._request = request

    def open(self, video: Video, sampling: str = "uniform", pad: Pad = "none", views: int = 1) -> "AnyReading":
        """The clips of a video, and then its report; a bad one never raises."""
        request = replace(self._request, sampling=sampling, pad=pad, views=views)
        if isinstance(video, SampledClip):
            return CutReading(video, request)
        if isinstance(video, np.ndarray):
            return ArrayReading(video, request)
        return self.decoder.open(video, request)

    def read(self, video: Video, sampling: str = "uniform", pad: Pad = "none", views: int = 1) -> Iterator[SampledClip]:
        """Each clip of a video; a `VideoError` before the first if it is refused, after the last if it is damaged."""
        parse_sampling(sampling)
        reading = self.open(video, sampling, pad, views)
        yield from reading
        assert reading.report is not None
        if reading.report.status != "ok":
            raise VideoError(explain_refusal(video, reading.report))

    def read_one(self, video: Video, sampling: str = "uniform", pad: Pad = "none") -> FramesArray:
        """The only clip of a video, `[T, H, W, 3]`; a `VideoError` if the sampling gives several."""
        if parse_sampling(sampling).several:
            raise VideoError(f"sampling {sampling!r} gives several clips a video, and here each is one: use another")
        (clip,) = self.read(video, sampling, pad)
        return clip.frames_THWC

    def close(self) -> None:
        """End the decoder's processes. Safe to call twice."""
        self.decoder.close()

    def __enter__(self) -> "ClipReader":
        """The reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class _ReadyReading:
    """What `Reading` is of a path, of what is in memory already."""

    def __init__(self, request: ClipRequest) -> None:
        self.report: VideoReport | None = None
        self._request = request

    def start(self, *, wait: bool = True) -> bool:
        """Nothing, for no worker is needed."""
        return True

    def close(self) -> None:
        """Nothing."""


class ArrayReading(_ReadyReading):
    """Frames, which are cut when iterated over."""

    def __init__(self, video_THWC: FramesArray, request: ClipRequest) -> None:
        super().__init__(request)
        self._video_THWC = video_THWC

    def __iter__(self) -> Iterator[SampledClip]:
        """Cut the clips out."""
        total, clips = len(self._video_THWC), 0
        try:
            for clip in self._cut(total):
                clips += 1
                yield clip
        except VideoError as error:
            self.report = VideoReport(status="rejected", reason=str(error), clips=clips)
        else:
            self.report = VideoReport(status="ok", frames=total, clips=clips)

    def _cut(self, total: int) -> Iterator[SampledClip]:
        request = self._request
        clip = ClipSpec(frames=1, height=request.height, width=request.width, tubelet=1, patch=1)
        footage = Footage(
            total=total, count=request.frames, segments=request.segments, pad=request.pad, name="the array"
        )
        chosen_KT = choose_frames(parse_sampling(request.sampling), footage)
        for number, frames in enumerate(chosen_KT):
            there, back = np.unique(frames, return_inverse=True)
            fitted = fit_views([self._video_THWC[index] for index in there], clip, request.views, request.crop)
            yield SampledClip(
                views_VTHWC=fitted[:, back], number=number, clips=len(chosen_KT), start_s=None, end_s=None
            )


class CutReading(_ReadyReading):
    """A clip of the model's size: it is taken as it is, and never cut twice."""

    def __init__(self, clip: SampledClip, request: ClipRequest) -> None:
        super().__init__(request)
        self._clip = clip

    def __iter__(self) -> Iterator[SampledClip]:
        """The clip, if it is one of this request's; of which video and which part it is it says itself."""
        request, views_VTHWC = self._request, self._clip.views_VTHWC
        wanted = (request.views, request.frames, request.height, request.width, 3)
        if views_VTHWC.shape != wanted or views_VTHWC.dtype != np.uint8:
            found = f"{views_VTHWC.dtype} {list(views_VTHWC.shape)}"
            reason = f"the clip is {found}, and the model takes uint8 {list(wanted)}; cut it for this bundle"
            self.report = VideoReport(status="rejected", reason=reason)
            return
        yield self._clip
        self.report = VideoReport(status="ok", frames=request.frames, clips=1)


AnyReading = Reading | ArrayReading | CutReading


def name_video(video: Video, number: int) -> str:
    """The path of a video, or the number of an array or a clip among those that were given."""
    if isinstance(video, (str, Path)):
        return str(video)
    return f"{'array' if isinstance(video, np.ndarray) else 'clip'} {number}"


def explain_refusal(video: Video, report: VideoReport) -> str:
    """Why a video that is not `ok` is not used, as one line that names it."""
    if not isinstance(video, (str, Path)):
        return str(report.reason)
    if report.status == "rejected":
        return f"{video}: {report.reason}"
    return f"{video} is {report}; it is truncated or damaged: mend it or leave it out"
