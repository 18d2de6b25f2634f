"""How is a shard made: from its videos to a file that is committed once?"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np

from vjepa2.bundle import MANIFEST, Bundle
from vjepa2.errors import CorpusError
from vjepa2.manifest import hash_manifest

from .backends import open_backend
from .backends.placement import Executed
from .corpus_messages import CorpusJob, RunFacts, ShardDone, ShardFooter, ShardTask
from .corpus_output import check_footer, claim_run, find_footer, name_shard
from .corpus_points import pass_point
from .corpus_rows import RowMaker, embed_clips
from .corpus_store import open_store
from .corpus_table import build_table, encode_shard, hash_rows
from .decode_messages import ClipRequest
from .decoder import VideoDecoder


class ShardMaker:
    """A bundle, opened once, and what makes shards with it. It owns the model and a decoder."""

    def __init__(self, job: CorpusJob) -> None:
        self._job, self._store = job, open_store(job.output)
        self._stamps = _stamp_files(Path(job.bundle))
        bundle = Bundle.open(job.bundle)
        if (found := hash_manifest(bundle.manifest)) != job.bundle_sha256:
            raise CorpusError(f"{job.bundle} was changed during the run: it is {found}, and was {job.bundle_sha256}")
        self._backend = open_backend(
            bundle, job.backend, device=job.device, precision=job.precision, allow=job.allow, threads=job.threads
        )
        self._decoder = VideoDecoder()
        pass_point("bundle_opened")
        blank_BTHWC = np.zeros((1, *bundle.manifest.frames_shape), np.uint8)
        dim = embed_clips(self._backend, blank_BTHWC).shape[1]  # only a backend that has run knows its precision
        self.run = RunFacts(
            plan=job.plan,
            bundle=job.bundle_sha256,
            model=bundle.manifest.model.name,
            backend=self._backend.name,
            precision=cast(Executed, self._backend.precision),
            device=self._backend.device.partition(":")[0],
            threads=job.threads,
            batch_size=job.batch_size,
            dim=dim,
        )
        build_table((), self.run)  # the first table of a process is slow: pyarrow looks for pandas
        claim_run(self._store, self.run)
        pass_point("run_claimed")
        request = ClipRequest.of(bundle.manifest, sampling=job.sampling, pad=job.pad)
        self._rows = RowMaker(self._backend, self._decoder, request, job.batch_size)

    def make(self, task: ShardTask, note: Callable[[int], None] = lambda number: None) -> ShardDone:
        """Make a shard unless it is there; `note` is told the number of each video as it is taken up, and then -1."""
        held, won = find_footer(self._store, task.shard), False
        if held is None:
            footer, data = self._build(task, note)
            self._check_bundle()
            won = self._store.put_new(name_shard(task.shard), data)
            held = footer if won else find_footer(self._store, task.shard)
            assert held is not None
        check_footer(held, self.run, self._store)
        return ShardDone(footer=held, won=won)

    def close(self) -> None:
        """Free the model and end the decoder."""
        self._decoder.close()
        self._backend.close()

    def __enter__(self) -> "ShardMaker":
        """The maker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _build(self, task: ShardTask, note: Callable[[int], None]) -> tuple[ShardFooter, bytes]:
        pass_point("shard_begun")
        rows, outcomes = self._rows.make(task, note)
        note(-1)
        table = build_table(rows, self.run)
        pass_point("rows_built")
        footer = ShardFooter(
            run=self.run,
            shard=task.shard,
            device=self._backend.device,
            rows=table.num_rows,
            rows_sha256=hash_rows(table),
            videos=outcomes,
        )
        data = encode_shard(table, footer)
        pass_point("shard_encoded")
        return footer, data

    def _check_bundle(self) -> None:
        """Refuse to commit what a library may have computed from other bytes than those that were hashed."""
        if _stamp_files(Path(self._job.bundle)) != self._stamps:
            raise CorpusError(f"{self._job.bundle} was changed during the run; export it again, then run again")


def _stamp_files(bundle: Path) -> dict[str, tuple[int, int, int]]:
    try:
        files = [file for file in bundle.iterdir() if file.is_file()]
        return {file.name: (file.stat().st_ino, file.stat().st_size, file.stat().st_mtime_ns) for file in files}
    except FileNotFoundError as error:
        if bundle.is_dir() or not (bundle / MANIFEST).exists():
            raise CorpusError(
                f"{bundle} is not a bundle any more, or never was: {error.filename} is not there"
            ) from error
        raise
