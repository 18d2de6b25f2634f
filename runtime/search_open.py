"""Is a corpus searched in memory or on the disk?"""

from collections.abc import Callable, Iterable
from pathlib import Path

from vjepa2.errors import CorpusError
from vjepa2.extras import import_with_extra

from .corpus_output import read_run
from .corpus_store import open_store
from .search_corpus import SearchCorpus, count_rows, read_corpus
from .search_faiss import FAISS_ROWS, FaissIndex
from .search_index import VectorIndex


def open_search(
    output: str, lance: Path | None = None, watch: Callable[[list[int]], Iterable[int]] = iter
) -> tuple[SearchCorpus, VectorIndex]:
    """A corpus and the index of its clips: FAISS up to `FAISS_ROWS`, or the LanceDB that it was written to."""
    if lance is not None:
        corpus = read_corpus(output, None, watch)
        index: VectorIndex = import_with_extra("vjepa2.runtime.corpus_lance", "lance").LanceIndex(lance, corpus)
        return corpus, index
    rows, run = count_rows(output), read_run(open_store(output))
    if rows > FAISS_ROWS:
        raise CorpusError(
            f"{output} has {rows} clips, and up to {FAISS_ROWS} are searched in memory; write them to a LanceDB with "
            f"vjepa2 corpus seal {output} --lance FOLDER, and give --lance FOLDER here"
        )
    in_memory = FaissIndex(run.dim if run else 1)
    corpus = read_corpus(output, in_memory.add, watch)
    if not corpus.rows:
        raise CorpusError(f"{output} has no clip: every video was rejected; vjepa2 corpus status says how many")
    return corpus, in_memory
