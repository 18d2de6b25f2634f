"""Why did TensorRT fail: the last lines that it wrote, and what is known about them."""

from vjepa2.runtime.backends.trt_log import LOGGER, LogTail

from .tensorrt_notes import advise

__all__ = ["LOGGER", "BuildLog"]

_SHOWN_LINES = 8


class BuildLog(LogTail):
    """The last lines that TensorRT wrote since one attempt began."""

    def explain(self, what: str) -> str:
        """`what` went wrong, the lines that say why (errors if there are any), and what to do if that is known."""
        lines = self.lines()
        errors = [text for severity, text in lines if severity.endswith("ERROR")]
        shown = (errors or [text for _, text in lines])[-_SHOWN_LINES:]
        why = f": {' | '.join(shown)}" if shown else ", and TensorRT wrote no reason"
        advice = advise(f"{what} {' '.join(shown)}")
        return f"{what}{why}{f'; {advice}' if advice else ''}"
