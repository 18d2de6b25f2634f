"""How are videos embedded by Triton? Decoded and cut to size here, computed there, through `tritonclient`.

    python examples/embed_by_triton.py MANIFEST VIDEO... -o embeddings.npy [--url 127.0.0.1:8000]

MANIFEST is a bundle's manifest.json, which is all that is needed of it here. `vjepa2 triton` writes what Triton serves;
`serve.py --takes clips` answers the same. Frames and embeddings travel as bytes.
"""

import sys
from pathlib import Path

import click
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from vjepa2.errors import BackendError, VideoError, Vjepa2Error
from vjepa2.manifest import Manifest, decode_manifest
from vjepa2.runtime import ClipRequest, VideoDecoder
from vjepa2.runtime.backends.base import FloatArray, FramesArray


def read_clip(decoder: VideoDecoder, video: Path, manifest: Manifest) -> FramesArray:
    """Frames `[1, T, H, W, 3]` of a video, chosen and cut as the model takes them."""
    if manifest.graph_input != "frames":
        raise BackendError(f"the model takes {manifest.graph_input}; export it with --input frames")
    clips, report = decoder.read(video, ClipRequest.of(manifest))
    if report.status != "ok":
        raise VideoError(f"{video} is {report}")
    return clips[0].views_VTHWC


def embed(client: InferenceServerClient, model: str, frames_BTHWC: FramesArray) -> FloatArray:
    """Embeddings `[B, D]` by the server."""
    frames = InferInput("frames", list(frames_BTHWC.shape), "UINT8")
    frames.set_data_from_numpy(frames_BTHWC)
    try:
        result = client.infer(model, [frames], outputs=[InferRequestedOutput("embedding")])
    except (InferenceServerException, OSError) as error:
        raise BackendError(f"the server did not embed ({error}); is it there, and does it serve {model}?") from error
    embedding_BD: FloatArray = result.as_numpy("embedding")
    return embedding_BD


@click.command()
@click.argument("manifest_file", metavar="MANIFEST", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .npy file.")
@click.option("--url", default="127.0.0.1:8000", show_default=True)
@click.option("--model", help="Its name there.  [default: that of the manifest's folder]")
def main(manifest_file: Path, videos: tuple[Path, ...], output: Path, url: str, model: str | None) -> None:
    """Embed VIDEOS by a server: a row a video."""
    manifest, name = decode_manifest(manifest_file.read_bytes()), model or manifest_file.resolve().parent.name
    with VideoDecoder() as decoder, InferenceServerClient(url) as client:
        rows = [embed(client, name, read_clip(decoder, video, manifest)) for video in videos]
    np.save(output, np.concatenate(rows))


if __name__ == "__main__":
    try:
        main()
    except Vjepa2Error as error:
        sys.exit(str(error))
