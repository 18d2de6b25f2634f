"""What can go wrong in a way that the person at the keyboard can put right."""

from typing import ClassVar


class Vjepa2Error(Exception):
    """Something a user can act on; the command line prints its one line and no traceback."""

    exit_code: ClassVar[int] = 2  # could not do it


class SpecError(Vjepa2Error, ValueError):
    """A model or a clip whose numbers do not fit together."""


class UnknownNameError(Vjepa2Error):
    """A name that no table holds."""


class CheckpointError(Vjepa2Error):
    """Weights that are not there, not whole, or not those of the model."""


class BundleError(Vjepa2Error):
    """A bundle that is not whole, not ours, or cannot be written."""


class EngineError(BundleError):
    """An engine that is not whole, not of its bundle, or not for this machine."""


class ExportError(Vjepa2Error):
    """A graph that could not be made as it must be."""


class LintError(Vjepa2Error):
    """A graph that a target's importer would refuse, or would not compute as it should."""

    exit_code: ClassVar[int] = 1  # looked at, and not good


class CompileError(Vjepa2Error):
    """An engine that cannot be built here, or not as asked."""


class VideoError(Vjepa2Error):
    """A video that cannot be read, or has too few frames."""


class ImageError(Vjepa2Error):
    """An image that cannot be read, or a folder of them that cannot be learnt from."""


class FinetuneError(Vjepa2Error):
    """A training run that cannot be started, or taken up again, as asked."""


class CorpusError(Vjepa2Error):
    """A plan or an output folder that does not fit, or shards that cannot be written."""


class BackendError(Vjepa2Error):
    """A backend that cannot run here, or was given the wrong frames."""


class MissingDependencyError(BackendError):
    """A library that is not installed; the message names the extra that brings it."""


class BusyError(BackendError):
    """More clips wait than may; try again later."""


class DeadlineError(BackendError):
    """A request that was not begun in time."""


class ParityError(Vjepa2Error):
    """Numbers outside the gate."""

    exit_code: ClassVar[int] = 1  # measured, and not good
