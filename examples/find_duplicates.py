"""Which videos of a folder are copies of each other, though encoded, cropped or scaled differently?

    python examples/find_duplicates.py BUNDLE FOLDER [--threshold 0.97]

How alike two videos must be is not a number that holds for every model: even unrelated ones may have a cosine of 0.9.
So it is measured on the folder itself: copies are as close to each other as a video is to its own middle, an eighth
cropped off each side; of several videos, the median. Other codecs, sizes and small crops are closer than that.
Random weights find copies too, for equal pixels give equal embeddings; two takes of one scene only trained ones tell.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from vjepa2.errors import Vjepa2Error
from vjepa2.runtime import EmbeddingEngine

Embeddings = npt.NDArray[np.float32]
SAMPLE = 16  # videos that the threshold is measured on


def measure_threshold(engine: EmbeddingEngine, files: Sequence[str | Path]) -> float:
    """The median cosine of a video and its middle, over some of `files`."""
    cosines = []
    for file in files[:: -(-len(files) // SAMPLE)]:
        frames_THWC = engine.read_clip(file)
        top, left = frames_THWC.shape[1] // 8, frames_THWC.shape[2] // 8
        middle_THWC = frames_THWC[:, top:-top, left:-left]
        whole_D, part_D = engine.encode([frames_THWC, middle_THWC], normalize_embeddings=True)
        cosines.append(float(whole_D @ part_D))
    return float(np.median(cosines))


def group_copies(embeddings_ND: Embeddings, threshold: float) -> list[list[int]]:
    """Rows of which each has a cosine of at least `threshold` to another one of its group; groups of one are left out.

    `embeddings_ND` are of length 1.
    """
    group_of = np.arange(len(embeddings_ND))
    for row, embedding_D in enumerate(embeddings_ND):
        alike = np.flatnonzero(embeddings_ND[:row] @ embedding_D >= threshold)
        group_of[np.isin(group_of, group_of[alike])] = row
    groups = [np.flatnonzero(group_of == group).tolist() for group in np.unique(group_of)]
    return sorted(group for group in groups if len(group) > 1)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--threshold", type=click.FloatRange(-1, 1), help="Cosine from which on two are copies. [measured]")
def main(bundle: Path, folder: Path, threshold: float | None) -> None:
    """Print the videos below FOLDER that are copies of each other, an empty line between groups."""
    with EmbeddingEngine.open(bundle) as engine:
        rows = engine.encode_clips(folder, normalize_embeddings=True)
        if threshold is None:
            threshold = measure_threshold(engine, rows.names)
    groups = group_copies(rows.values, threshold)
    click.echo(f"{len(rows.names)} videos; {len(groups)} groups with cosines from {threshold:.4f} on", err=True)
    click.echo("\n\n".join("\n".join(rows.names[row] for row in group) for group in groups))


if __name__ == "__main__":
    try:
        main()
    except Vjepa2Error as error:
        sys.exit(str(error))
