"""What do the tests of streams run on: sources that are scripts, a clock that is told the time, a small RTSP server?"""

import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vjepa2.errors import VideoError
from vjepa2.runtime.picking import Picker, parse_live_sampling
from vjepa2.runtime.stream_feed import Clock
from vjepa2.runtime.stream_messages import LiveFrame
from vjepa2.runtime.stream_source import AtEnd


class FakeClock(Clock):
    """A clock that stands still until it is told otherwise; a pause is over at once."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.pauses_s: list[float] = []

    def now_s(self) -> float:
        return self.time_s

    def pause(self, seconds: float, stop: threading.Event) -> None:
        self.pauses_s.append(seconds)
        self.time_s += seconds


def film(
    times_s: Sequence[float], *, number: int = 0, sampling: str = "fps:4", late_s: float = 0.0, max_gap_s: float = 2.0
) -> list[LiveFrame]:
    """Frames with these time stamps as a worker tells of them; the first pixel of each is its number, from `number` on.

    They arrive at their time stamps, or `late_s` later.
    """
    picker, frames = Picker(parse_live_sampling(sampling), max_gap_s), []
    for index, time_s in enumerate(times_s):
        pick = picker.pick(time_s)
        pixels = np.full((2, 2, 3), (number + index) % 256, np.uint8)
        frames.append(
            LiveFrame(
                time_s=time_s,
                arrived_s=time_s + late_s,
                samples=pick.samples,
                jump_s=pick.jump_s,
                size=(2, 2),
                pixels_HWC=pixels if pick.samples else None,
            )
        )
    return frames


class ScriptedSource:
    """Plays session after session; an error in one is raised there. After the last it waits until it is closed."""

    name = "a script"

    def __init__(
        self, sessions: Sequence[Sequence[LiveFrame | VideoError]], at_end: AtEnd, clock: FakeClock | None = None
    ) -> None:
        self.at_end: AtEnd = at_end
        self._sessions, self._clock = list(sessions), clock
        self._closed = threading.Event()
        self.exhausted = threading.Event()

    def connect(self) -> Iterator[LiveFrame]:
        if not self._sessions:
            self.exhausted.set()
            assert self._closed.wait(30), "nobody closed the source"
            raise VideoError("it was closed")
        for event in self._sessions.pop(0):
            if isinstance(event, VideoError):
                raise event
            if self._clock:
                self._clock.time_s = max(self._clock.time_s, event.arrived_s)
            yield event

    def close(self) -> None:
        self._closed.set()


class HandFedSource:
    """Gives what it is fed, and lets the one who feeds it wait until all of it was looked at."""

    name = "a hand"

    def __init__(self, clock: FakeClock) -> None:
        self.at_end: AtEnd = "finish"
        self._frames: queue.Queue[LiveFrame | None] = queue.Queue()
        self._clock = clock

    def connect(self) -> Iterator[LiveFrame]:
        while (frame := self._frames.get()) is not None:
            yield frame
            self._frames.task_done()

    def feed(self, frames: Sequence[LiveFrame]) -> None:
        """Until the stream has taken them all; then it is as late as the last of them."""
        for frame in frames:
            self._frames.put(frame)
        self._frames.join()
        self._clock.time_s = max(self._clock.time_s, frames[-1].arrived_s)

    def close(self) -> None:
        self._frames.put(None)


class RtspServer:
    """Serves a transport stream to one client after another, over the connection that it came by; then hangs up."""

    def __init__(self, file: Path) -> None:
        self._stream = file.read_bytes()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://someone:secret@127.0.0.1:{self._listener.getsockname()[1]}/stream"
        self.clients = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.clients += 1
            with client, client.makefile("rwb") as stream:
                self._answer(stream)  # type: ignore[arg-type]

    def _answer(self, file: BinaryIO) -> None:
        while line := file.readline().decode().split():
            words = {}
            while (header := file.readline().decode().strip()) != "":
                name, _, value = header.partition(":")
                words[name.lower()] = value.strip()
            body = "v=0\r\ns=test\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n" if line[0] == "DESCRIBE" else ""
            more = {
                "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n",
                "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
                "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n",
            }.get(line[0], "Session: 1\r\n")
            file.write(f"RTSP/1.0 200 OK\r\nCSeq: {words['cseq']}\r\n{more}\r\n{body}".encode())
            file.flush()
            if line[0] == "PLAY":
                self._play(file.write)
                file.flush()
                return

    def _play(self, write: Callable[[bytes], object]) -> None:
        """RTP packets of seven packets of the transport stream each, behind the four bytes that interleaving wants."""
        for number, start in enumerate(range(0, len(self._stream), 7 * 188)):
            head = b"\x80\x21" + number.to_bytes(2, "big") + (90 * number).to_bytes(4, "big") + b"\0\0\0\1"
            packet = head + self._stream[start : start + 7 * 188]
            write(b"$\0" + len(packet).to_bytes(2, "big") + packet)
