"""`vjepa2 stream`."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from vjepa2.errors import Vjepa2Error
from vjepa2.outputs import write_json, write_whole

from .embedding import EmbeddingEngine
from .stream import EmbeddingStream, StreamedEmbedding, open_stream
from .stream_files import RowWriter, choose_writer
from .stream_source import Playing, parse_source
from .video_options import BackendChoice, backend_options


@click.command("stream")
@backend_options
@click.argument("source")
@click.option("--stride", default="1s", show_default=True, help="From window to window: seconds, 0.5s, or frames, 8f.")
@click.option("--sampling", default="fps:4", show_default=True, help="Frames of a window: fps:N a second, or stride:N.")
@click.option("--loop", is_flag=True, help="Play a file again and again.")
@click.option("--speed", type=click.FloatRange(0, min_open=True), default=1.0, help="Play a file so much faster.")
@click.option("--max-gap", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True,
              help="Seconds between time stamps; more is a gap, which no window spans.")  # fmt: skip
@click.option("--stall", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True,
              help="Seconds without a frame until the source is opened again.")  # fmt: skip
@click.option("--windows", type=click.IntRange(1), help="End after so many; otherwise with the source, or at Ctrl-C.")
@click.option("--embeddings", is_flag=True, help="Print each window's embedding too.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A .npy or .parquet file of the embeddings.")
@click.option("--json", "json_file", type=click.Path(), help="Write the summary as JSON, to a file.")
def stream_command(
    bundle: Path,
    backend: BackendChoice,
    source: str,
    stride: str,
    windows: int | None,
    embeddings: bool,
    output: Path | None,
    json_file: str | None,
    **playing: Any,
) -> None:
    """Embed SOURCE with BUNDLE as it comes: one line of JSON a window.

    SOURCE is a file, played at the rate of its time stamps, /dev/videoN or rtsp://. A window is as many frames as the
    model takes, 4 a second as in V-JEPA 2's pretraining. While one is computed others become due: the newest is next,
    the rest is dropped and counted. Ctrl-C ends it, with a summary and exit status 0.
    """
    if json_file == "-":
        raise Vjepa2Error("--json is -; standard output has the windows: name a file")
    make_writer = None if output is None else choose_writer(output)
    say = partial(Console(stderr=True).print, highlight=False, markup=False)
    with backend.open(bundle) as engine, _open(engine, source, stride, playing, say) as stream, _end_at_signals(stream):
        _introduce(engine, say)
        rows = islice(stream, windows)
        if output is None or make_writer is None:
            _print_rows(rows, embeddings)
        else:
            facts = _name_facts(engine, source)
            start = partial(make_writer, dim=engine.queue.row_shape("embedding")[0], facts=facts)
            write_whole(output, lambda file: _print_rows(rows, embeddings, start(file)))
        summary = stream.summarise()
    say(str(summary))
    if json_file:
        write_json(json_file, summary)


def _open(
    engine: EmbeddingEngine, source: str, stride: str, playing: dict[str, Any], say: Callable[..., None]
) -> EmbeddingStream:
    return open_stream(
        engine.queue,
        source,
        stride=stride,
        playing=Playing(
            sampling=playing["sampling"],
            loop=playing["loop"],
            speed=playing["speed"],
            max_gap_s=playing["max_gap"],
            stall_s=playing["stall"],
        ),
        notify=partial(say, style="yellow"),
    )


@contextmanager
def _end_at_signals(stream: EmbeddingStream) -> Iterator[None]:
    """The first Ctrl-C, or SIGTERM, lets the window at hand be finished and written; the second does not wait."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(kind) for kind in kinds]

    def restore() -> None:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)

    def end(*_: object) -> None:
        restore()
        stream.stop()

    for kind in kinds:
        signal.signal(kind, end)
    try:
        yield
    finally:
        restore()


def _introduce(engine: EmbeddingEngine, say: Callable[..., None]) -> None:
    ran = engine.backend
    say(f"by {ran.name} on {ran.device} in {ran.precision} ({ran.reason}); Ctrl-C ends it")
    if ran.bundle.manifest.source.warning:
        say(f"note: {ran.bundle.manifest.source.warning}", style="yellow")


def _print_rows(rows: Iterable[StreamedEmbedding], embeddings: bool, writer: RowWriter | None = None) -> None:
    """Until there are no more, or nobody reads them."""
    for row in rows:
        try:
            click.echo(json.dumps(_describe(row, embeddings), allow_nan=False))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python would still write in the end
            break
        if writer:
            writer.add(row)
    if writer:
        writer.close()


def _describe(row: StreamedEmbedding, embeddings: bool) -> dict[str, object]:
    line: dict[str, object] = {
        "start_s": round(row.start_s, 6),
        "end_s": round(row.end_s, 6),
        "delay_ms": round(row.delay_ms, 3),
        "dropped": row.dropped,
        "novelty": row.novelty,
        "novelty_z": row.novelty_z,
        "pictures": row.pictures,
        "gaps": row.gaps,
    }
    return line | ({"embedding": row.embedding_D.tolist()} if embeddings else {})


def _name_facts(engine: EmbeddingEngine, source: str) -> dict[str, str]:
    ran = engine.backend
    return {
        "source": parse_source(source).name,
        "model": ran.bundle.manifest.model.name,
        "backend": ran.name,
        "precision": ran.precision,
        "bundle": str(ran.bundle.path),
    }
