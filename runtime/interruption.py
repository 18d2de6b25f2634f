"""What ends a long measurement early: Ctrl-C, and SIGTERM, which services, schedulers and `timeout` send."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def end_at_sigterm() -> Iterator[None]:
    """Let SIGTERM be the `KeyboardInterrupt` that Ctrl-C is; in the main thread, as the command line is."""
    before = signal.getsignal(signal.SIGTERM)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
