"""How do other programs get embeddings over HTTP? KServe's /v2 routes: frames come in, embeddings go out, as JSON.

    python examples/serve.py BUNDLE [--port 8000]

Frames are sent, never named: nothing that a client says is opened. There are no passwords and no patience with slow
clients, so it listens on this machine alone; put a proxy before it. Embeddings of random weights mean nothing.
"""

import sys
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, PositiveInt
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint

from vjepa2.errors import VideoError, Vjepa2Error
from vjepa2.runtime import EmbeddingEngine

MAX_BYTES = 64 * 2**20  # of a request; a number of JSON takes up to four


class Frames(BaseModel, extra="forbid"):
    """Videos of one size and length: values in the order of `shape`, which is `[B, T, H, W, 3]`."""

    name: Literal["frames"]
    datatype: Literal["UINT8"]
    shape: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, Literal[3]]
    data: list[Annotated[int, Field(strict=True, ge=0, le=255)]]


class Wanted(BaseModel, extra="forbid"):
    """An output."""

    name: Literal["embedding"]


class InferRequest(BaseModel, extra="forbid"):
    """What is sent to be embedded."""

    id: str = ""
    inputs: tuple[Frames]
    outputs: tuple[Wanted, ...] = ()  # all there are, which is one


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


def create_app(engine: EmbeddingEngine) -> FastAPI:
    """The service of an open engine, which stays the caller's to close."""
    name = engine.backend.bundle.path.name
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
        inputs = [{"name": "frames", "datatype": "UINT8", "shape": [-1, -1, -1, -1, 3]}]
        outputs = [{"name": "embedding", "datatype": "FP32", "shape": [-1, dim]}]
        return {"name": name, "platform": engine.backend.name, "inputs": inputs, "outputs": outputs}

    @app.post(f"/v2/models/{name}/infer")
    def infer(request: InferRequest) -> dict[str, Any]:
        frames = request.inputs[0]
        if len(frames.data) != prod(frames.shape):
            raise VideoError(f"there are {len(frames.data)} values; {list(frames.shape)} are {prod(frames.shape)}")
        videos_BTHWC = np.array(frames.data, np.uint8).reshape(frames.shape)
        rows_BD = engine.encode(list(videos_BTHWC))  # any number of threads may
        output = {"name": "embedding", "datatype": "FP32", "shape": rows_BD.shape, "data": rows_BD.ravel().tolist()}
        return {"model_name": name, "id": request.id, "outputs": [output]}

    return app


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
def main(bundle: Path, port: int) -> None:
    """Serve BUNDLE on this machine."""
    with EmbeddingEngine.open(bundle, warm_up=True) as engine:
        uvicorn.run(create_app(engine), port=port, limit_concurrency=16)


if __name__ == "__main__":
    try:
        main()
    except Vjepa2Error as error:
        sys.exit(str(error))
