"""How does ONNX Runtime compute on inputs that already lie on a GPU, and leave its results there?"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from vjepa2.spec import OutputName

from .held import HeldClips, Results


class HeldBinding(HeldClips):
    """Inputs copied to a device and bound; it tells no events, so the host's clock around `compute` is the measure."""

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: Mapping[str, npt.NDArray[np.generic]],
        outputs: Sequence[OutputName],
        device: str,
    ) -> None:
        kind, _, number = device.partition(":")
        place = (kind, int(number or 0))
        self._session, self._outputs = session, tuple(outputs)
        self._binding = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, *place))
        for name in outputs:
            self._binding.bind_output(name, *place)

    def compute(self, calls: int = 1) -> None:
        """See `HeldClips.compute`."""
        for _ in range(calls):
            self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def fetch(self) -> Results:
        """See `HeldClips.fetch`."""
        return dict(zip(self._outputs, self._binding.copy_outputs_to_cpu(), strict=True))
