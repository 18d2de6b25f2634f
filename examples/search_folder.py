"""Which videos of a folder are most like this one? Exact search, by numpy or by FAISS, with the same answer.

    python examples/search_folder.py BUNDLE FOLDER QUERY.mp4 [--top 5] [--faiss]

What "like" means the weights know: of a bundle with random weights only copies are found, all else is by chance.
"""

import sys
from pathlib import Path

import click
import faiss
import numpy as np
import numpy.typing as npt

from vjepa2.errors import Vjepa2Error
from vjepa2.runtime import EmbeddingEngine

Embeddings = npt.NDArray[np.float32]
Found = list[tuple[int, float]]  # row and cosine, the most alike first


def embed_folder(engine: EmbeddingEngine, folder: Path) -> tuple[list[Path], Embeddings]:
    """Every video below `folder`, and a row `[D]` of length 1 for each."""
    rows = engine.encode_clips(folder, normalize_embeddings=True)
    return [Path(name) for name in rows.names], rows.values


def search_numpy(embeddings_ND: Embeddings, query_D: Embeddings, top: int) -> Found:
    """The `top` rows nearest to a query; both of length 1, so that the product is the cosine."""
    cosines_N = embeddings_ND @ query_D
    return [(int(row), float(cosines_N[row])) for row in np.argsort(-cosines_N, kind="stable")[:top]]


def search_faiss(embeddings_ND: Embeddings, query_D: Embeddings, top: int) -> Found:
    """The same by FAISS, which also has indexes that do not look at every row."""
    index = faiss.IndexFlatIP(embeddings_ND.shape[1])
    index.add(embeddings_ND)
    cosines_1K, rows_1K = index.search(query_D[None], min(top, len(embeddings_ND)))
    return [(int(row), float(cosine)) for row, cosine in zip(rows_1K[0], cosines_1K[0], strict=True)]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("query", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(1), default=5, show_default=True)
@click.option("--faiss", "by_faiss", is_flag=True, help="Search with FAISS instead of numpy.")
def main(bundle: Path, folder: Path, query: Path, top: int, by_faiss: bool) -> None:
    """Print the videos of FOLDER that are most like QUERY: cosine, path."""
    with EmbeddingEngine.open(bundle) as engine:
        files, embeddings_ND = embed_folder(engine, folder)
        query_D = engine.encode(query, normalize_embeddings=True)
    search = search_faiss if by_faiss else search_numpy
    for row, cosine in search(embeddings_ND, query_D, top):
        click.echo(f"{cosine:.4f}  {files[row]}")


if __name__ == "__main__":
    try:
        main()
    except Vjepa2Error as error:
        sys.exit(str(error))
