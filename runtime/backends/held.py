"""What is left to time when clips already lie where a device reads them: computing."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vjepa2.spec import OutputName

Results = dict[OutputName, npt.NDArray[np.float32]]


class HeldClips(ABC):
    """The clips of one call on one backend, which can be computed on again and again."""

    is_whole: bool = False  # whether holding, computing and fetching are together what `Backend.run` does

    @abstractmethod
    def compute(self, calls: int = 1) -> tuple[float, ...] | None:
        """Compute `calls` times and return once that is done.

        Gives each call's milliseconds between the device's own events, or None if there are none and the host's clock
        around this call is the measure.
        """

    @abstractmethod
    def fetch(self) -> Results:
        """The results of the last computation, in host memory."""


class HeldCall(HeldClips):
    """A function of the host that returns when the results are there."""

    is_whole = True

    def __init__(self, call: Callable[[], Results]) -> None:
        self._call, self._results = call, Results()

    def compute(self, calls: int = 1) -> None:
        """See `HeldClips.compute`."""
        for _ in range(calls):
            self._results = self._call()

    def fetch(self) -> Results:
        """See `HeldClips.fetch`."""
        return self._results
