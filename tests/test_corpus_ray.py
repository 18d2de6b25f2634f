"""Do Ray's actors make the same shards, and is what Ray would hide for a minute told at once?"""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus_kills import read_points, watch_points
from tests.test_corpus import corpus, plan, vjepa2, whole
from vjepa2.errors import CorpusError
from vjepa2.runtime.corpus_plan import Plan
from vjepa2.runtime.corpus_seal import CorpusSeal, seal_corpus

__all__ = ["corpus", "plan", "whole"]
pytest.importorskip("ray", reason="could not import 'ray': pip install 'vjepa2-edge[ray]' (make prove-corpus does)")


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener.getsockname()[1]


def test_an_address_that_nobody_listens_at_is_told_at_once(
    plan: Plan, exported: Path, tmp_path: Path, free_port: int
) -> None:
    from vjepa2.runtime.corpus_ray import _refuse_silence  # noqa: PLC0415

    for address in (f"127.0.0.1:{free_port}", f"ray://127.0.0.1:{free_port}"):
        with pytest.raises(CorpusError, match=f"nobody listens at {address}"):
            _refuse_silence(address)
    for address in ("here", "host:port", "127.0.0.1"):
        with pytest.raises(CorpusError, match="it must be HOST:PORT"):
            _refuse_silence(address)


def test_actors_make_the_same_rows_though_one_is_killed(
    plan: Plan, exported: Path, whole: tuple[Path, CorpusSeal], tmp_path: Path
) -> None:
    with (tmp_path / "plan.parquet").open("wb") as stream:
        plan.write(stream)
    words = ("corpus", "run", tmp_path / "plan.parquet", exported, "-o", tmp_path / "output", "--on", "ray")
    notes = tmp_path / "notes"
    done = vjepa2(
        *words, "--workers", 2, "--threads", 1, "--backend", "onnxruntime", **watch_points(notes, "rows_built:1")
    )
    assert done.returncode == 1, done.stderr
    assert (notes / "killed").exists()
    assert read_points(notes).count("shard_begun") == 4
    assert seal_corpus(str(tmp_path / "output")) == whole[1]
