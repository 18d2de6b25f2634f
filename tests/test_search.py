"""Is what a search finds what is nearest, of the corpus that is there, and what the page shows of it true?"""

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import faiss
import numpy as np
import pytest
import uvicorn

from tests.search_corpora import FRAMES, draw_vectors, write_corpus
from tests.videos import decode_all, fit, write
from vjepa2.cli import main
from vjepa2.errors import BackendError, BusyError, CorpusError, VideoError
from vjepa2.runtime import search_map, search_open, search_pairs
from vjepa2.runtime.backends.base import FloatArray, FramesArray, Outputs
from vjepa2.runtime.corpus_make_plan import plan_corpus
from vjepa2.runtime.corpus_output import SEAL, name_shard
from vjepa2.runtime.corpus_plan import ClipPolicy
from vjepa2.runtime.corpus_run import RunSettings, run_corpus
from vjepa2.runtime.corpus_seal import seal_corpus
from vjepa2.runtime.decode_messages import ClipRequest
from vjepa2.runtime.novelty import NoveltyMemory
from vjepa2.runtime.search_corpus import SearchCorpus
from vjepa2.runtime.search_faiss import FaissIndex
from vjepa2.runtime.search_index import VectorIndex, to_unit
from vjepa2.runtime.search_map import project_corpus, project_plane
from vjepa2.runtime.search_novelty import follow_novelty
from vjepa2.runtime.search_open import open_search
from vjepa2.runtime.search_pairs import find_pairs
from vjepa2.runtime.search_service import SearchService
from vjepa2.runtime.search_thumbnails import HEIGHT, WIDTH, Thumbnails, choose_frame, encode_jpeg
from vjepa2.runtime.search_upload import Uploads, open_uploads

COUNTS = (5, 0, 3, 40)  # clips of each video; one is rejected


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A sealed corpus in two shards, of videos that are not there."""
    vectors = [draw_vectors(seed, clips) for seed, clips in enumerate(COUNTS)]
    names = [str(tmp_path / "videos" / name) for name in ("a/1.mp4", "a/2.mp4", "b.mp4", "c.mp4")]
    return write_corpus(tmp_path / "output", names, vectors, clips_per_shard=8)


def rows_of(index: VectorIndex) -> FloatArray:
    return index.take(range(index.rows))


def rank(units_ND: FloatArray, unit_D: FloatArray, without: range) -> list[int]:
    """Every row but some, the most alike first, by numpy in float64."""
    cosines_N = units_ND.astype(np.float64) @ unit_D.astype(np.float64)
    return [int(row) for row in np.argsort(-cosines_N, kind="stable") if row not in without]


def test_every_clip_is_a_row_with_its_place_and_rejected_videos_are_named(output: Path) -> None:
    corpus, index = open_search(str(output))
    assert [(video.name, video.first, video.clips) for video in corpus.videos] == [
        ("a/1.mp4", 0, 5),
        ("b.mp4", 5, 3),
        ("c.mp4", 8, 40),
    ]
    assert [(video.name, video.reason) for video in corpus.rejected] == [("a/2.mp4", "it is <b>no</b> video")]
    assert corpus.video_N.tolist() == [0] * 5 + [1] * 3 + [2] * 40
    assert corpus.line_N.tolist() == [*range(5), *range(6, 49)]
    assert (corpus.start_s_N[6], corpus.end_s_N[6]) == (0.5, 1.0)
    expected = np.concatenate([draw_vectors(seed, clips) for seed, clips in enumerate(COUNTS) if clips])
    np.testing.assert_allclose(rows_of(index), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert (corpus.shards, corpus.planned) == (3, 3)
    assert corpus.seal == json.loads((output / SEAL).read_text())["rows_sha256"]


@pytest.mark.parametrize("without", [range(0), range(7, 8), range(8, 48)])
def test_faiss_finds_what_numpy_does(output: Path, without: range) -> None:
    _, index = open_search(str(output))
    units_ND = rows_of(index)
    for row in (0, 7, 47):
        found = index.find_nearest(units_ND[row], 10, without)
        right = rank(units_ND, units_ND[row], without)[:10]
        assert [each.row for each in found] == right
        np.testing.assert_allclose([each.cosine for each in found], units_ND[right] @ units_ND[row], atol=1e-6)


def test_more_than_there_is_is_not_found(output: Path) -> None:
    _, index = open_search(str(output))
    assert len(index.find_nearest(index.take([0])[0], 200, range(5))) == 43


@pytest.fixture
def lance(output: Path, tmp_path: Path) -> Path:
    pytest.importorskip("lancedb", reason="could not import 'lancedb': pip install 'vjepa2-edge[lance]'")
    folder = tmp_path / "lance"
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "seal", str(output), "--lance", str(folder)])
    assert ended.value.code == 0
    return folder


@pytest.mark.parametrize("without", [range(0), range(4, 5), range(8, 48)])
def test_lancedb_finds_what_faiss_does(output: Path, lance: Path, without: range) -> None:
    corpus, index = open_search(str(output))
    _, on_disk = open_search(str(output), lance)
    assert on_disk.name != index.name
    np.testing.assert_allclose(rows_of(on_disk), rows_of(index), atol=1e-6)
    oracle = faiss.IndexFlatIP(16)
    oracle.add(rows_of(index))
    for row in range(corpus.rows):
        unit_D = index.take([row])[0]
        left, right = (each.find_nearest(unit_D, 7, without) for each in (index, on_disk))
        assert [found.row for found in left] == [found.row for found in right]
        assert [found.cosine for found in right] == pytest.approx([found.cosine for found in left], abs=1e-6)
        if not without:
            assert oracle.search(unit_D[None], 7)[1][0].tolist() == [found.row for found in right]


def test_a_lancedb_of_other_rows_is_refused(output: Path, lance: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", ["/x.mp4"], [draw_vectors(9, 4)])
    with pytest.raises(CorpusError, match="has rows of another corpus; write it with vjepa2 corpus seal"):
        open_search(str(other), lance)
    with pytest.raises(CorpusError, match="is not a LanceDB of vjepa2 corpus seal"):
        open_search(str(output), tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "seal", str(output), "--lance", str(tmp_path / "full")])
    assert ended.value.code == 2
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["notes"]
    with pytest.raises(SystemExit) as again:  # the same rows are there
        main(["corpus", "seal", str(output), "--lance", str(lance)])
    assert again.value.code == 0


def test_more_rows_than_fit_are_sent_to_lancedb(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_open, "FAISS_ROWS", 48)
    open_search(str(output))
    monkeypatch.setattr(search_open, "FAISS_ROWS", 47)
    with pytest.raises(CorpusError, match=r"has 48 clips, and up to 47 .* vjepa2 corpus seal .* --lance FOLDER"):
        open_search(str(output))


def test_what_is_not_sealed_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    vectors = [draw_vectors(seed, 4) for seed in range(3)]
    output = write_corpus(tmp_path / "output", ["/a", "/b", "/c"], vectors, clips_per_shard=4, seal=False, shards=2)
    corpus, index = open_search(str(output))
    assert (corpus.seal, corpus.shards, corpus.planned, index.rows) == (None, 2, 3, 8)


def test_a_shard_that_was_changed_after_it_was_sealed_is_refused(output: Path, tmp_path: Path) -> None:
    other = write_corpus(
        tmp_path / "other", [f"{tmp_path}/videos/{name}" for name in ("a/1.mp4", "a/2.mp4", "b.mp4", "c.mp4")],
        [draw_vectors(10 + seed, clips) for seed, clips in enumerate(COUNTS)], clips_per_shard=8,
    )  # fmt: skip
    shutil.copy(other / name_shard(0), output / name_shard(0))
    with pytest.raises(CorpusError, match="says otherwise than the shards"):
        open_search(str(output))
    (output / SEAL).write_text("{}")
    with pytest.raises(CorpusError, match="is no seal"):
        open_search(str(output))


@pytest.mark.parametrize("fault", ["no output", "no shard", "all rejected", "no direction"])
def test_what_cannot_be_searched_is_said(fault: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    message = "it is not the output of vjepa2 corpus run"
    if fault == "no shard":
        write_corpus(output, ["/a"], [draw_vectors(0, 2)], seal=False, shards=0)
        message = "has no finished shard yet"
    if fault == "all rejected":
        write_corpus(
            output, ["/a", "/b"], [draw_vectors(0, 0), draw_vectors(0, 1)], seal=False, shards=1, clips_per_shard=1
        )
        message = "has no clip: every video was rejected"
    if fault == "no direction":
        write_corpus(output, ["/a"], [np.zeros((2, 4), np.float32)])
        message = r"shard-000000.parquet has an embedding without a direction .* vjepa2 parity"
    with pytest.raises(CorpusError, match=message):
        open_search(str(output))


def test_nothing_is_written_to_the_output(output: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (output, *output.iterdir())}
    open_search(str(output))
    assert {file: file.stat().st_mtime_ns for file in (output, *output.iterdir())} == before


def test_the_map_is_the_singular_vectors_and_the_same_every_time(output: Path) -> None:
    _, index = open_search(str(output))
    units_ND = rows_of(index)
    plane_N2, kept = project_plane(units_ND)
    centred_ND = units_ND - units_ND.mean(axis=0)
    _, values, axes_DD = np.linalg.svd(centred_ND, full_matrices=False)
    for column in range(2):
        expected_N = centred_ND @ axes_DD[column]
        np.testing.assert_allclose(np.abs(plane_N2[:, column]), np.abs(expected_N), atol=1e-5)
    assert kept == pytest.approx(float((values[:2] ** 2).sum() / (values**2).sum()), abs=1e-5)
    drawn = project_corpus(index)
    assert drawn == project_corpus(index)
    assert drawn.rows == list(range(48))
    assert max(map(abs, drawn.x + drawn.y)) == 1.0


@pytest.mark.parametrize(("rows", "dim"), [(1, 8), (2, 8), (3, 2)])
def test_the_smallest_corpora_have_a_map(rows: int, dim: int) -> None:
    index = FaissIndex(dim)
    index.add(to_unit(draw_vectors(0, rows, dim), "it"))
    drawn = project_corpus(index)
    assert len(drawn.x) == len(drawn.y) == rows
    assert 0 <= drawn.kept <= 1.000001


def test_of_a_large_corpus_the_map_has_some_rows_evenly(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_map, "MAP_ROWS", 20)
    _, index = open_search(str(output))
    assert project_corpus(index).rows == list(range(0, 48, 3))


@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.6, 0.99])
def test_pairs_are_those_of_a_loop_over_all(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_pairs, "_BLOCK", 7)
    video_N = np.repeat(np.arange(6), [5, 1, 9, 4, 1, 10])
    units_ND = to_unit(draw_vectors(3, 30, 4), "it")
    units_ND[29] = units_ND[0]
    expected: dict[tuple[int, int], list[tuple[float, int, int]]] = {}
    for left in range(30):
        for right in range(left + 1, 30):
            cosine = float(units_ND[left] @ units_ND[right])
            if video_N[left] != video_N[right] and cosine >= threshold:
                expected.setdefault((int(video_N[left]), int(video_N[right])), []).append((cosine, left, right))
    found = find_pairs(units_ND, video_N, threshold)
    assert {(int(video_N[pair.left]), int(video_N[pair.right])): pair.pairs for pair in found} == {
        videos: len(pairs) for videos, pairs in expected.items()
    }
    assert [pair.cosine for pair in found] == pytest.approx(
        sorted((max(p)[0] for p in expected.values()), reverse=True)
    )
    assert (found[0].left, found[0].right) == (0, 29)


def test_too_many_to_hold_to_each_other_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    units_ND, video_N = to_unit(draw_vectors(0, 30, 4), "it"), np.arange(30)
    monkeypatch.setattr(search_pairs, "PAIR_ROWS", 29)
    with pytest.raises(CorpusError, match="there are 30 clips; near-duplicates are looked for among up to 29"):
        find_pairs(units_ND, video_N, 0.9)
    monkeypatch.undo()
    monkeypatch.setattr(search_pairs, "_PAIRS", 10)
    with pytest.raises(CorpusError, match="more than 10 pairs of videos have cosines from -1 on; take a higher one"):
        find_pairs(units_ND, video_N, -1)


def test_novelty_is_that_of_a_stream_whose_windows_lie_side_by_side() -> None:
    units_ND = to_unit(draw_vectors(0, 40), "it")
    starts_s = np.linspace(0, 19.5, 40)
    points = follow_novelty(units_ND, starts_s, starts_s + 0.5)
    assert [point.score is None for point in points] == [True] * 16 + [False] * 24
    memory = NoveltyMemory(16)
    for point, unit_D, start_s in zip(points, units_ND, starts_s.tolist(), strict=True):
        expected = memory.judge(unit_D, start_s, start_s + 0.4)  # a stream's window ends where its last frame begins
        assert (point.score, point.z) == ((None, None) if expected is None else (expected.score, expected.z))
    cosines = sorted(units_ND[:20] @ units_ND[20])
    assert points[20].score == pytest.approx(1 - cosines[-3], abs=1e-6)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, scene: FramesArray) -> Path:
    """24 frames, of which each is told from all others by its grey."""
    frames_THWC = np.stack([np.full((90, 160, 3), 8 + 10 * number, np.uint8) for number in range(24)])
    return write(tmp_path_factory.mktemp("film") / "film.mp4", frames_THWC)


@pytest.mark.parametrize(
    ("sampling", "frames", "clip", "shown"),
    [
        ("window", 4, 0, 2),
        ("window", 4, 5, 22),
        ("window:2", 4, 3, 8),
        ("window:3x2", 4, 1, 7),
        ("window", 1, 0, 0),
        ("window", 1, 9, 9),
        ("uniform", None, 0, 12),
        ("segments:3", None, 2, 16),
        ("stride:5", None, 0, 5),
    ],
)
def test_a_thumbnail_is_a_frame_of_its_clip(
    sampling: str, frames: int | None, clip: int, shown: int, film: Path, tmp_path: Path
) -> None:
    vectors = draw_vectors(0, clip + 1)
    output = write_corpus(tmp_path / "output", [str(film)], [vectors], seal=False)
    corpus, _ = open_search(str(output))
    corpus = replace(corpus, policy=ClipPolicy(sampling=sampling, pad="none", frames=frames, clips_per_shard=8))
    thumbnails = Thumbnails(corpus, workers=1)
    data = thumbnails.make(clip)
    assert thumbnails.make(clip) is data
    thumbnails.close()
    (tmp_path / "it.jpg").write_bytes(data)
    (picture,) = decode_all(tmp_path / "it.jpg")
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert abs(float(picture.mean()) - (8 + 10 * shown)) < 3


def test_a_thumbnail_has_the_pixels_of_the_frame(scene: FramesArray, tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4", scene[:1], "libx264rgb", pixels="rgb24", options={"qp": "0"})
    request, _ = choose_frame(ClipPolicy(sampling="uniform", pad="none", frames=None, clips_per_shard=1), 0)
    (right,) = fit(decode_all(video), ClipRequest(frames=1, height=request.height, width=request.width))
    (tmp_path / "it.jpg").write_bytes(encode_jpeg(right))
    with av.open(str(tmp_path / "it.jpg")) as container:
        (frame,) = container.decode(video=0)
        assert frame.format.name == "yuvj420p"
        off = np.abs(frame.to_ndarray(format="rgb24").astype(int) - right)
    assert off.mean() < 6


@pytest.mark.parametrize("fault", ["gone", "changed", "no video", "object"])
def test_a_clip_without_a_picture_says_why(fault: str, film: Path, tmp_path: Path) -> None:
    video = Path(shutil.copy(film, tmp_path / "a.mp4"))
    if fault == "no video":
        video.write_bytes(b"no video")
    name = "s3://bucket/a.mp4" if fault == "object" else str(video)
    output = write_corpus(tmp_path / "output", [name], [draw_vectors(0, 2)], seal=False) if fault != "object" else None
    if output is None:
        output = write_corpus(tmp_path / "output", [str(video)], [draw_vectors(0, 2)], seal=False)
    corpus, _ = open_search(str(output))
    if fault == "object":
        corpus = replace(corpus, videos=tuple(replace(each, path=name) for each in corpus.videos))
    if fault == "gone":
        video.unlink()
    if fault == "changed":
        video.write_bytes(video.read_bytes() + b"more")
    messages = {
        "gone": "it is not a file that can be read",
        "changed": "a.mp4 was changed since it was embedded: it has",
        "no video": r"a.mp4 is rejected \(",
        "object": "lies in an object store",
    }
    thumbnails = Thumbnails(corpus, workers=1)
    with pytest.raises(VideoError, match=messages[fault]):
        thumbnails.make(0)
    thumbnails.close()


@pytest.fixture(scope="module")
def real(
    exported: Path, scene: FramesArray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SearchCorpus, VectorIndex]:
    """Two videos that were embedded by the corpus's own run; 6 and 5 windows."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "videos").mkdir()
    write(folder / "videos" / "a.mp4", scene)
    write(folder / "videos" / "b.webm", scene[::-1][:20], "libvpx")
    plan = plan_corpus(str(folder / "videos"), sampling="window", pad="none", frames=FRAMES, clips_per_shard=6)
    list(run_corpus(plan, exported, str(folder / "output"), RunSettings(backend="onnxruntime", threads=1)))
    seal_corpus(str(folder / "output"))
    return folder, *open_search(str(folder / "output"))


@pytest.fixture(scope="module")
def uploads(real: tuple[Path, SearchCorpus, VectorIndex], exported: Path) -> Uploads:
    return open_uploads(exported, real[1].run, real[1].policy, None)


def test_a_video_of_the_corpus_finds_itself(real: tuple[Path, SearchCorpus, VectorIndex], uploads: Uploads) -> None:
    folder, corpus, index = real
    with (folder / "videos" / "b.webm").open("rb") as file:
        upload = uploads.embed(file)
    assert uploads.find(upload.key) is upload
    assert uploads.find("another") is None
    assert (len(upload.clips), upload.total) == (5, 5)
    service = SearchService(corpus, index, uploads)
    for number, row in enumerate(corpus.videos[1].rows):
        first = service.find_like_upload(upload.key, number, 3)[0]
        assert (first.row, first.start_s, first.end_s) == (
            row,
            upload.clips[number].start_s,
            upload.clips[number].end_s,
        )
        assert first.cosine == pytest.approx(1, abs=1e-5)
    with pytest.raises(CorpusError, match="the upload has no clip 5; it has 5"):
        service.find_like_upload(upload.key, 5, 3)
    service.thumbnails.close()


@pytest.mark.parametrize("fault", ["no video", "cut", "short"])
def test_an_upload_that_is_no_whole_video_says_why(
    fault: str, real: tuple[Path, SearchCorpus, VectorIndex], uploads: Uploads, scene: FramesArray, tmp_path: Path
) -> None:
    file = tmp_path / "upload"
    message = {
        "no video": "it cannot be searched by: it is not a video",
        "cut": "it cannot be searched by: partial",
        "short": "has 2 frames",
    }[fault]
    if fault == "no video":
        file.write_bytes(b"PK\x03\x04 something else" * 100)
    elif fault == "cut":
        whole = write(tmp_path / "whole.webm", scene, "libvpx").read_bytes()
        file.write_bytes(whole[: len(whole) * 2 // 3])
    else:
        file = write(tmp_path / "short.mp4", scene[:2])
    with file.open("rb") as stream, pytest.raises(VideoError, match=message) as raised:
        uploads.embed(stream)
    assert "/proc" not in str(raised.value)


def test_uploads_are_embedded_one_at_a_time_and_the_last_are_remembered(
    real: tuple[Path, SearchCorpus, VectorIndex], uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vjepa2.runtime import search_upload  # noqa: PLC0415

    video = real[0] / "videos" / "a.mp4"
    monkeypatch.setattr(search_upload, "_KEPT", 2)
    monkeypatch.setattr(search_upload, "UPLOAD_CLIPS", 2)
    keys = []
    for _ in range(3):
        with video.open("rb") as file:
            upload = uploads.embed(file)
        assert (len(upload.clips), upload.total) == (2, 6)
        keys.append(upload.key)
    assert [uploads.find(key) is None for key in keys] == [True, False, False]
    compute = uploads._engine.backend.run
    refused: list[str] = []

    def embed_another(*words: Any) -> Outputs:
        with video.open("rb") as other, pytest.raises(BusyError) as raised:
            uploads.embed(other)
        refused.append(str(raised.value))
        return compute(*words)

    monkeypatch.setattr(uploads._engine.backend, "run", embed_another)
    with video.open("rb") as file:
        uploads.embed(file)
    assert refused == 2 * ["another video is being embedded; drop this one again when that is done"]


def test_another_bundle_is_refused(
    real: tuple[Path, SearchCorpus, VectorIndex], in_threes: Path, exported: Path
) -> None:
    with pytest.raises(CorpusError, match=r"was embedded with bundle .*, and .* is .*: give the bundle that"):
        open_uploads(in_threes, real[1].run, real[1].policy, None)
    with pytest.raises(BackendError):
        open_uploads(exported, real[1].run, real[1].policy, "tensorrt")


def run_cli(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["search", *map(str, words)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_it_listens_on_this_machine_alone(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listened: list[tuple[str, int]] = []

    def listen(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        listened.extend(each.getsockname() for each in sockets)

    monkeypatch.setattr(uvicorn.Server, "run", listen)
    assert run_cli(output, "--port", 0) == 0
    ((host, port),) = listened
    assert host == "127.0.0.1"
    told = capsys.readouterr().err
    assert f"http://127.0.0.1:{port}/" in told
    assert "48 clips of 3 videos" in told
    assert "not sealed" not in told
    (output / SEAL).unlink()
    assert run_cli(output, "--port", 0) == 0
    assert "is not sealed: what is final is shown" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["busy port", "no output", "no bundle", "wrong bundle", "backend alone"])
def test_what_is_wrong_with_a_call_is_one_line(
    fault: str, output: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words: tuple[object, ...] = (output, "--port", 0)
    message = {
        "busy port": "cannot be listened on (Address already in use); give another --port, or 0",
        "no output": "it is not the output of vjepa2 corpus run",
        "no bundle": "is not a folder",
        "wrong bundle": "the corpus was embedded with bundle bbbbbbbbbbbb",
        "backend alone": "those need a BUNDLE",
    }[fault]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        if fault == "busy port":
            words = (output, "--port", taken.getsockname()[1])
        if fault == "no output":
            words = (tmp_path / "none", "--port", 0)
        if fault == "no bundle":
            words = (output, tmp_path / "none", "--port", 0)
        if fault == "wrong bundle":
            words = (output, exported, "--port", 0)
        if fault == "backend alone":
            words = (output, "--backend", "onnxruntime")
        assert run_cli(*words) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
