"""Why did TensorRT fail: the last lines that it wrote, and what is known about them."""

from collections import deque
from typing import Any

import tensorrt as trt

from .tensorrt_notes import advise

_LOG_LINES = 200  # kept
_SHOWN_LINES = 8


class BuildLog(trt.ILogger):  # type: ignore[misc]
    """The last lines that TensorRT wrote."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._lines: deque[tuple[str, str]] = deque(maxlen=_LOG_LINES)

    def log(self, severity: Any, msg: str) -> None:
        """Keep a line; called by TensorRT, from any thread."""
        if severity.name != "VERBOSE":
            self._lines.append((severity.name, msg))

    def explain(self, what: str) -> str:
        """`what` went wrong, the lines that say why (errors if there are any), and what to do if that is known."""
        lines = list(self._lines)
        errors = [text for severity, text in lines if severity.endswith("ERROR")]
        shown = (errors or [text for _, text in lines])[-_SHOWN_LINES:]
        why = f": {' | '.join(shown)}" if shown else ", and TensorRT wrote no reason"
        advice = advise(f"{what} {' '.join(shown)}")
        return f"{what}{why}{f'; {advice}' if advice else ''}"
