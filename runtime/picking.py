"""Which frames of a live stream make its clips, told as they come, and where is the stream broken?"""

from dataclasses import dataclass

from vjepa2.errors import VideoError

from .sampling import Sampling, parse_sampling

_SLACK_S = 1e-3  # to which containers round their time stamps


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """What is made of one frame."""

    samples: int  # of a clip that it stands for; 0 if it is passed over, more than 1 if the stream is slower
    jump_s: float | None = None  # its time stamp does not follow the one before, it is this far from it


def parse_live_sampling(text: str) -> Sampling:
    """Read `fps:4` or `stride:2`; a `VideoError` for what needs the whole video."""
    sampling = parse_sampling(text)
    if sampling.name not in ("fps", "stride"):
        raise VideoError(f"sampling is {text!r}; a stream, whose end nobody knows, is sampled by fps:N or stride:N")
    return sampling


class Picker:
    """Takes the first frame from each 1/N s on (`fps:N`, by time stamps) or every Nth that comes (`stride:N`).

    A time stamp that goes back, stands still or jumps by more than `max_gap_s` breaks the stream: counting begins anew.
    """

    def __init__(self, sampling: Sampling, max_gap_s: float) -> None:
        assert sampling.number is not None
        self._by_time, self._number, self._max_gap_s = sampling.name == "fps", sampling.number, max_gap_s
        self._first_s = self._last_s = 0.0
        self._taken = self._seen = 0  # since the break before

    def pick(self, time_s: float) -> Pick:
        """Judge the next frame."""
        jump_s = None
        if self._seen and not 0 < time_s - self._last_s <= self._max_gap_s:
            jump_s = time_s - self._last_s
            self._taken = self._seen = 0
        if not self._seen:
            self._first_s = time_s
        due = self._count_due(time_s)
        samples, self._taken = due - self._taken, due
        self._last_s = time_s
        self._seen += 1
        return Pick(samples=samples, jump_s=jump_s)

    def _count_due(self, time_s: float) -> int:
        """How many samples there must be up to now."""
        if self._by_time:
            return int((time_s - self._first_s + _SLACK_S) * self._number) + 1
        return self._seen // int(self._number) + 1
