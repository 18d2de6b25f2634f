"""How is a worker process started, spoken to within a deadline, and certainly ended?"""

import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np

from vjepa2.errors import MissingDependencyError, VideoError

from .decode_messages import (
    MESSAGE_BYTES,
    ClipDone,
    ClipRequest,
    DecodeLimits,
    Finished,
    Free,
    Job,
    Ready,
    SampledClip,
    decode_message,
    encode_message,
)
from .stream_messages import Ended, FollowJob, FrameSeen, LiveFrame

_SCRIPT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from vjepa2.runtime.decode_worker import run_worker
run_worker(int(sys.argv[2]), int(sys.argv[3]))
"""
_START_S = 60.0
_LAST_WORDS_S = 5.0  # from closing its channel to its end
# a worker's own threads are as many as its limits say; BLAS and malloc would each make more, and reserve for them
# Of the app's environment a worker gets where libraries lie, and none of its secrets.
_LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_QUIET = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class DecodeProcess:
    """One worker. Not for two threads at once, but for `kill`."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = replace(limits, deadline_s=float(limits.deadline_s))  # messages are read strictly
        self._memory: tuple[int, mmap.mmap] | None = None
        self._ended = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = _start(theirs.fileno(), lifeline)
        finally:
            theirs.close()
            os.close(lifeline)
        try:
            ready = self._receive(Ready, within_s=_START_S)
        except VideoError:
            self.close()
            raise
        assert isinstance(ready, Ready)
        if ready.missing:
            self.close()
            raise MissingDependencyError(ready.missing)

    def run(self, file: int, request: ClipRequest) -> Iterator[SampledClip | Finished]:
        """Set the worker to an open video, at once; each clip of it, then how it went. It works two clips ahead.

        A `VideoError` if the worker was too slow, spoke nonsense or died; it is then good for nothing but `close`.
        """
        slots = 2
        memory, shared = self._share(slots * request.clip_bytes)
        job = Job(request=request, limits=self._limits, slots=slots)
        try:
            socket.send_fds(self._channel, [encode_message(job)], [file, memory])
        except OSError as error:
            raise self._explain_death() from error
        return self._take_clips(shared, request, slots)

    def follow(self, job: FollowJob, files: Sequence[int] = ()) -> Iterator[LiveFrame | Ended]:
        """Each frame of a live source, then how it ended; a `VideoError` as `run` has it, also for a silent source."""
        memory, shared = self._share(job.slots * job.frame_bytes)
        try:
            socket.send_fds(self._channel, [encode_message(job)], [memory, *files])
        except OSError as error:
            raise self._explain_death() from error
        while True:
            message = self._receive(FrameSeen, Ended, within_s=job.limits.deadline_s)
            if isinstance(message, Ended):
                yield message
                return
            yield self._take_frame(message, job, shared)

    def _take_frame(self, seen: FrameSeen, job: FollowJob, shared: mmap.mmap) -> LiveFrame:
        if not (
            seen.samples >= 0
            and (seen.slot is None) == (seen.samples == 0)
            and (seen.slot is None or 0 <= seen.slot < job.slots)
            and all(isfinite(number) for number in (seen.time_s, seen.arrived_s, seen.jump_s or 0.0))
            and seen.arrived_s <= time.monotonic()
        ):
            raise VideoError(f"its decoder spoke out of turn ({seen})")
        pixels_HWC = None
        if seen.slot is not None:
            start = seen.slot * job.frame_bytes
            pixels = np.frombuffer(shared, np.uint8, job.frame_bytes, start).copy()
            pixels_HWC = pixels.reshape(job.height, job.width, 3)
            self._send(Free(seen.slot))
        return LiveFrame(
            time_s=seen.time_s,
            arrived_s=seen.arrived_s,
            samples=seen.samples,
            jump_s=seen.jump_s,
            size=(seen.height, seen.width),
            pixels_HWC=pixels_HWC,
        )

    def is_running(self) -> bool:
        """Whether the worker was alive a moment ago."""
        with self._ended:
            return self._process.poll() is None

    def kill(self) -> None:
        """End the worker at once; from any thread. Whoever waits for it learns that it died."""
        with self._ended:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the worker and free what it held. Safe to call twice."""
        self.kill()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._channel.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self._unshare()

    def _take_clips(self, shared: mmap.mmap, request: ClipRequest, slots: int) -> Iterator[SampledClip | Finished]:
        while True:
            message = self._receive(ClipDone, Finished, within_s=self._limits.deadline_s)
            if isinstance(message, Finished):
                yield message
                return
            assert isinstance(message, ClipDone)
            if not 0 <= message.slot < slots:
                raise VideoError(f"its decoder spoke out of turn (slot {message.slot} of {slots})")
            start = message.slot * request.clip_bytes
            clip = np.frombuffer(shared, np.uint8, request.clip_bytes, start).copy()
            self._send(Free(message.slot))
            yield SampledClip(
                views_VTHWC=clip.reshape(request.clip_shape),
                number=message.number,
                clips=message.clips,
                start_s=message.start_s,
                end_s=message.end_s,
            )

    def _share(self, size: int) -> tuple[int, mmap.mmap]:
        """Memory without a name, that nobody can shrink beneath us; kept for as long as its size is right."""
        if self._memory and len(self._memory[1]) == size:
            return self._memory
        self._unshare()
        memory = os.memfd_create("clips", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, size)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._memory = memory, mmap.mmap(memory, size)
        return self._memory

    def _unshare(self) -> None:
        if self._memory:
            self._memory[1].close()
            os.close(self._memory[0])
            self._memory = None

    def _send(self, message: Free) -> None:
        try:
            self._channel.send(encode_message(message))
        except OSError as error:
            raise self._explain_death() from error

    def _receive(self, *kinds: type[Any], within_s: float) -> Any:
        try:
            self._channel.settimeout(within_s)
            data = self._channel.recv(MESSAGE_BYTES)
        except TimeoutError as error:
            raise VideoError(f"its decoder took longer than {within_s:g} s and was ended") from error
        except OSError as error:
            raise self._explain_death() from error
        if not data:
            raise self._explain_death()
        return decode_message(data, *kinds)

    def _explain_death(self) -> VideoError:
        with self._ended:
            try:
                code = self._process.wait(_LAST_WORDS_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait()
        if code < 0:
            used_up = f"; it used more than {self._limits.cpu_s} s of CPU" if -code == signal.SIGXCPU else ""
            return VideoError(f"its decoder was killed by {signal.Signals(-code).name}{used_up}")
        assert self._process.stderr is not None
        words = (self._process.stderr.read(MESSAGE_BYTES) or b"").decode(errors="replace").strip().splitlines()
        return VideoError(f"its decoder ended with exit status {code}: {words[-1] if words else 'it said nothing'}")


def _start(channel: int, lifeline: int) -> subprocess.Popen[bytes]:
    """An interpreter that gets our modules and nothing else of ours: no environment, descriptors or terminal."""
    paths = json.dumps([path or os.getcwd() for path in sys.path])  # noqa: PTH109
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _SCRIPT, paths, str(channel), str(lifeline)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(channel, lifeline),
        env={name: os.environ[name] for name in _LIBRARIES if name in os.environ} | _QUIET,
        start_new_session=True,
        bufsize=0,
    )
