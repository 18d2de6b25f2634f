"""`vjepa2 search`."""

import socket
from pathlib import Path

import click
import uvicorn
from rich.console import Console

from vjepa2.bundle import Bundle
from vjepa2.errors import Vjepa2Error
from vjepa2.progress import track_steps

from .backends import BACKENDS
from .search_open import open_search
from .search_server import create_app
from .search_service import SearchService
from .search_upload import open_uploads

_HOST = "127.0.0.1"


@click.command("search")
@click.argument("output", metavar="OUT")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any that is free.")
@click.option("--lance", type=click.Path(path_type=Path), help="Of corpus seal --lance: search there, not in memory.")
@click.option("--backend", help=f"Of uploads; that of the corpus by default: {', '.join(BACKENDS)}.")
def search_command(output: str, bundle: Path | None, port: int, lance: Path | None, backend: str | None) -> None:
    """Show the corpus in OUT, which corpus run wrote, on a page of this machine: search, map, copies, novelty.

    With BUNDLE, which must be that of the corpus, a video that is dropped on the page is searched by.
    """
    if backend is not None and bundle is None:
        raise click.UsageError("--backend embeds uploads, and those need a BUNDLE")
    console = Console(stderr=True)
    with _listen(port) as listener:
        corpus, index = open_search(output, lance, lambda shards: track_steps(shards, "reading"))
        uploads = open_uploads(bundle, corpus.run, corpus.policy, backend) if bundle else None
        warning = Bundle.open(bundle).manifest.source.warning if bundle else None
        service = SearchService(corpus, index, uploads, warning)
        try:
            if corpus.seal is None:
                console.print(
                    f"{output} is not sealed: what is final is shown, and nothing vouches that it is all",
                    highlight=False, soft_wrap=True,
                )  # fmt: skip
            console.print(
                f"{corpus.rows} clips of {len(corpus.videos)} videos: "
                f"http://{_HOST}:{listener.getsockname()[1]}/  (Ctrl-C ends)",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
            config = uvicorn.Config(
                create_app(service), log_level="warning", limit_concurrency=64, ws="none",
                timeout_graceful_shutdown=1,  # a video that is paused keeps its connection
            )  # fmt: skip
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            service.close()


def _listen(port: int) -> socket.socket:
    """A socket that this machine alone can reach."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
    except OSError as error:
        listener.close()
        raise Vjepa2Error(f"port {port} cannot be listened on ({error.strerror}); give another --port, or 0") from error
    return listener
