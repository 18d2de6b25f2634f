"""Does the page's server answer its own page alone, and give away nothing but the videos of the corpus?"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.search_corpora import FRAMES, draw_vectors, write_corpus
from tests.videos import write
from vjepa2.runtime import search_server
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.corpus_make_plan import plan_corpus
from vjepa2.runtime.corpus_run import RunSettings, run_corpus
from vjepa2.runtime.search_open import open_search
from vjepa2.runtime.search_server import PAGE, create_app
from vjepa2.runtime.search_service import SearchService
from vjepa2.runtime.search_upload import open_uploads

NASTY = "<img src=x onerror=alert(1)>.mp4"
URL = "http://127.0.0.1:8765"
OURS = {"origin": URL, "content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, scene: FramesArray, exported: Path) -> Path:
    """Two videos, one with a name that is markup, embedded by the corpus's own run, and a file that is not of it."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "videos").mkdir()
    write(folder / "videos" / NASTY, scene)
    write(folder / "videos" / "b.webm", scene[::-1], "libvpx")
    (folder / "videos" / "c.mp4").write_bytes(b"no video")
    (folder / "secret.mp4").write_bytes(b"not of the corpus")
    plan = plan_corpus(str(folder / "videos"), sampling="window", pad="none", frames=FRAMES, clips_per_shard=6)
    list(run_corpus(plan, exported, str(folder / "output"), RunSettings(backend="onnxruntime", threads=1)))
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, exported: Path) -> Iterator[SearchService]:
    corpus, index = open_search(str(folder / "output"))
    service = SearchService(corpus, index, open_uploads(exported, corpus.run, corpus.policy, None))
    yield service
    service.close()


@pytest.fixture(scope="module")
def client(service: SearchService) -> TestClient:
    return TestClient(create_app(service), base_url=URL)


def ask(client: TestClient, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_page_and_its_parts_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"].split("; ")
    assert policy[:3] == ["default-src 'none'", "script-src 'self'", "style-src 'self'"]
    assert not [word for part in policy for word in part.split() if "unsafe" in word or "http" in word or "*" in word]
    parts = {file.name for file in PAGE.iterdir()}
    for name in parts - {"page.html"}:
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.text == (PAGE / name).read_text()
    for name in parts:
        text = (PAGE / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text
        assert "innerHTML" not in text
        assert "insertAdjacentHTML" not in text
        assert " style=" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/page/page.html", "/page/..%2fsearch_cli.py", "/page/%2e%2e/search_cli.py", "/page/../search_cli.py",
        "/page//etc/passwd", "/videos/..%2f..%2fsecret.mp4", "/videos/%2fetc%2fpasswd", "/videos/-1", "/videos/2",
        "/videos/1e0", "/videos/99999999999999999999", "/thumbnails/-1", "/thumbnails/12", "/thumbnails/x", "/docs",
        "/openapi.json", "/redoc", "/api/clips/12", "/api/videos/2", "/api/uploads/none/nearest",
    ],
)  # fmt: skip
def test_no_other_file_and_no_other_number_is_served(path: str, client: TestClient) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_video_is_served_whole_and_by_ranges(client: TestClient, folder: Path) -> None:
    whole = (folder / "videos" / NASTY).read_bytes()
    answer = client.get("/videos/0")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, whole, "video/mp4")
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert client.get("/videos/1").headers["content-type"] == "video/webm"
    head = client.head("/videos/0")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(whole)))
    for said, part in (("0-9", whole[:10]), ("100-", whole[100:]), ("-7", whole[-7:]), ("5-5", whole[5:6])):
        answer = client.get("/videos/0", headers={"range": f"bytes={said}"})
        assert (answer.status_code, answer.content) == (206, part), said
    assert answer.headers["content-range"] == f"bytes 5-5/{len(whole)}"
    assert client.get("/videos/0", headers={"range": f"bytes={len(whole)}-"}).status_code == 416
    assert client.get("/videos/0", headers={"range": "bytes=x"}).status_code == 400


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[::1]:8765", "0.0.0.0"]
)
@pytest.mark.parametrize("path", ["/", "/api/corpus", "/videos/0"])
def test_another_name_of_this_machine_is_refused(host: str, path: str, client: TestClient) -> None:
    answer = client.get(path, headers={"host": host})
    assert answer.status_code == 403
    assert answer.json() == {"error": "this server is called 127.0.0.1 or localhost, and by no other name"}


def test_localhost_is_a_name_of_it_too(client: TestClient, folder: Path) -> None:
    data = (folder / "videos" / "b.webm").read_bytes()
    headers = {"host": "localhost:1234", "origin": "http://localhost:1234"}
    assert client.get("/", headers=headers).status_code == 200
    assert client.post("/api/uploads", content=data, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "https://127.0.0.1:8765", "http://127.0.0.1:1", "http://localhost:8765"],
)
def test_what_another_page_sends_is_refused(
    origin: str | None, client: TestClient, service: SearchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.uploads, "embed", None)
    answer = client.post("/api/uploads", content=b"x", headers={"origin": origin} if origin else {})
    assert (answer.status_code, answer.json()["error"]) == (403, "only the page of this server may send anything")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "POST"])
def test_nothing_else_can_be_done(method: str, client: TestClient) -> None:
    assert client.request(method, "/api/corpus", headers=OURS).status_code == 405
    answer = client.request(method, "/api/corpus")
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_what_the_page_is_told(client: TestClient) -> None:
    about = ask(client, "/api/corpus")
    assert (about["clips"], about["videos"], about["rejected_count"], about["uploads"]) == (12, 2, 1, True)
    assert about["seal"] is None
    assert (about["rejected"][0]["name"], about["shards"], about["planned"]) == ("c.mp4", 3, 3)
    drawn = ask(client, "/api/map")
    assert (drawn["rows"], drawn["video"]) == (list(range(12)), [0] * 6 + [1] * 6)
    assert ask(client, "/api/videos?text=B.WEB")["videos"] == [
        {"video": 1, "name": "b.webm", "status": "ok", "first": 6, "clips": 6}
    ]
    assert ask(client, "/api/videos?count=1&first=1")["total"] == 2
    video = ask(client, "/api/videos/0")
    assert [place["row"] for place in video["places"]] == list(range(6))
    assert (video["name"], video["places"][1]["start_s"]) == (NASTY, 0.5)
    assert video["places"][1]["score"] is None
    found = ask(client, "/api/clips/0/nearest?top=4&others=true")["found"]
    assert [clip["video"] for clip in found] == [1, 1, 1, 1]
    assert sorted((clip["cosine"] for clip in found), reverse=True) == [clip["cosine"] for clip in found]
    assert 0 not in [clip["row"] for clip in ask(client, "/api/clips/0/nearest?top=200")["found"]]
    pairs = ask(client, "/api/pairs?threshold=0.5")
    assert (pairs["total"], pairs["pairs"][0]["left"]["video"], pairs["pairs"][0]["right"]["video"]) == (1, 0, 1)
    assert client.get("/thumbnails/3").content[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize(
    "query",
    [
        "clips/0/nearest?top=0",
        "clips/0/nearest?top=x",
        "pairs",
        "pairs?threshold=nan",
        "pairs?threshold=2",
        "videos?first=-1",
    ],
)
def test_a_query_that_is_wrong_says_so(query: str, client: TestClient) -> None:
    answer = client.get(f"/api/{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("query.")


def list_files(folder: Path) -> set[str]:
    return {name for _, _, names in os.walk(folder) for name in names}


def test_an_upload_finds_itself_and_leaves_no_file(
    client: TestClient, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = (folder / "videos" / "b.webm").read_bytes()
    client.post("/api/uploads", content=data, headers=OURS)  # starts the decoder
    before = len(list(Path("/proc/self/fd").iterdir()))
    answer = client.post("/api/uploads", content=data, headers=OURS)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (len(told["clips"]), told["total"]) == (6, 6)
    found = ask(client, f"/api/uploads/{told['upload']}/nearest?clip=2&top=3")["found"]
    assert (found[0]["row"], round(found[0]["cosine"], 4)) == (8, 1.0)
    assert list_files(tmp_path) == set()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list_files(folder / "videos") == {NASTY, "b.webm", "c.mp4"}
    assert client.get(f"/api/uploads/{told['upload']}/nearest?clip=6").status_code == 404


def test_an_upload_that_is_no_video_says_so(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for content, status, message in (
        (b"%PDF-1.7 a text", 422, "it cannot be searched by: it is not a video that can be read"),
        (b"", 400, "the file is empty"),
    ):
        answer = client.post("/api/uploads", content=content, headers=OURS)
        assert answer.status_code == status
        assert message in answer.json()["error"]
        assert "/proc" not in answer.text
    assert list_files(tmp_path) == set()


def test_too_large_an_upload_is_refused_before_it_is_read(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_server, "UPLOAD_BYTES", 2 << 20)
    monkeypatch.setattr(tempfile, "tempdir", "/proc/no-such-place-to-write")
    for content in (b"x" * ((2 << 20) + 1), iter([b"x"])):  # the second does not say how long it is
        answer = client.post("/api/uploads", content=content, headers=OURS)
        assert answer.status_code == 413
        assert answer.json()["error"] == "a video must have a length, of at most 2 MiB"


def test_without_a_bundle_nothing_is_embedded(folder: Path) -> None:
    corpus, index = open_search(str(folder / "output"))
    service = SearchService(corpus, index)
    client = TestClient(create_app(service), base_url=URL)
    assert ask(client, "/api/corpus")["uploads"] is False
    answer = client.post("/api/uploads", content=b"x", headers=OURS)
    assert (answer.status_code, "start vjepa2 search with one" in answer.text) == (404, True)
    assert client.get("/api/uploads/x/nearest").status_code == 404
    service.close()


def test_a_video_that_is_gone_or_was_changed_is_not_served(folder: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        shutil.copy(folder / "videos" / NASTY, tmp_path / name)
    names = [str(tmp_path / name) for name in ("a.mp4", "b.mp4", "c.mp4")]
    output = write_corpus(tmp_path / "output", names, [draw_vectors(seed, 2) for seed in range(3)])
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "b.mp4").write_bytes(b"something else")
    (tmp_path / "c.mp4").unlink()
    (tmp_path / "c.mp4").mkdir()
    service = SearchService(*open_search(str(output)))
    client = TestClient(create_app(service), base_url=URL)
    for number, message in enumerate(("it is not a file that can be read", "b.mp4 was changed", "it is not a file")):
        for path in (f"/videos/{number}", f"/thumbnails/{2 * number}"):
            answer = client.get(path)
            assert (answer.status_code, message in answer.json()["error"]) == (404, True), path
    assert ask(client, "/api/clips/0/nearest")["found"]
    service.close()
