"""How is a PyTorch module timed on the tensors that it was given: by the host's clock on a CPU, by events on a GPU?"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from vjepa2.spec import OutputName

from .held import HeldClips, Results


class HeldTensors(HeldClips):
    """Clips that lie on a device as tensors, and the function that computes on them."""

    def __init__(
        self, call: Callable[[], Mapping[OutputName, Tensor]], device: str, outputs: Sequence[OutputName]
    ) -> None:
        self._call, self._device, self._outputs = call, torch.device(device), tuple(outputs)
        self.is_whole = self._device.type == "cpu"
        self._results: Mapping[OutputName, Tensor] = {}

    def compute(self, calls: int = 1) -> tuple[float, ...] | None:
        """See `HeldClips.compute`."""
        if self._device.type != "cuda":
            for _ in range(calls):
                self._results = self._call()
            return None
        with torch.cuda.device(self._device):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]  # type: ignore[no-untyped-call]
            events[0].record()
            for event in events[1:]:
                self._results = self._call()
                event.record()
            torch.cuda.synchronize()
        return tuple(start.elapsed_time(end) for start, end in pairwise(events))

    def fetch(self) -> Results:
        """See `HeldClips.fetch`."""
        return {name: self._results[name].float().cpu().numpy() for name in self._outputs}
