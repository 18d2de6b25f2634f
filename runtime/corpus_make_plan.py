"""How is a plan made: the videos of a folder, a list or a bucket, identified and counted?"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import cast

from vjepa2.errors import CorpusError, VideoError

from .corpus_messages import PlannedVideo
from .corpus_plan import ClipPolicy, Plan
from .corpus_videos import fetch_video, identify_video, list_videos
from .decode_messages import ClipRequest
from .decoder import VideoDecoder
from .sampling import Footage, Pad, choose_frames, parse_sampling

_SIDE = 16  # pixels: a frame is decoded to learn how many there are, and is thrown away


def plan_corpus(
    source: str,
    *,
    sampling: str,
    pad: Pad,
    frames: int | None,
    clips_per_shard: int,
    watch: Callable[[list[str]], Iterable[str]] = iter,
) -> Plan:
    """List and hash every video; one that cannot be read stays in the plan, with the reason.

    "window" needs `frames`, and opens each video to count its frames. `watch` is given the videos, and gives them back
    one by one.
    """
    counts = parse_sampling(sampling).name == "window"
    if counts != (frames is not None):
        asks = "needs" if counts else "does not take"
        raise CorpusError(f"sampling {sampling} {asks} --frames, the frames of a clip; window alone does")
    policy = ClipPolicy(sampling=sampling, pad=pad, frames=frames, clips_per_shard=clips_per_shard)
    with VideoDecoder() as decoder:
        return Plan.make(policy, _find_videos(watch(list_videos(source)), policy, decoder))


def _find_videos(videos: Iterable[str], policy: ClipPolicy, decoder: VideoDecoder) -> Iterator[PlannedVideo]:
    sampling = parse_sampling(policy.sampling)
    usual = int(sampling.number or 1) if sampling.name == "segments" else 1
    for number, video in enumerate(videos):
        size, version, problem = identify_video(video)
        planned = PlannedVideo(
            number=number, video=video, bytes=size, version=version, problem=problem, clips=1 if problem else usual
        )
        yield planned if policy.frames is None or problem else _count_clips(planned, policy, decoder)


def _count_clips(video: PlannedVideo, policy: ClipPolicy, decoder: VideoDecoder) -> PlannedVideo:
    """The video with as many clips as its packets promise; 1 of one that will be refused."""
    try:
        with fetch_video(video) as path:
            _, report = decoder.read(path, ClipRequest(frames=1, height=_SIDE, width=_SIDE))
        footage = Footage(total=report.frames or 0, count=cast(int, policy.frames), pad=policy.pad)
        return replace(video, clips=len(choose_frames(parse_sampling(policy.sampling), footage)))
    except VideoError:
        return video
