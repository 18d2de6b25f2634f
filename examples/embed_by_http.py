"""How is a video embedded by Triton without its client? KServe's /v2 protocol is JSON over HTTP: Python has both.

    python examples/embed_by_http.py MANIFEST VIDEO [--url http://127.0.0.1:8000] > embedding.json

MANIFEST is a bundle's manifest.json, which is all that is needed of it here. Frames as JSON are four times their bytes:
for more than a try, `embed_by_triton.py`.
"""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click

from vjepa2.errors import BackendError, VideoError, Vjepa2Error
from vjepa2.manifest import decode_manifest
from vjepa2.runtime import ClipRequest, VideoDecoder
from vjepa2.runtime.backends.base import FramesArray


def embed(url: str, model: str, frames_BTHWC: FramesArray, *, timeout_s: float = 60.0) -> list[float]:
    """The embedding of one clip `[1, T, H, W, 3]` by the server at `url`."""
    data = frames_BTHWC.ravel().tolist()
    frames = {"name": "frames", "datatype": "UINT8", "shape": frames_BTHWC.shape, "data": data}
    body = json.dumps({"inputs": [frames], "outputs": [{"name": "embedding"}]}).encode()
    request = Request(f"{url}/v2/models/{model}/infer", body, {"content-type": "application/json"})  # noqa: S310
    try:
        with urlopen(request, timeout=timeout_s) as response:  # noqa: S310  (the caller's own url)
            answer: dict[str, Any] = json.load(response)
    except HTTPError as error:
        with error:
            reason = error.read(1000).decode("utf-8", "replace")
        raise BackendError(f"{url} refused with {error.code}: {reason}") from error
    except (URLError, OSError, ValueError) as error:
        raise BackendError(f"{url} did not answer as a server of the v2 protocol does ({error})") from error
    embedding: list[float] = answer["outputs"][0]["data"]
    return embedding


@click.command()
@click.argument("manifest_file", metavar="MANIFEST", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
@click.option("--model", help="Its name there.  [default: that of the manifest's folder]")
def main(manifest_file: Path, video: Path, url: str, model: str | None) -> None:
    """Embed VIDEO by a server and print the numbers as JSON."""
    manifest = decode_manifest(manifest_file.read_bytes())
    if manifest.graph_input != "frames":
        raise BackendError(f"the model takes {manifest.graph_input}; export it with --input frames")
    with VideoDecoder() as decoder:
        clips, report = decoder.read(video, ClipRequest.of(manifest))
    if report.status != "ok":
        raise VideoError(f"{video} is {report}")
    name = model or manifest_file.resolve().parent.name
    click.echo(json.dumps(embed(url, name, clips[0].views_VTHWC)))


if __name__ == "__main__":
    try:
        main()
    except Vjepa2Error as error:
        sys.exit(str(error))
