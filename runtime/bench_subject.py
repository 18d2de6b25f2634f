"""How is one row opened, proved and timed, in whatever process it lives?"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from vjepa2.bundle import Bundle
from vjepa2.manifest import hash_manifest
from vjepa2.spec import OutputName

from .backends import Backend, Outputs, open_backend
from .backends.base import FramesArray, InputArray
from .backends.choice import load_class
from .bench_queries import choose_output, make_queries, read_from_file
from .bench_row import ColdStart, Finished, Opened, RowRequest
from .clip_reader import ClipReader
from .decode_messages import ClipRequest
from .gates import Gate
from .machine_state import read_gpu_memory
from .parity import Reference, find_faults, prove_stored
from .query_timer import QueryTimer, Turn
from .roofline import measure_rates


class LocalSubject:
    """A row in this process."""

    session = None

    def __init__(
        self,
        request: RowRequest,
        *,
        process_ms: float = 0.0,
        started_s: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._request, self._clock, self._process_ms = request, clock, process_ms
        self._started_s = clock() if started_s is None else started_s
        self._backend: Backend | None = None
        self._reader: ClipReader | None = None
        self._timer: QueryTimer | None = None
        self._imported_bytes = 0

    def open(self) -> Opened:
        """See `Subject.open`."""
        request, clock = self._request, self._clock
        self._load_library()
        self._imported_bytes = _peak_bytes()
        imported_s = clock()
        bundle = Bundle.open(request.bundle)
        verified_s = clock()
        backend = self._backend = self._open_backend(bundle)
        opened_s = clock()
        watched, reference = _Watched(backend, clock), Reference.load(bundle)
        verdict, gate = prove_stored(reference, cast(Backend, watched))
        calls, clips = self._prepare(reference, gate)
        return Opened(
            bundle_sha256=hash_manifest(bundle.manifest),
            device=backend.device,
            precision=backend.precision,
            reason=backend.reason,
            clips=clips,
            calls=calls,
            threads=_count_threads(),
            cold=ColdStart(
                process_ms=self._process_ms,
                import_ms=1e3 * (imported_s - self._started_s),
                verify_ms=1e3 * (verified_s - imported_s),
                build_ms=backend.build_ms,
                open_ms=1e3 * (opened_s - verified_s) - backend.build_ms,
                first_clip_ms=watched.times_ms[0],
            ),
            verdict=verdict,
            faults=tuple(find_faults(verdict, gate)),
            earlier_ms=tuple(watched.times_ms) if calls == 1 else (),
        )

    def turn(self, calls: int) -> Turn:
        """See `Subject.turn`."""
        assert self._timer is not None
        return self._timer.run(calls)

    def finish(self) -> Finished:
        """See `Subject.finish`: memory first, for rates are measured with matrices of their own."""
        assert self._backend is not None
        peak_bytes, device_bytes = _peak_bytes(), _device_bytes(self._backend)
        rates = measure_rates(self._backend.device, self._backend.precision)
        return Finished(
            imported_bytes=self._imported_bytes, peak_bytes=peak_bytes, device_bytes=device_bytes, rates=rates
        )

    def close(self) -> None:
        """See `Subject.close`."""
        if self._reader is not None:
            self._reader.close()
        if self._backend is not None:
            self._backend.close()

    def _load_library(self) -> None:
        load_class(self._request.backend)

    def _open_backend(self, bundle: Bundle) -> Backend:
        request = self._request
        return open_backend(bundle, request.backend, device=request.device, precision=request.precision)

    def _prepare(self, reference: Reference, gate: Gate) -> tuple[int, int]:
        """Make the queries; gives calls and clips of one."""
        assert self._backend is not None
        manifest = self._backend.bundle.manifest
        step = self._backend.count_clips_a_call(self._request.clips)
        calls = -(-self._request.clips // step)
        clips = calls * step
        output = choose_output(manifest)
        queries = make_queries(reference, output, clips)
        if self._request.video is not None:
            self._reader = ClipReader(ClipRequest.of(manifest))
            queries = read_from_file(queries, Path(self._request.video), self._reader)
        self._timer = QueryTimer(
            self._backend,
            queries,
            output=output,
            least_cosine=gate.embedding,
            clips_a_call=step,
            clock=self._clock,
        )
        return calls, clips


class _Watched:
    """A backend for `prove_stored`, each of whose runs is timed: they are the first, and warm it up."""

    def __init__(self, backend: Backend, clock: Callable[[], float]) -> None:
        self._backend, self._clock = backend, clock
        self.name, self.bundle = backend.name, backend.bundle
        self.times_ms: list[float] = []

    @property
    def precision(self) -> str:
        """See `Backend.precision`: of some it is known from the first run on."""
        return self._backend.precision

    def run(
        self, frames_BTHWC: FramesArray, outputs: Sequence[OutputName], inputs: Mapping[str, InputArray] | None = None
    ) -> Outputs:
        """See `Backend.run`."""
        start_s = self._clock()
        results = self._backend.run(frames_BTHWC, outputs, inputs)
        self.times_ms.append(1e3 * (self._clock() - start_s))
        return results


def _peak_bytes() -> int:
    """Not getrusage's: a new process begins there with the peak of the one that started it."""
    return 1024 * _read_status("VmHWM")


def _device_bytes(backend: Backend) -> int | None:
    return None if backend.device == "cpu" else read_gpu_memory(os.getpid())


def _count_threads() -> int:
    return _read_status("Threads")


def _read_status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
