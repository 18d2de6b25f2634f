"""Does the example of a service keep to KServe's /v2 routes, refuse what is wrong, and stay right under load?"""

import json
import runpy
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from click.testing import CliRunner
from fastapi import FastAPI
from fastapi.testclient import TestClient

from examples import embed_by_http, embed_by_triton, serve
from vjepa2.errors import BackendError, VideoError
from vjepa2.runtime import EmbeddingEngine
from vjepa2.runtime.backends.base import FloatArray, FramesArray, Outputs

SHAPE = [1, 4, 6, 8, 3]
VALUES = [7] * 576
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def engine(exported: Path) -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine.open(exported) as engine:
        yield engine


@pytest.fixture
def client(engine: EmbeddingEngine) -> Iterator[TestClient]:
    engine.warm_up()
    with TestClient(serve.create_app(engine)) as client:
        yield client


@pytest.fixture
def model(exported: Path) -> str:
    return f"/v2/models/{exported.name}"


def frames_of(seed: int, videos: int = 1) -> FramesArray:
    return np.random.default_rng(seed).integers(0, 256, (videos, 5, 30, 40, 3), dtype=np.uint8)


def ask(frames_BTHWC: FramesArray) -> dict[str, Any]:
    data = frames_BTHWC.ravel().tolist()
    return {"inputs": [{"name": "frames", "datatype": "UINT8", "shape": list(frames_BTHWC.shape), "data": data}]}


def read_rows(answer: dict[str, Any]) -> FloatArray:
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"]) == ("embedding", "FP32")
    return np.array(output["data"], np.float32).reshape(output["shape"])


def test_health_and_what_the_model_takes(
    client: TestClient, model: str, engine: EmbeddingEngine, exported: Path
) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    for route in ("/v2/health/ready", f"{model}/ready"):
        assert client.get(route).json() == {"name": exported.name, "ready": True}
    about = client.get(model).json()
    assert about["name"] == exported.name
    assert about["platform"] == engine.backend.name
    assert about["inputs"] == [{"name": "frames", "datatype": "UINT8", "shape": [-1, -1, -1, -1, 3]}]
    assert about["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 192]}]
    unknown = client.get("/v2/models/another/ready")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Not Found"})


def test_a_clip_of_the_models_size_is_computed_as_it_is(engine: EmbeddingEngine, model: str) -> None:
    clips_BTHWC = np.random.default_rng(1).integers(0, 256, (2, 4, 64, 96, 3), dtype=np.uint8)
    expected_BD = engine.backend.run(clips_BTHWC).by_name()["embedding"]
    with TestClient(serve.create_app(engine, "clips")) as client:
        assert client.get(model).json()["inputs"][0]["shape"] == [-1, 4, 64, 96, 3]
        assert np.array_equal(read_rows(client.post(f"{model}/infer", json=ask(clips_BTHWC)).json()), expected_BD)
        answer = client.post(f"{model}/infer", json=ask(clips_BTHWC[:, :, :32]))
        assert answer.status_code == 400
        assert answer.json()["error"] == "the shape is [2, 4, 32, 96, 3]; clips are [B, 4, 64, 96, 3]"


def test_it_is_ready_once_a_clip_was_computed(exported: Path, model: str) -> None:
    with EmbeddingEngine.open(exported) as engine, TestClient(serve.create_app(engine)) as client:
        for status in (503, 200):
            for route in ("/v2/health/ready", f"{model}/ready"):
                answer = client.get(route)
                assert (answer.status_code, answer.json()["ready"]) == (status, status == 200)
            engine.warm_up()
        assert client.get("/v2/health/live").status_code == 200


def test_embeddings_are_those_of_the_engine_bit_for_bit(
    client: TestClient, model: str, engine: EmbeddingEngine
) -> None:
    frames_BTHWC = frames_of(0, videos=2)
    request = ask(frames_BTHWC) | {"id": "seven", "outputs": [{"name": "embedding"}]}
    answer = client.post(f"{model}/infer", json=request).json()
    assert (answer["id"], answer["model_name"]) == ("seven", model.rpartition("/")[2])
    assert np.array_equal(read_rows(answer), engine.encode(list(frames_BTHWC)))
    assert not np.array_equal(read_rows(answer)[0], read_rows(answer)[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": VALUES[1:]}, "there are 575 values; [1, 4, 6, 8, 3] are 576"),
        ({"data": [256, *VALUES[1:]]}, "body.inputs.0.data.0: Input should be less than or equal to 255"),
        ({"data": [-1, *VALUES[1:]]}, "body.inputs.0.data.0: Input should be greater than or equal to 0"),
        ({"data": [1.0, *VALUES[1:]]}, "body.inputs.0.data.0: Input should be a valid integer"),
        ({"data": [True, *VALUES[1:]]}, "body.inputs.0.data.0: Input should be a valid integer"),
        ({"shape": [1, 4, 6, 8]}, "body.inputs.0.shape.4: Field required"),
        ({"shape": [1, 4, 6, 24, 1]}, "body.inputs.0.shape.4: Input should be 3"),
        ({"shape": [0, 4, 6, 8, 3], "data": []}, "body.inputs.0.shape.0: Input should be greater than 0"),
        ({"shape": [2**32, 2**32, 1, 1, 3], "data": []}, "there are 0 values"),
        ({"shape": [2, 2, 6, 8, 3]}, "the array has 2 frames"),
        ({"datatype": "FP32"}, "body.inputs.0.datatype: Input should be 'UINT8'"),
        ({"name": "pixels"}, "body.inputs.0.name: Input should be 'frames'"),
        ({"parameters": {"shared_memory_region": "x"}}, "body.inputs.0.parameters.binary_data_size: Field required"),
        ({"parameters": {"binary_data_size": 9}}, "frames are either data, or parameters with the binary_data_size"),
        ({"data": None}, "frames are either data, or parameters with the binary_data_size of what follows the JSON"),
        ({"data": None, "parameters": {"binary_data_size": 576}}, "0 bytes follow the JSON; binary_data_size is 576"),
    ],
)
def test_what_is_wrong_is_said_with_status_400(
    change: dict[str, object], message: str, client: TestClient, model: str
) -> None:
    right = {"name": "frames", "datatype": "UINT8", "shape": SHAPE, "data": VALUES}
    assert client.post(f"{model}/infer", json={"inputs": [right]}).status_code == 200
    answer = client.post(f"{model}/infer", json={"inputs": [right | change]})
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert len(answer.content) < 300, "what was sent is not sent back"


@pytest.mark.parametrize("body", ["", "{", "[]", "[" * 100_000, "null", '{"inputs": []}', '{"inputs": 1e999}', "\xff"])
def test_what_is_no_request_is_refused(body: str, client: TestClient, model: str) -> None:
    answer = client.post(f"{model}/infer", content=body.encode("latin-1"), headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]


def ask_in_bytes(frames_BTHWC: FramesArray, **more: Any) -> tuple[bytes, dict[str, str]]:
    """A request as the binary data extension has it: JSON, and frames behind it; with its headers."""
    frames: dict[str, Any] = {"name": "frames", "datatype": "UINT8", "shape": list(frames_BTHWC.shape)}
    frames["parameters"] = {"binary_data_size": frames_BTHWC.nbytes}
    head = json.dumps({"inputs": [frames]} | more).encode()
    return head + frames_BTHWC.tobytes(), {"inference-header-content-length": str(len(head))}


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "embedding", "parameters": {"binary_data": True}}]},
    ],
)
def test_bytes_come_in_and_go_out_as_they_are_asked_for(
    more: dict[str, Any], client: TestClient, model: str, engine: EmbeddingEngine
) -> None:
    frames_BTHWC = frames_of(0, videos=2)
    expected_BD = engine.encode(list(frames_BTHWC))
    body, headers = ask_in_bytes(frames_BTHWC, **more)
    answer = client.post(f"{model}/infer", content=body, headers=headers)
    size = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:size])["outputs"]
    assert output == {
        "name": "embedding", "datatype": "FP32", "shape": [2, 192],
        "parameters": {"binary_data_size": 2 * 192 * 4},
    }  # fmt: skip
    assert answer.content[size:] == expected_BD.tobytes()
    body, headers = ask_in_bytes(frames_BTHWC)
    assert np.array_equal(read_rows(client.post(f"{model}/infer", content=body, headers=headers).json()), expected_BD)


@pytest.mark.parametrize(
    ("size", "cut", "message"),
    [
        ("-1", 0, "must be a number of at most the"),
        ("1e3", 0, "must be a number of at most the"),
        ("\u00b2", 0, "must be a number of at most the"),
        ("999999999", 0, "must be a number of at most the"),
        ("5", 0, "body: Invalid JSON"),
        ("0", 0, "body: Invalid JSON"),
        (None, 1, "17999 bytes follow the JSON; binary_data_size is 18000"),
        (None, -1, "18001 bytes follow the JSON; binary_data_size is 18000"),
    ],
)
def test_bytes_that_are_not_as_said_are_refused(
    size: str | None, cut: int, message: str, client: TestClient, model: str
) -> None:
    body, headers = ask_in_bytes(frames_of(0))
    body = body[:-cut] if cut > 0 else body + b"x" * -cut
    if size is not None:
        headers = {"inference-header-content-length": size.encode("latin-1")}  # type: ignore[dict-item]
    answer = client.post(f"{model}/infer", content=body, headers=headers)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert len(answer.content) < 300


def test_an_output_that_there_is_not_is_refused(client: TestClient, model: str) -> None:
    request = ask(frames_of(0)) | {"outputs": [{"name": "logits"}]}
    answer = client.post(f"{model}/infer", json=request)
    assert answer.status_code == 400
    assert answer.json()["error"] == "body.outputs.0.name: Input should be 'embedding'"


def test_too_large_a_body_is_refused_before_it_is_read(
    client: TestClient, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps(ask(frames_of(0))).encode()
    monkeypatch.setattr(serve, "MAX_BYTES", len(body))
    assert client.post(f"{model}/infer", content=body, headers=JSON).status_code == 200
    monkeypatch.setattr(serve, "MAX_BYTES", len(body) - 1)
    monkeypatch.setattr(serve.InferRequest, "model_validate_json", None)
    for content in (body, iter([body])):  # the second does not say how long it is
        answer = client.post(f"{model}/infer", content=content, headers=JSON)
        assert answer.status_code == 400
        assert f"of at most {len(body) - 1} bytes" in answer.text


@pytest.mark.parametrize("datatype", ["UINT8", "BYTES"])
def test_a_path_is_never_opened(
    datatype: str, client: TestClient, model: str, engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(engine.clips.decoder, "open", lambda *words: opened.append(words))
    path = str(Path(__file__).parent.parent / "examples" / "moving-scene.mp4")
    for data in ([path], path, [[path]]):
        tensor = {"name": "frames", "datatype": datatype, "shape": [1, 1, 1, 1, 3], "data": data}
        answer = client.post(f"{model}/infer", json={"inputs": [tensor]})
        assert answer.status_code == 400
    assert not opened


def test_many_callers_get_their_own_and_the_engine_one_at_a_time(
    client: TestClient, model: str, engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [engine.encode(frames_of(seed)[0]) for seed in range(24)]
    compute, inside, most = engine.backend.run, threading.Semaphore(24), []

    def watch(*words: Any) -> Outputs:
        with inside:
            most.append(24 - inside._value)
            time.sleep(0.002)
            return compute(*words)

    monkeypatch.setattr(engine.backend, "run", watch)
    with ThreadPoolExecutor(8) as pool:
        posts = pool.map(lambda seed: client.post(f"{model}/infer", json=ask(frames_of(seed))), range(24))
        rows = [read_rows(answer.json())[0] for answer in posts]
    assert max(most) == 1
    assert len(most) == 24
    assert all(np.array_equal(row, right) for row, right in zip(rows, expected, strict=True))


def test_it_listens_on_this_machine_once_a_clip_was_computed(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[tuple[FastAPI, dict[str, object]]] = []

    def listen(app: FastAPI, **options: object) -> None:
        assert TestClient(app).get("/v2/health/ready").status_code == 200
        runs.append((app, options))

    monkeypatch.setattr(uvicorn, "run", listen)
    monkeypatch.setattr(sys, "argv", ["serve", str(exported), "--port", "8123"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(serve.__file__, run_name="__main__")
    assert ended.value.code == 0
    ((_, options),) = runs
    assert options["port"] == 8123
    assert "host" not in options, "uvicorn's own is 127.0.0.1"


def test_a_bundle_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(serve.__file__, run_name="__main__")
    assert "is not a folder" in str(ended.value.code)


def test_a_failure_that_is_not_the_callers_is_no_400(
    engine: EmbeddingEngine, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> FloatArray:
        raise RuntimeError("out of memory")

    with TestClient(serve.create_app(engine), raise_server_exceptions=False) as client:
        monkeypatch.setattr(engine, "encode", fail)
        assert client.post(f"{model}/infer", json=ask(frames_of(0))).status_code == 500


@pytest.fixture(scope="module")
def url(engine: EmbeddingEngine) -> Iterator[str]:
    """Where the service listens, on a port that was free."""
    engine.warm_up()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(serve.create_app(engine, "clips"), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def videos(write_video: Callable[..., Path], scene: FramesArray) -> list[Path]:
    return [write_video(scene, "a.mp4"), write_video(scene[::-1], "b.mp4")]


def test_tritons_own_client_gets_the_engines_embeddings(
    url: str, exported: Path, engine: EmbeddingEngine, videos: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "rows.npy"
    words = [str(exported / "manifest.json"), *map(str, videos), "-o", str(target), "--url", url]
    done = CliRunner().invoke(embed_by_triton.main, words)
    assert done.exit_code == 0, done.output
    assert np.array_equal(np.load(target), engine.encode(videos))


def test_plain_http_gets_the_engines_embedding(
    url: str, exported: Path, engine: EmbeddingEngine, videos: list[Path]
) -> None:
    words = [str(exported / "manifest.json"), str(videos[1]), "--url", f"http://{url}"]
    done = CliRunner().invoke(embed_by_http.main, words)
    assert done.exit_code == 0, done.output
    assert np.array_equal(np.array(json.loads(done.stdout), np.float32), engine.encode(videos[1]))


CLIENTS = [(embed_by_triton, "", ["-o", "x.npy"]), (embed_by_http, "http://", [])]


@pytest.mark.parametrize(("client", "scheme", "words"), CLIENTS)
def test_a_client_needs_the_manifest_alone_and_says_what_went_wrong(
    client: Any, scheme: str, words: list[str], url: str, exported: Path, dynamic: Path, videos: list[Path],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail_with(manifest: Path, video: Path, place: str, *more: str) -> BaseException:
        asked = [str(manifest), str(video), *words, "--url", f"{scheme}{place}", *more]
        done = CliRunner().invoke(client.main, asked)
        assert done.exception is not None
        return done.exception

    monkeypatch.chdir(tmp_path)
    alone = tmp_path / "alone" / "manifest.json"
    alone.parent.mkdir()
    alone.write_bytes((exported / "manifest.json").read_bytes())
    done = CliRunner().invoke(
        client.main, [str(alone), str(videos[0]), *words, "--url", f"{scheme}{url}", "--model", exported.name]
    )
    assert done.exit_code == 0
    refused = fail_with(alone, videos[0], url)  # the folder is called otherwise
    assert isinstance(refused, BackendError)
    assert "Not Found" in str(refused)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"127.0.0.1:{listener.getsockname()[1]}"
    silent = fail_with(alone, videos[0], nobody)
    assert isinstance(silent, BackendError)
    assert "refused" in str(silent)
    (tmp_path / "none.mp4").write_bytes(b"nothing")
    broken = fail_with(alone, tmp_path / "none.mp4", url)
    assert isinstance(broken, VideoError)
    assert "none.mp4 is rejected (" in str(broken)
    pixels = fail_with(dynamic / "manifest.json", videos[0], url)
    assert str(pixels) == "the model takes pixel_values_videos; export it with --input frames"
    monkeypatch.setattr(sys, "argv", ["client", str(dynamic / "manifest.json"), str(videos[0]), *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(client.__file__, run_name="__main__")
    assert ended.value.code == str(pixels)
