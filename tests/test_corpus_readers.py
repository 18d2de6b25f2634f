"""Do others read a corpus: pandas, DuckDB and LanceDB, each embedding as a vector?"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.search_corpora import draw_vectors, write_corpus
from vjepa2.errors import CorpusError
from vjepa2.runtime.backends.base import FloatArray
from vjepa2.runtime.corpus_seal import seal_corpus

NAMES = ["/a.mp4", "/b.mp4", "/c.mp4"]
COLUMNS = [
    "video", "clip", "start_s", "end_s", "status", "reason", "embedding", "model", "backend", "precision", "bundle",
    "plan",
]  # fmt: skip


@pytest.fixture
def vectors() -> list[FloatArray]:
    """Of the clips of three videos, the second of which was rejected."""
    return [draw_vectors(0, 3), draw_vectors(1, 0), draw_vectors(2, 5)]


@pytest.fixture
def output(vectors: list[FloatArray], tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "output", NAMES, vectors, clips_per_shard=4)


def import_reader(name: str) -> Any:
    return pytest.importorskip(name, reason=f"could not import {name!r}: pip install {name}")


def test_pandas_reads_the_folder(output: Path, vectors: list[FloatArray]) -> None:
    frame = import_reader("pandas").read_parquet(output)
    assert list(frame.columns) == COLUMNS
    frame = frame.sort_values(["video", "clip"])
    assert frame["video"].tolist() == ["/a.mp4"] * 3 + ["/b.mp4"] + ["/c.mp4"] * 5
    there = frame[frame["status"] == "ok"]
    assert np.array_equal(np.stack(there["embedding"].to_list()), np.concatenate(vectors))
    (rejected,) = frame[frame["status"] == "rejected"].to_dict("records")
    assert np.isnan(rejected["embedding"]).all()
    assert rejected["reason"] == "it is <b>no</b> video"


def test_duckdb_computes_with_vectors(output: Path, vectors: list[FloatArray]) -> None:
    query_D, rows_ND = draw_vectors(9, 1)[0], np.concatenate(vectors)
    duckdb = import_reader("duckdb")
    found = duckdb.execute(
        "SELECT video, clip, array_cosine_similarity(embedding::FLOAT[16], $1::FLOAT[16]) AS cosine "
        "FROM read_parquet($2) WHERE status = 'ok' ORDER BY cosine DESC",
        [query_D.tolist(), f"{output}/shard-*.parquet"],
    ).fetchall()
    cosines_N = rows_ND @ query_D / np.linalg.norm(rows_ND, axis=1) / np.linalg.norm(query_D)
    places = [("/a.mp4", clip) for clip in range(3)] + [("/c.mp4", clip) for clip in range(5)]
    order = np.argsort(-cosines_N)
    assert [(video, clip) for video, clip, _ in found] == [places[row] for row in order]
    assert [cosine for _, _, cosine in found] == pytest.approx(cosines_N[order], abs=1e-6)


def test_lancedb_takes_a_shard_as_it_is(output: Path, vectors: list[FloatArray], tmp_path: Path) -> None:
    lancedb = import_reader("lancedb")
    shard = pq.read_table(output / "shard-000001.parquet")
    table = lancedb.connect(str(tmp_path / "by-hand")).create_table("clips", shard)
    query_D = vectors[2][3]
    (found,) = table.search(query_D, vector_column_name="embedding").limit(1).to_list()
    assert (found["video"], found["clip"]) == ("/c.mp4", 3)


def test_the_lance_sink_has_every_row_in_order(output: Path, vectors: list[FloatArray], tmp_path: Path) -> None:
    lancedb = import_reader("lancedb")
    from vjepa2.runtime.corpus_lance import TABLE, write_lance  # noqa: PLC0415  (it needs LanceDB)

    seal = seal_corpus(str(output))
    write_lance(str(output), seal, tmp_path / "lance")
    rows = lancedb.connect(str(tmp_path / "lance")).open_table(TABLE).to_arrow().to_pylist()
    assert list(rows[0]) == [*COLUMNS, "line"]
    assert [row["line"] for row in rows] == list(range(9))
    assert [row["video"] for row in rows] == ["/a.mp4"] * 3 + ["/b.mp4"] + ["/c.mp4"] * 5
    assert (rows[3]["status"], rows[3]["embedding"]) == ("rejected", None)
    there = [row["embedding"] for row in rows if row["status"] == "ok"]
    assert np.array_equal(np.array(there, np.float32), np.concatenate(vectors))
    parquet = pq.read_table(output / "shard-000001.parquet").to_pylist()
    assert [{name: row[name] for name in COLUMNS} for row in rows[4:]] == parquet


def test_a_lance_sink_that_fails_leaves_nothing(output: Path, tmp_path: Path) -> None:
    import_reader("lancedb")
    from vjepa2.runtime.corpus_lance import write_lance  # noqa: PLC0415  (it needs LanceDB)

    seal = seal_corpus(str(output))
    (output / "shard-000001.parquet").write_bytes(b"PAR1")
    folder = tmp_path / "sinks" / "lance"
    folder.parent.mkdir()
    with pytest.raises(CorpusError, match=r"shard-000001\.parquet is not a whole shard"):
        write_lance(str(output), seal, folder)
    assert list(folder.parent.iterdir()) == []
