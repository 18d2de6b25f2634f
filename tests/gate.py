"""A backend that computes when it is let, and remembers what it was called with."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from vjepa2.bundle import Bundle
from vjepa2.runtime.backends.base import Backend, FloatArray, FramesArray, InputArray
from vjepa2.spec import OutputName

PATIENCE_S = 60.0  # no test waits so long unless it hangs


class GateBackend(Backend):
    """A row is full of its clip's first value; nothing is computed while the gate is shut."""

    name: ClassVar[str] = "gate"

    def __init__(self, bundle: Path) -> None:
        super().__init__(Bundle.open(bundle))
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)  # once for each call
        self.calls: list[list[int]] = []  # the first values of the clips of each
        self.error: Exception | None = None

    def await_call(self) -> None:
        """Return when a call, the next one, has begun."""
        assert self.begun.acquire(timeout=PATIENCE_S)

    def clip(self, value: int, count: int = 1) -> FramesArray:
        """Clips `[count, T, H, W, 3]` of one value."""
        return np.full((count, *self.bundle.manifest.frames_shape), value, np.uint8)

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        values_B = frames_BTHWC[:, 0, 0, 0, 0]
        self.calls.append(values_B.tolist())
        self.begun.release()
        assert self.gate.wait(PATIENCE_S)
        if self.error:
            raise self.error
        shapes = {info.name: [int(size) for size in info.shape[1:]] for info in self.bundle.manifest.outputs}
        return {name: np.stack([np.full(shapes[name], value, np.float32) for value in values_B]) for name in outputs}

    def _release(self) -> None:
        self.gate.set()
