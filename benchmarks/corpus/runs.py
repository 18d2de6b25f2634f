"""How is a run started, watched from outside, finished, and held to another?"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from tests.corpus_kills import read_points, watch_points
from vjepa2.runtime.corpus_make_plan import plan_corpus
from vjepa2.runtime.corpus_messages import CorpusJob, ShardDone, ShardTask
from vjepa2.runtime.corpus_plan import Plan
from vjepa2.runtime.corpus_run import RunSettings, run_corpus
from vjepa2.runtime.corpus_seal import CorpusSeal, seal_corpus
from vjepa2.runtime.corpus_shard import ShardMaker

BACKEND = ("--backend", "onnxruntime", "--threads", "1")
SETTINGS = RunSettings(backend="onnxruntime", threads=1)


@dataclass(frozen=True, slots=True)
class Case:
    """A plan, its file, a bundle, and a folder for outputs and notes."""

    plan: Plan
    file: Path
    bundle: Path
    folder: Path

    @property
    def output(self) -> Path:
        """Where the rows go."""
        return self.folder / "output"

    @property
    def notes(self) -> Path:
        """Where the points are logged."""
        return self.folder / "notes"

    def clear(self) -> None:
        """Begin anew."""
        shutil.rmtree(self.output, ignore_errors=True)
        shutil.rmtree(self.notes, ignore_errors=True)

    def start(self, *words: str, kill: str = "") -> "subprocess.Popen[str]":
        """`vjepa2 corpus run`, in the background."""
        command = [sys.executable, "-m", "vjepa2", "corpus", "run", str(self.file), str(self.bundle)]
        environment = os.environ | watch_points(self.notes, kill)
        return subprocess.Popen(
            [*command, "-o", str(self.output), *BACKEND, *words],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def seal(self, kill: str = "") -> "subprocess.CompletedProcess[str]":
        """`vjepa2 corpus seal`, ended."""
        command = [sys.executable, "-m", "vjepa2", "corpus", "seal", str(self.output)]
        environment = os.environ | watch_points(self.notes, kill)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def workers(self) -> list[psutil.Process]:
        """Running workers of this case's runs."""
        found = []
        for process in psutil.process_iter():
            try:
                named = "corpus_worker" in " ".join(process.cmdline())
                if named and process.environ().get("CORPUS_LOG") == str(self.notes / "points.log"):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def decoders(self) -> list[psutil.Process]:
        """Running decoders of those workers; they have nothing of our environment."""
        found = []
        for worker in self.workers():
            try:
                found += [child for child in worker.children() if "decode_worker" in " ".join(child.cmdline())]
            except psutil.Error:
                continue
        return found

    def points(self) -> list[str]:
        """The points that were passed since `clear`."""
        return read_points(self.notes)


def make_case(videos: Path, bundle: Path, folder: Path, clips_per_shard: int) -> Case:
    """Plan a folder of videos."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plan = plan_corpus(str(videos), sampling="uniform", pad="none", frames=None, clips_per_shard=clips_per_shard)
    with (folder / "plan.parquet").open("wb") as stream:
        plan.write(stream)
    return Case(plan, folder / "plan.parquet", bundle, folder)


def run_here(job: CorpusJob, tasks: Sequence[ShardTask]) -> Iterator[ShardDone]:
    """One shard after another in this process."""
    with ShardMaker(job) as maker:
        for task in tasks:
            yield maker.make(task)


def run_serially(case: Case) -> CorpusSeal:
    """The seal of one uninterrupted run in this process; its output lies in `serial`."""
    output = case.folder / "serial"
    shutil.rmtree(output, ignore_errors=True)
    for _ in run_corpus(case.plan, case.bundle, str(output), SETTINGS, run_here):
        pass
    return seal_corpus(str(output))


def find_faults(case: Case, reference: CorpusSeal) -> list[str]:
    """What a finished output has otherwise than an uninterrupted run: by the seal, and by reading its rows."""
    seal = seal_corpus(str(case.output))
    table = pq.read_table(case.output, columns=["video", "clip", "reason"])
    rows = list(zip(table["video"].to_pylist(), table["clip"].to_pylist(), strict=True))
    wanted = case.plan.table["video"].to_pylist()
    faults = []
    if seal != reference:
        known = set(pq.read_table(case.folder / "serial", columns=["reason"])["reason"].to_pylist())
        new = set(table["reason"].to_pylist()) - known
        faults.append(f"its rows_sha256 is {seal.rows_sha256} and must be {reference.rows_sha256}; new reasons: {new}")
    if lost := set(wanted) - {video for video, _ in rows}:
        faults.append(f"{len(lost)} videos have no row")
    if len(set(rows)) != len(rows):
        faults.append(f"{len(rows) - len(set(rows))} rows are there twice")
    if drafts := list(case.output.glob(".*")):
        faults.append(f"{len(drafts)} drafts are left")
    return faults
