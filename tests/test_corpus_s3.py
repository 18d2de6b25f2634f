"""Does a corpus lie in an object store as it does in a folder?

S3's protocol is spoken by s3fs to moto, a server in a process of its own, over HTTP with If-None-Match. What cannot be
made to happen there is tried on fsspec's "memory://", which is a fake.
"""

import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_corpus import SETTINGS, corpus, run_all, run_here, vjepa2
from vjepa2.errors import CorpusError, MissingDependencyError
from vjepa2.runtime import corpus_videos
from vjepa2.runtime.corpus_make_plan import plan_corpus
from vjepa2.runtime.corpus_messages import PlannedVideo
from vjepa2.runtime.corpus_output import list_shards, name_shard
from vjepa2.runtime.corpus_run import run_corpus
from vjepa2.runtime.corpus_seal import seal_corpus
from vjepa2.runtime.corpus_status import read_status
from vjepa2.runtime.corpus_store import open_store
from vjepa2.runtime.corpus_videos import Identity, fetch_video

__all__ = ["corpus"]
fsspec: Any = pytest.importorskip("fsspec", reason="could not import 'fsspec': pip install 'vjepa2-edge[s3]'")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """S3 as s3fs sees it, of a server that ends with the tests, with one empty bucket."""
    for name in ("s3fs", "moto"):
        pytest.importorskip(name, reason="could not import 's3fs' or 'moto' (make prove-corpus installs both)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keys = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with pytest.MonkeyPatch.context() as patch, (tmp_path_factory.mktemp("moto") / "log").open("w") as log:
        for name, value in (keys | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
            patch.setenv(name, value)
        words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            wait_for(port)
            files = fsspec.filesystem("s3", skip_instance_cache=True)
            files.mkdir("bucket")
            yield files
        finally:
            server.kill()
            server.wait()


def wait_for(port: int) -> None:
    """Until somebody listens."""
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(port)


def test_s3_refuses_the_second_object_of_a_name(bucket: Any) -> None:
    store = open_store("s3://bucket/race")
    assert (store.put_new("a", b"1"), store.put_new("a", b"2")) == (True, False)
    assert (store.read_file("a"), store.read_file("b")) == (b"1", None)
    assert [(file.name, file.bytes) for file in store.list_files()] == [("a", 1)]
    assert abs(store.list_files()[0].written_s - time.time()) < 60
    with pytest.raises(CorpusError, match=r"s3://nobucket/x is not there .*; make the bucket first"):
        open_store("s3://nobucket/x").put_new("a", b"1")


def test_a_corpus_goes_from_s3_to_s3(bucket: Any, corpus: Path, exported: Path, tmp_path: Path) -> None:
    bucket.put(str(corpus), "bucket/videos", recursive=True)
    plan = plan_corpus("s3://bucket/videos", sampling="uniform", pad="none", frames=None, clips_per_shard=2)
    assert plan.table["version"][0].as_py().startswith("etag:")
    with (tmp_path / "plan.parquet").open("wb") as stream:
        plan.write(stream)
    words = ("corpus", "run", tmp_path / "plan.parquet", exported, "-o", "s3://bucket/output")
    done = vjepa2(*words, "--backend", "onnxruntime", "--threads", 1)
    assert done.returncode == 1, done.stderr
    bucket.rm(f"bucket/output/{name_shard(1)}")
    assert read_status("s3://bucket/output").tally.done == 2
    assert vjepa2(*words).returncode == 1
    seal = seal_corpus("s3://bucket/output")
    assert json.loads(bucket.cat("bucket/output/_seal.json"))["rows_sha256"] == seal.rows_sha256
    assert (seal.rows, seal.videos) == (5, {"ok": 4, "partial": 0, "rejected": 1})
    bucket.pipe_file("bucket/videos/a.mp4", b"something else")
    run_all_into(plan, exported, "s3://bucket/again")
    assert read_status("s3://bucket/again").tally.videos["rejected"] == 2, "its etag is another"


def run_all_into(plan: Any, bundle: Path, output: str) -> None:
    """Run in this process."""
    list(run_corpus(plan, bundle, output, SETTINGS, run_here))


def test_a_fake_store_that_ignores_the_condition_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("memory://careless/output")
    files = fsspec.filesystem("memory")
    pipe = type(files).pipe_file

    def ignore(self: Any, path: str, value: bytes, mode: str = "overwrite") -> None:
        pipe(self, path, value, mode="overwrite")

    monkeypatch.setattr(type(files), "pipe_file", ignore)
    with pytest.raises(CorpusError, match=r"lets an object be put twice \(it ignores If-None-Match\)"):
        store.put_new("a", b"1")


def test_a_fake_store_holds_a_whole_run(corpus: Path, exported: Path, tmp_path: Path) -> None:
    plan = plan_corpus(str(corpus), sampling="uniform", pad="none", frames=None, clips_per_shard=2)
    run_all_into(plan, exported, "memory://fake/output")
    assert len(list_shards(open_store("memory://fake/output"))) == 3
    run_all(plan, exported, tmp_path / "output")
    assert seal_corpus("memory://fake/output") == seal_corpus(str(tmp_path / "output"))
    with pytest.raises(CorpusError, match="is not a place that fsspec knows"):
        open_store("nothing://at/all")


def test_a_full_disk_is_no_fault_of_the_video_that_is_fetched(
    corpus: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/full/a.mp4", (corpus / "a.mp4").read_bytes())
    video = "memory://full/a.mp4"

    def fill(self: Any, path: str, target: str) -> None:
        Path(target).write_bytes(b"a part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    identity = Identity(bytes=9, version="etag:1")
    monkeypatch.setattr(corpus_videos, "identify_video", lambda _: identity)
    monkeypatch.setattr(type(files), "get_file", fill)
    before = set(Path(tempfile.gettempdir()).glob("vjepa2-corpus-*"))
    planned = PlannedVideo(number=0, video=video, bytes=9, version="etag:1", problem=None, clips=1)
    with (
        pytest.raises(CorpusError, match=r"vjepa2-corpus-.*No space left .* it needs 9 bytes; free some space"),
        fetch_video(planned),
    ):
        pass
    assert set(Path(tempfile.gettempdir()).glob("vjepa2-corpus-*")) <= before


def test_a_library_that_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # as if it was never asked for
    with pytest.raises((MissingDependencyError, CorpusError), match="s3fs"):
        open_store("s3://bucket/x").list_files()
