"""What does the page ask, and what is it told?"""

import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vjepa2.errors import CorpusError

from .search_corpus import SearchCorpus
from .search_index import Found, VectorIndex
from .search_map import CorpusMap, project_corpus
from .search_novelty import NoveltyPoint, follow_novelty
from .search_pairs import PAIR_ROWS, NearPair, find_pairs
from .search_thumbnails import Thumbnails
from .search_upload import Upload, Uploads

_REJECTED = 100  # that are told by name
_PAIRS = 200  # that are told


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCard:
    """A clip as the page shows it."""

    row: int
    video: int
    name: str
    start_s: float
    end_s: float
    status: str
    cosine: float | None = None


class SearchService:
    """A corpus, its index, its pictures, and what embeds uploads; it owns the last two."""

    def __init__(
        self, corpus: SearchCorpus, index: VectorIndex, uploads: Uploads | None = None, warning: str | None = None
    ) -> None:
        self.corpus, self.index, self.uploads, self._warning = corpus, index, uploads, warning
        self.thumbnails = Thumbnails(corpus)
        self.map: CorpusMap = project_corpus(index)
        self._pairs: tuple[float, list[NearPair]] | None = None
        self._turn = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """What is on the page before anything is asked."""
        corpus = self.corpus
        return {
            "name": Path(corpus.output).name,
            "run": asdict(corpus.run),
            "policy": asdict(corpus.policy),
            "clips": corpus.rows,
            "videos": len(corpus.videos),
            "rejected": [asdict(video) for video in corpus.rejected[:_REJECTED]],
            "rejected_count": len(corpus.rejected),
            "seal": corpus.seal,
            "shards": corpus.shards,
            "planned": corpus.planned,
            "index": self.index.name,
            "uploads": self.uploads is not None,
            "warning": self._warning,
        }

    def card(self, row: int, cosine: float | None = None) -> ClipCard:
        """A clip; a `CorpusError` if there is none of that number."""
        corpus = self.corpus
        if not 0 <= row < corpus.rows:
            raise CorpusError(f"there is no clip {row}; the corpus has {corpus.rows}")
        number = int(corpus.video_N[row])
        video = corpus.videos[number]
        return ClipCard(
            row=row,
            video=number,
            name=video.name,
            start_s=float(corpus.start_s_N[row]),
            end_s=float(corpus.end_s_N[row]),
            status=video.status,
            cosine=cosine,
        )

    def find_like_row(self, row: int, top: int, *, others: bool) -> list[ClipCard]:
        """The clips nearest to one of the corpus, but for itself, or for all of its video."""
        card = self.card(row)
        without = self.corpus.videos[card.video].rows if others else range(row, row + 1)
        return self._cards(self.index.find_nearest(self.index.take([row])[0], top, without))

    def find_like_upload(self, key: str, clip: int, top: int) -> list[ClipCard]:
        """The clips nearest to one of an upload."""
        upload = self._upload(key)
        if clip >= len(upload.clips):
            raise CorpusError(f"the upload has no clip {clip}; it has {len(upload.clips)}")
        return self._cards(self.index.find_nearest(upload.clips[clip].unit_D, top, range(0)))

    def find_videos(self, text: str, first: int, count: int) -> tuple[int, list[dict[str, Any]]]:
        """How many videos have `text` in their names, and some of them."""
        wanted = text.casefold()
        numbers = [
            number for number, video in enumerate(self.corpus.videos) if not wanted or wanted in video.name.casefold()
        ]
        return len(numbers), [self._video(number) for number in numbers[first : first + count]]

    def follow_video(self, number: int) -> tuple[dict[str, Any], list[ClipCard], list[NoveltyPoint]]:
        """A video, its clips, and how unlike its own past each is."""
        if not 0 <= number < len(self.corpus.videos):
            raise CorpusError(f"there is no video {number}; the corpus has {len(self.corpus.videos)}")
        rows = self.corpus.videos[number].rows
        units_ND = self.index.take(rows)
        places = slice(rows.start, rows.stop)
        novelty = follow_novelty(units_ND, self.corpus.start_s_N[places], self.corpus.end_s_N[places])
        return self._video(number), [self.card(row) for row in rows], novelty

    def find_pairs(self, threshold: float) -> tuple[int, list[dict[str, Any]]]:
        """How many pairs of videos have clips with a cosine of at least `threshold`, and the most alike ones."""
        with self._turn:  # it takes all cores
            if self._pairs is None or self._pairs[0] != threshold:
                rows = range(min(self.corpus.rows, PAIR_ROWS + 1))
                self._pairs = threshold, find_pairs(self.index.take(rows), self.corpus.video_N, threshold)
            pairs = self._pairs[1]
        told = [
            {"left": asdict(self.card(pair.left)), "right": asdict(self.card(pair.right))}
            | {"cosine": pair.cosine, "pairs": pair.pairs}
            for pair in pairs[:_PAIRS]
        ]
        return len(pairs), told

    def close(self) -> None:
        """End the decoders and free the model."""
        self.thumbnails.close()
        if self.uploads is not None:
            self.uploads.close()

    def _cards(self, found: list[Found]) -> list[ClipCard]:
        return [self.card(each.row, each.cosine) for each in found]

    def _upload(self, key: str) -> Upload:
        upload = self.uploads.find(key) if self.uploads else None
        if upload is None:
            raise CorpusError("that upload is forgotten; drop the video again")
        return upload

    def _video(self, number: int) -> dict[str, Any]:
        video = self.corpus.videos[number]
        return {
            "video": number, "name": video.name, "status": video.status, "first": video.first, "clips": video.clips,
        }  # fmt: skip
