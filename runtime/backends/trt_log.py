"""What did TensorRT write, and what of it since when?

TensorRT takes the first logger of a process, for its builders and its runtimes alike, ignores every later one, and
may call it as long as the process lives. So there is one, which is never freed.
"""

from collections import deque
from itertools import count
from typing import Any

import tensorrt as trt

_KEPT_LINES = 400
_SHOWN_LINES = 20
_TOLD = ("INTERNAL_ERROR", "ERROR", "WARNING")

Line = tuple[str, str]  # severity by name, text


class ProcessLog(trt.ILogger):  # type: ignore[misc]
    """The last lines that TensorRT wrote in this process."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._numbers = count()
        self._lines: deque[tuple[int, Line]] = deque(maxlen=_KEPT_LINES)

    def log(self, severity: Any, msg: str) -> None:
        """Keep a line; called by TensorRT, from any thread."""
        if severity.name != "VERBOSE":
            self._lines.append((next(self._numbers), (severity.name, msg.strip())))

    def mark(self) -> int:
        """The number of the next line."""
        return next(self._numbers) + 1

    def since(self, mark: int) -> list[Line]:
        """The lines from a mark on, as far as they are still kept."""
        return [line for number, line in tuple(self._lines) if number >= mark]


LOGGER = ProcessLog()


class LogTail:
    """What TensorRT wrote since this was made or last renewed, in whatever thread."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Forget what was written until now."""
        self._mark = LOGGER.mark()

    def lines(self) -> list[Line]:
        """The lines, with their severities."""
        return LOGGER.since(self._mark)

    def tail(self) -> str:
        """The last warnings and errors as the end of a sentence."""
        told = [text for severity, text in self.lines() if severity in _TOLD]
        return "; ".join(told[-_SHOWN_LINES:]) or "TensorRT said nothing"
