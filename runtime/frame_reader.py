"""Which picture belongs to which frame number: by a seek where that is exact, else by decoding from the start?"""

from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from vjepa2.errors import VideoError

from .decode_messages import DecodeLimits
from .video import DAMAGE, Frame, Opened, open_video
from .video_index import VideoIndex

Picture = tuple[int, Frame]
_WORTH = 4  # frames that must be saved before a seek pays


@dataclass(slots=True)
class _Run:
    """Frames to decode without a seek in between, counted from the first of the video."""

    key: int
    last: int


class FrameReader:
    """Reads frames of an open file by number. `lost` are those passed on the way that could not be decoded."""

    def __init__(self, file: int, index: VideoIndex, limits: DecodeLimits) -> None:
        self.lost: set[int] = set()
        self._file, self._index, self._limits = file, index, limits
        self._size: tuple[int, int] | None = None

    def read(self, wanted: Sequence[int]) -> Iterator[Picture]:
        """Each number of `wanted`, ascending, with its picture; that of a lost frame is the one on screen before it.

        Nothing comes of a video none of whose frames can be decoded.
        """
        rest = list(wanted)
        if self._index.seekable:
            with open_video(self._file, self._limits) as opened:
                rest = yield from self._read_by_seeks(opened, rest)
        if rest:
            with open_video(self._file, self._limits) as opened:
                yield from self._read_whole(opened, rest)

    def _read_by_seeks(self, opened: Opened, wanted: Sequence[int]) -> Generator[Picture, None, list[int]]:
        """Returns the numbers from the first frame on that should have come, and did not, or not exactly."""
        assert self._index.times is not None
        container, stream = opened
        rest = list(wanted)
        for run in _plan_runs(self._index, wanted):
            if run.key:
                container.seek(int(self._index.times[run.key]), stream=stream)
            expected = run.key
            for number, frame in self._decode(opened):
                if number < run.key:  # shown before the keyframe, and made from frames before it
                    continue
                if number != expected:
                    return rest
                expected += 1
                if number == rest[0]:
                    yield rest.pop(0), frame
                if number == run.last:
                    break
            else:
                return rest
        return rest

    def _read_whole(self, opened: Opened, wanted: Sequence[int]) -> Iterator[Picture]:
        """From the start, in order; without times to the very end, since one frame less would shift them all."""
        rest, expected, shown = list(wanted), 0, None
        timed = self._index.times is not None
        for number, frame in self._decode(opened):
            self.lost |= set(range(expected, number))
            while rest and rest[0] < number:
                yield rest.pop(0), shown or frame
            if rest and rest[0] == number:
                yield rest.pop(0), frame
            shown, expected = frame, number + 1
            if timed and not rest:
                return
        self.lost |= set(range(expected, self._index.total))
        if shown is not None:
            yield from ((number, shown) for number in rest)

    def _decode(self, opened: Opened) -> Iterator[Picture]:
        """Undamaged frames in the order shown, each with its number; damaged ones are passed over."""
        number = -1
        for frame in _decode_packets(opened):
            self._refuse_other_size(frame)
            found = number + 1 if self._index.times is None else self._find(frame.pts)
            if number < found < self._index.total:
                number = found
                if not frame.is_corrupt:
                    yield number, frame

    def _find(self, time: int | None) -> int:
        """The number of the frame shown at `time`, in ticks; -1 if there is none."""
        times = self._index.times
        if time is None or times is None:
            return -1
        place = int(times.searchsorted(time))
        return place if place < len(times) and times[place] == time else -1

    def _refuse_other_size(self, frame: Frame) -> None:
        size = frame.height, frame.width
        if self._size is None:
            self._size = size
        if size != self._size:
            raise VideoError(f"it changes its size on the way ({[self._size, size]}); cut it into videos of one size")


def _decode_packets(opened: Opened) -> Iterator[Frame]:
    container, stream = opened
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except DAMAGE:
            packet = None
        try:
            yield from stream.codec_context.decode(packet) if packet is None else packet.decode()
        except MemoryError:
            raise
        except DAMAGE:
            pass
        if packet is None or not packet.size:
            return


def _plan_runs(index: VideoIndex, wanted: Sequence[int]) -> list[_Run]:
    keys = index.keys.tolist()
    runs: list[_Run] = []
    for number in wanted:
        place = bisect_right(keys, number)
        key = keys[place - 1] if place else 0
        if runs and key <= runs[-1].last + _WORTH:
            runs[-1].last = number
        else:
            runs.append(_Run(key if key > _WORTH else 0, number))
    return runs
