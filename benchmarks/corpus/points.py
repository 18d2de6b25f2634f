"""What is left of a corpus when a process dies at a named point in the code, for each of them?"""

import signal

from vjepa2.runtime.corpus_points import POINTS
from vjepa2.runtime.corpus_seal import CorpusSeal

from .runs import Case, find_faults

TIMES = 5  # that each point is tried
_RUNS = 3
# how often a point is passed, at least, on the way to a seal of four shards of six videos; otherwise once
_OFTEN = dict.fromkeys(("video_begun", "video_fetched", "clip_decoded", "batch_embedded", "video_done"), 24)
_OFTEN |= dict.fromkeys(("shard_handed_out", "shard_counted", "shard_begun", "rows_built", "shard_encoded"), 4)
_OFTEN |= dict.fromkeys(("draft_opened", "draft_written", "draft_synced", "draft_renamed", "folder_synced"), 5)


def kill_at_points(case: Case, reference: CorpusSeal) -> dict[str, object]:
    """Die at each point at its first, a later, and its last passage; run again until it is done; look."""
    tried, faults, repeated = 0, [], []
    for point in POINTS:
        for attempt in range(TIMES):
            count = 1 + attempt * (_OFTEN.get(point, 1) - 1) // (TIMES - 1)
            found = _die_once(case, reference, f"{point}:{count}")
            faults += [f"{point}:{count}: {fault}" for fault in found]
            repeated.append(case.points().count("shard_begun") - reference.shards)
            tried += 1
    return {
        "points": list(POINTS),
        "kills": tried,
        "faults": faults,
        "shards_begun_again": sum(repeated),
        "most_shards_begun_again_by_a_kill": max(repeated),
        "passed": not faults and max(repeated) <= 1,
    }


def _die_once(case: Case, reference: CorpusSeal, kill: str) -> list[str]:
    case.clear()
    for _ in range(_RUNS):
        run = case.start("--workers", "1", kill=kill)
        words = run.communicate()[1]
        if run.returncode == 0 and case.seal(kill).returncode == 0:
            break
        if run.returncode not in (0, -signal.SIGKILL):
            return [f"exit status {run.returncode}: {words[-300:]}"]
    if not (case.notes / "killed").exists():
        return ["was not reached"]
    return find_faults(case, reference)
