"""Do two local processes and two Ray actors make the rows of one uninterrupted serial run?"""

import time

from vjepa2.runtime.corpus_seal import CorpusSeal

from .runs import Case, find_faults


def compare_ways(case: Case, reference: CorpusSeal, ways: tuple[str, ...]) -> dict[str, object]:
    """What each way has otherwise, and whether its files are the same bytes."""
    report: dict[str, object] = {"rows": reference.rows, "videos": reference.videos, "shards": reference.shards}
    report["rows_sha256"] = reference.rows_sha256
    passed = True
    for way in ways:
        case.clear()
        begun_s = time.perf_counter()
        run = case.start("--on", way, "--workers", "2")
        words = run.communicate()[1]
        faults = (
            find_faults(case, reference) if run.returncode == 1 else [f"exit status {run.returncode}: {words[-300:]}"]
        )
        serial = sorted((case.folder / "serial").glob("shard-*"))
        same = all(file.read_bytes() == (case.output / file.name).read_bytes() for file in serial)
        passed = passed and same and not faults
        seconds = time.perf_counter() - begun_s
        report[way] = {"workers": 2, "faults": faults, "the_same_bytes": same, "seconds": round(seconds, 1)}
    return report | {"passed": passed}
