"""`python -m benchmarks.corpus FOLDER REPORT [PART...]`: proves the parts, and writes what was found as JSON."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .cost import measure_cost
from .full_disk import fill_disks
from .kills import Chaos
from .points import kill_at_points
from .runs import Case, make_case, run_serially
from .same import compare_ways

CLIPS_PER_SHARD = 50
LOCAL = ["driver"] * 25 + ["worker"] * 25 + ["decoder"] * 25
RAY = ["driver"] * 5 + ["worker"] * 5 + ["decoder"] * 5 + ["Ray actor"] * 10
_WORK = Path("work")
Report = dict[str, object]


class Proof:
    """The prepared folder, and which ways there are to run here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.ways = ("local", "ray") if _find_version("ray") else ("local",)

    def same(self) -> Report:
        """Rows of a serial run and of two workers, each way."""
        case = self._many()
        report = compare_ways(case, run_serially(case), self.ways)
        return report | ({} if "ray" in self.ways else {"ray": "not installed", "passed": False})

    def kills(self) -> Report:
        """100 kills at random moments."""
        case = self._many()
        reference = run_serially(case)
        reports = []
        for way, targets in (("local", LOCAL), ("ray", RAY)):
            if way in self.ways:
                chaos = Chaos(case, reference, way, seed=0)
                chaos.spend(list(targets))
                reports.append(chaos.report())
        passed = len(reports) == 2 and all(report["passed"] for report in reports)
        return {"runs": reports, "passed": passed}

    def points(self) -> Report:
        """Deaths at every named point."""
        case = self._few()
        return kill_at_points(case, run_serially(case))

    def full_disk(self) -> Report:
        """Disks that are too small."""
        case = self._few()
        return fill_disks(case, run_serially(case))

    def cost(self) -> Report:
        """What shards, processes and Ray take beside a bare loop."""
        videos = self._folder / "cost"
        videos.mkdir(exist_ok=True)
        whole = [file for file in sorted((self._folder / "videos").iterdir()) if file.stat().st_size > 100]
        for file in whole[:1536]:
            if not (videos / file.name).exists():
                os.link(file, videos / file.name)
        return measure_cost(videos, self._folder / "small", self._folder / "work-cost", self.ways)

    def _many(self) -> Case:
        return make_case(self._folder / "videos", self._folder / "tiny", self._folder / "work", CLIPS_PER_SHARD)

    def _few(self) -> Case:
        return make_case(self._folder / "few", self._folder / "tiny", self._folder / "work-few", 6)


def main(folder: Path, target: Path, parts: list[str]) -> int:
    """Prove, and keep what an earlier call found of other parts."""
    proof = Proof(folder)
    every: dict[str, Callable[[], Report]] = {
        name: getattr(proof, name) for name in ("same", "points", "kills", "full_disk", "cost")
    }
    found = json.loads(target.read_text()) if target.exists() else {}
    for name in parts or list(every):
        begun_s = time.perf_counter()
        report = every[name]()
        found[name] = report | {"took_s": round(time.perf_counter() - begun_s), "machine": _describe_machine()}
        found["passed"] = all(name in found and found[name]["passed"] for name in every)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {'passed' if report['passed'] else 'NOT PASSED'}", flush=True)
    return 0 if all(found[name]["passed"] for name in parts or list(every)) else 1


def _describe_machine() -> dict[str, str]:
    names = ("numpy", "onnxruntime", "av", "pyarrow", "ray")
    versions = {name: found for name in names if (found := _find_version(name))}
    facts = {"date": str(date.today()), "machine": platform.machine(), "cores": str(os.cpu_count())}
    return facts | {"python": platform.python_version()} | versions


def _find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
