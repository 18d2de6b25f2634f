"""How does the page get its answers: which routes are there, and what does each read?"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as PathPart
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from vjepa2.errors import BusyError, VideoError, Vjepa2Error

from .search_files import check_file, name_type
from .search_guard import Guard
from .search_service import SearchService
from .search_upload import UPLOAD_BYTES

PAGE = Path(__file__).parent / "search_page"
_FILES = {
    "page.css": "text/css",
    **dict.fromkeys(("page.js", "cards.js", "map.js", "novelty.js"), "text/javascript"),
}
_Number = Annotated[int, Query(ge=0)]
_Part = Annotated[int, PathPart(ge=0)]
_Top = Annotated[int, Query(ge=1, le=200)]
_DAY = {"Cache-Control": "private, max-age=86400"}


def create_app(service: SearchService) -> FastAPI:
    """The server of an open service, which stays the caller's to close."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard)
    for kind in (RequestValidationError, HTTPException, Vjepa2Error):
        app.add_exception_handler(kind, _explain)
    _add_page(app)
    _add_answers(app, service)
    _add_pictures(app, service)
    _add_uploads(app, service)
    return app


async def _explain(_: Request, error: Exception) -> Response:
    """What is wrong, as JSON."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 400)
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    return JSONResponse({"error": str(error)}, 429 if isinstance(error, BusyError) else 404)


def _add_page(app: FastAPI) -> None:
    @app.get("/")
    async def page() -> Response:
        return FileResponse(PAGE / "page.html", media_type="text/html; charset=utf-8")

    @app.get("/page/{name}")
    async def part(name: str) -> Response:
        if name not in _FILES:
            raise HTTPException(404, "there is no such file")
        return FileResponse(PAGE / name, media_type=_FILES[name])


def _add_answers(app: FastAPI, service: SearchService) -> None:
    @app.get("/api/corpus")
    def corpus() -> Response:
        return JSONResponse(service.describe())

    @app.get("/api/map")
    def corpus_map() -> Response:
        drawn = service.map
        video = service.corpus.video_N[drawn.rows].tolist()
        return JSONResponse(asdict(drawn) | {"video": video})

    @app.get("/api/clips/{row}")
    def clip(row: _Part) -> Response:
        return JSONResponse(asdict(service.card(row)))

    @app.get("/api/clips/{row}/nearest")
    def nearest(row: _Part, top: _Top = 24, others: bool = False) -> Response:
        return JSONResponse({"found": [asdict(card) for card in service.find_like_row(row, top, others=others)]})

    @app.get("/api/videos")
    def videos(text: str = "", first: _Number = 0, count: _Top = 50) -> Response:
        total, found = service.find_videos(text, first, count)
        return JSONResponse({"total": total, "videos": found})

    @app.get("/api/videos/{number}")
    def video(number: _Part) -> Response:
        about, clips, novelty = service.follow_video(number)
        points = [asdict(clip) | asdict(point) for clip, point in zip(clips, novelty, strict=True)]
        return JSONResponse(about | {"places": points})

    @app.get("/api/pairs")
    def pairs(threshold: Annotated[float, Query(ge=0.5, le=1)]) -> Response:
        total, found = service.find_pairs(threshold)
        return JSONResponse({"total": total, "pairs": found})


def _add_pictures(app: FastAPI, service: SearchService) -> None:
    @app.get("/thumbnails/{row}")
    def thumbnail(row: _Part) -> Response:
        service.card(row)
        return Response(service.thumbnails.make(row), media_type="image/jpeg", headers=_DAY)

    @app.api_route("/videos/{number}", methods=["GET", "HEAD"])
    def play(number: _Part) -> Response:
        if number >= len(service.corpus.videos):
            raise HTTPException(404, "there is no such video")
        path = check_file(service.corpus.videos[number])
        return FileResponse(path, media_type=name_type(path))


def _add_uploads(app: FastAPI, service: SearchService) -> None:
    @app.post("/api/uploads")
    async def upload(request: Request) -> Response:
        if service.uploads is None:
            raise HTTPException(404, "there is no bundle to embed it with: start vjepa2 search with one")
        _check_length(request)
        with _make_room() as file:
            await _receive(request, file)
            try:
                made = await run_in_threadpool(service.uploads.embed, file)
            except VideoError as error:
                raise HTTPException(422, str(error)) from error
        clips = [{"start_s": clip.start_s, "end_s": clip.end_s} for clip in made.clips]
        return JSONResponse({"upload": made.key, "clips": clips, "total": made.total})

    @app.get("/api/uploads/{key}/nearest")
    def nearest(key: str, clip: _Number = 0, top: _Top = 24) -> Response:
        return JSONResponse({"found": [asdict(card) for card in service.find_like_upload(key, clip, top)]})


def _check_length(request: Request) -> None:
    """Refuse a body before it is read if it is too large or does not say how large it is."""
    said = request.headers.get("content-length", "")
    if not said.isdecimal() or len(said) > 18 or int(said) > UPLOAD_BYTES:
        raise HTTPException(413, f"a video must have a length, of at most {UPLOAD_BYTES >> 20} MiB")
    if said == "0":
        raise HTTPException(400, "the file is empty")


@contextmanager
def _make_room() -> Iterator[BinaryIO]:
    """A file without a name: it is gone when it is closed, or when this process ends, however that is."""
    try:
        with tempfile.TemporaryFile(prefix="vjepa2-search-") as file:
            yield file
    except OSError as error:
        raise HTTPException(507, f"there is no room for the upload ({error.strerror or error})") from error


async def _receive(request: Request, file: BinaryIO) -> None:
    try:
        async for block in request.stream():
            await run_in_threadpool(file.write, block)
    except ClientDisconnect as error:
        raise HTTPException(400, "the upload was broken off") from error
    await run_in_threadpool(file.flush)
