"""One module per inference library, and the only place that imports it."""

import logging
from collections.abc import Sequence

from vjepa2.bundle import Bundle
from vjepa2.errors import MissingDependencyError

from .base import Backend, Outputs, RunOptions
from .choice import BACKENDS, choose_backend, find_missing, load_class
from .placement import Executed

__all__ = ["BACKENDS", "Backend", "Outputs", "RunOptions", "find_missing", "open_backend"]

_log = logging.getLogger("vjepa2")


def open_backend(
    bundle: Bundle,
    name: str = "auto",
    *,
    device: str | None = None,
    precision: Executed | None = None,
    allow: Sequence[str] = (),
    threads: int | None = None,
    cuda_graph: bool = False,
) -> Backend:
    """Load a bundle into the library called `name`, or into the first that `auto` finds usable on this machine.

    `device` is "cpu", "cuda", "cuda:1", "gpu"; `precision` what a float32 bundle is to be computed in. What cannot be
    had so, or falls to another device or precision that `allow` does not name, is a `BackendError`. Of the CPU it
    takes `threads`, or as many as the library likes. With `cuda_graph` what an engine is given from its second call on
    is launched as one graph, which saves a GPU that waits for its host some time; only tensorrt has that.
    """
    reason = Backend.reason
    if name == "auto":
        choice = choose_backend(bundle, device)
        name, device, reason = choice.name, choice.device, choice.reason
    missing = find_missing(name, device, bundle)
    if missing:
        raise MissingDependencyError(missing)
    options = RunOptions(device=device, precision=precision, allow=tuple(allow), threads=threads, cuda_graph=cuda_graph)
    backend = load_class(name)(bundle, options)
    backend.reason = reason
    _log.info("%s on %s in %s: %s", backend.name, backend.device, backend.precision, reason)
    return backend
