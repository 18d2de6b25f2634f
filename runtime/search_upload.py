"""How does a video that was dropped on the page become vectors to search by, leaving nothing behind?"""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vjepa2.bundle import Bundle
from vjepa2.errors import BusyError, CorpusError, VideoError
from vjepa2.manifest import hash_manifest

from .backends.base import FloatArray
from .corpus_messages import RunFacts
from .corpus_plan import ClipPolicy
from .embedding import EmbeddingEngine
from .search_index import to_unit

UPLOAD_BYTES = 512 << 20  # of a video
UPLOAD_CLIPS = 64  # of it that are embedded, from its start
_KEPT = 16  # uploads that can still be searched by


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedClip:
    """A vector of length 1, and which part of the upload it is of."""

    start_s: float
    end_s: float
    unit_D: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What is kept of a video: no frame of it."""

    key: str
    clips: tuple[UploadedClip, ...]
    total: int  # clips that the video has


class Uploads:
    """Embeds videos, one at a time, as those of a corpus were, and remembers the last ones. It owns its engine."""

    def __init__(self, engine: EmbeddingEngine, policy: ClipPolicy) -> None:
        self._engine, self._policy = engine, policy
        self._turn = threading.Lock()
        self._known: OrderedDict[str, Upload] = OrderedDict()

    def embed(self, file: BinaryIO) -> Upload:
        """Embed a file that need not have a name; a `VideoError` that says what is wrong with it."""
        if not self._turn.acquire(blocking=False):
            raise BusyError("another video is being embedded; drop this one again when that is done")
        try:
            upload = self._read(Path(f"/proc/self/fd/{file.fileno()}"))
        finally:
            self._turn.release()
        self._known[upload.key] = upload
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return upload

    def find(self, key: str) -> Upload | None:
        """What `embed` gave, unless it is long ago."""
        return self._known.get(key)

    def close(self) -> None:
        """Free the model."""
        self._engine.close()

    def _read(self, path: Path) -> Upload:
        reading = self._engine.clips.open(path, self._policy.sampling, self._policy.pad)
        clips: list[UploadedClip] = []
        total = 0
        for clip in reading:
            total = clip.clips
            unit_1D = to_unit(self._engine.encode(clip)[None], "the upload")
            assert clip.start_s is not None
            assert clip.end_s is not None
            clips.append(UploadedClip(start_s=clip.start_s, end_s=clip.end_s, unit_D=unit_1D[0]))
            if len(clips) == UPLOAD_CLIPS < total:
                break  # it has no report, and what was read of it is whole
        if reading.report is not None and reading.report.status != "ok":
            report = reading.report
            raise VideoError(f"it cannot be searched by: {report if report.status == 'partial' else report.reason}")
        return Upload(key=secrets.token_hex(8), clips=tuple(clips), total=total)


def open_uploads(bundle: Path, run: RunFacts, policy: ClipPolicy, backend: str | None) -> Uploads:
    """Load the bundle that a corpus was embedded with, in its backend or another; any other is a `CorpusError`."""
    found = hash_manifest(Bundle.open(bundle).manifest)
    if found != run.bundle:
        raise CorpusError(
            f"the corpus was embedded with bundle {run.bundle:.12}, and {bundle} is {found:.12}; their vectors have "
            "nothing in common: give the bundle that the corpus was made with, or none"
        )
    engine = EmbeddingEngine.open(bundle, backend or run.backend, precision=run.precision)
    return Uploads(engine, policy)
