"""Where in a corpus run may it be killed: which points does it pass, under which names?"""

import sys
from typing import Literal, get_args

EVENT = "vjepa2.corpus"

Point = Literal[
    # the process that a person started
    "plan_read",
    "plan_kept",
    "shards_listed",
    "worker_started",
    "shard_handed_out",
    "shard_counted",
    "all_shards_done",
    "shards_verified",
    # a worker
    "bundle_opened",
    "run_claimed",
    "shard_begun",
    "video_begun",
    "video_fetched",
    "clip_decoded",
    "batch_embedded",
    "video_done",
    "rows_built",
    "shard_encoded",
    # whoever writes a file
    "draft_opened",
    "draft_written",
    "draft_synced",
    "draft_renamed",
    "folder_synced",
]
POINTS: tuple[Point, ...] = get_args(Point)


def pass_point(point: Point) -> None:
    """Tell Python's audit hooks that a point is passed: an operator may watch them, and one may stop it here."""
    sys.audit(EVENT, point)
