"""How do other programs get embeddings over HTTP? KServe's /v2 routes: frames come in, embeddings go out.

    python examples/serve.py BUNDLE [--port 8000] [--takes videos|clips]

Of a video, frames of any number and size, a clip is chosen and cut here; a clip is of the model's size and computed as
it is, which is what Triton takes, and the clients beside this file send.
Either is JSON, or bytes behind JSON, as `tritonclient` sends and asks for them (KServe's binary data extension).
Frames are sent, never named: nothing that a client says is opened. There are no passwords and no patience with slow
clients, so it listens on this machine alone; put a proxy before it. Embeddings of random weights mean nothing.
"""

import sys
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import click
import numpy as np
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint

from vjepa2.errors import VideoError, Vjepa2Error
from vjepa2.runtime import EmbeddingEngine
from vjepa2.runtime.backends.base import FloatArray, FramesArray

Takes = Literal["videos", "clips"]
MAX_BYTES = 64 * 2**20  # of a request; a number of JSON takes up to four
JSON_BYTES = "inference-header-content-length"  # the header that says where bytes begin


class Sent(BaseModel, extra="forbid"):
    """How many bytes of an input lie behind the JSON."""

    binary_data_size: NonNegativeInt


class Frames(BaseModel, extra="forbid"):
    """Videos of one size and length: values in the order of `shape`, which is `[B, T, H, W, 3]`, here or as bytes."""

    name: Literal["frames"]
    datatype: Literal["UINT8"]
    shape: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, Literal[3]]
    data: list[Annotated[int, Field(strict=True, ge=0, le=255)]] | None = None
    parameters: Sent | None = None


class Form(BaseModel, extra="forbid"):
    """Whether an output is wanted as bytes."""

    binary_data: bool = False


class Wanted(BaseModel, extra="forbid"):
    """An output."""

    name: Literal["embedding"]
    parameters: Form = Form()


class Forms(BaseModel, extra="forbid"):
    """Whether every output is wanted as bytes."""

    binary_data_output: bool = False


class InferRequest(BaseModel, extra="forbid"):
    """What is sent to be embedded."""

    id: str = ""
    inputs: tuple[Frames]
    outputs: tuple[Wanted, ...] = ()  # all there are, which is one
    parameters: Forms = Forms()

    @property
    def wants_bytes(self) -> bool:
        """Whether the embedding goes behind the JSON."""
        return self.outputs[0].parameters.binary_data if self.outputs else self.parameters.binary_data_output


async def read_request(request: Request) -> tuple[InferRequest, FramesArray]:
    """What is asked, and the videos `[B, T, H, W, 3]` that came with it."""
    body = memoryview(await request.body())
    said = request.headers.get(JSON_BYTES, str(len(body)))
    if not (said.isascii() and said.isdigit() and int(said) <= len(body)):
        raise VideoError(f"{JSON_BYTES} must be a number of at most the {len(body)} bytes that were sent")
    try:
        asked = InferRequest.model_validate_json(bytes(body[: int(said)]))
    except ValidationError as error:
        found = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_input=False)]
        raise RequestValidationError(found) from error
    return asked, take_frames(asked.inputs[0], body[int(said) :])


def take_frames(frames: Frames, behind: memoryview) -> FramesArray:
    """The array that `frames` describes, of its own numbers or of the bytes behind the JSON."""
    if (frames.data is None) == (frames.parameters is None):
        raise VideoError("frames are either data, or parameters with the binary_data_size of what follows the JSON")
    size = 0 if frames.parameters is None else frames.parameters.binary_data_size
    if size != len(behind):
        raise VideoError(f"{len(behind)} bytes follow the JSON; binary_data_size is {size}")
    values = np.frombuffer(behind, np.uint8) if frames.data is None else np.array(frames.data, np.uint8)
    if len(values) != prod(frames.shape):
        raise VideoError(f"there are {len(values)} values; {list(frames.shape)} are {prod(frames.shape)}")
    videos_BTHWC: FramesArray = values.reshape(frames.shape)
    return videos_BTHWC


def answer_with(asked: InferRequest, name: str, rows_BD: FloatArray) -> Response:
    """The embeddings as they are wanted."""
    output: dict[str, Any] = {"name": "embedding", "datatype": "FP32", "shape": rows_BD.shape}
    record = {"model_name": name, "id": asked.id, "outputs": [output]}
    if not asked.wants_bytes:
        output["data"] = rows_BD.ravel().tolist()
        return JSONResponse(record)
    output["parameters"] = {"binary_data_size": rows_BD.nbytes}
    head = JSONResponse(record).body
    headers = {JSON_BYTES: str(len(head))}
    return Response(bytes(head) + rows_BD.tobytes(), headers=headers, media_type="application/octet-stream")


async def limit_length(request: Request, answer: RequestResponseEndpoint) -> Response:
    """Refuse a body before it is read, if it is too large or does not say how large it is."""
    if request.method == "POST" and int(request.headers.get("content-length", MAX_BYTES + 1)) > MAX_BYTES:
        return JSONResponse({"error": f"a request must say its length, of at most {MAX_BYTES} bytes"}, 400)
    return await answer(request)


async def explain(_: Request, error: Exception) -> Response:
    """What is wrong with a request, without repeating what it holds."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 400)
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    return JSONResponse({"error": str(error)}, 400)


def embed(engine: EmbeddingEngine, takes: Takes, videos_BTHWC: FramesArray) -> FloatArray:
    """Embeddings `[B, D]`; any number of threads may ask."""
    if takes == "videos":
        return engine.encode(list(videos_BTHWC))
    sides = engine.backend.bundle.manifest.frames_shape
    if videos_BTHWC.shape[1:] != sides:
        raise VideoError(f"the shape is {list(videos_BTHWC.shape)}; clips are [B, {', '.join(map(str, sides))}]")
    return engine.queue.submit(videos_BTHWC, "embedding").result()


def create_app(engine: EmbeddingEngine, takes: Takes = "videos") -> FastAPI:
    """The service of an open engine, which stays the caller's to close."""
    name = engine.backend.bundle.path.name
    sides = (-1, -1, -1, 3) if takes == "videos" else engine.backend.bundle.manifest.frames_shape
    dim = next(info.shape[-1] for info in engine.backend.bundle.manifest.outputs if info.name == "embedding")
    app = FastAPI(exception_handlers=dict.fromkeys((RequestValidationError, HTTPException, VideoError), explain))
    app.middleware("http")(limit_length)

    @app.get("/v2/health/live")
    async def live() -> dict[str, Any]:
        return {"live": True}

    @app.get("/v2/health/ready")
    @app.get(f"/v2/models/{name}/ready")
    async def ready() -> Response:
        is_ready = engine.metrics().first_call_ms is not None
        return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    @app.get(f"/v2/models/{name}")
    async def describe() -> dict[str, Any]:
        inputs = [{"name": "frames", "datatype": "UINT8", "shape": [-1, *sides]}]
        outputs = [{"name": "embedding", "datatype": "FP32", "shape": [-1, dim]}]
        return {"name": name, "platform": engine.backend.name, "inputs": inputs, "outputs": outputs}

    @app.post(f"/v2/models/{name}/infer")
    def infer(sent: Annotated[tuple[InferRequest, FramesArray], Depends(read_request)]) -> Response:
        asked, videos_BTHWC = sent
        return answer_with(asked, name, embed(engine, takes, videos_BTHWC))

    return app


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--takes", type=click.Choice(get_args(Takes)), default="videos", show_default=True)
def main(bundle: Path, port: int, takes: Takes) -> None:
    """Serve BUNDLE on this machine."""
    with EmbeddingEngine.open(bundle, warm_up=True) as engine:
        uvicorn.run(create_app(engine, takes), port=port, limit_concurrency=16)


if __name__ == "__main__":
    try:
        main()
    except Vjepa2Error as error:
        sys.exit(str(error))
