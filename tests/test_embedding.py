"""Does an app get the embeddings of its videos?"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY_CLIP, tiny_encoder
from tests.videos import decode_all
from vjepa2.errors import BundleError, VideoError
from vjepa2.runtime import EmbeddingEngine, quantize_rows
from vjepa2.runtime.backends.base import FramesArray, normalise
from vjepa2.runtime.preprocess import fit_clip
from vjepa2.runtime.sampling import Footage, choose_frames, parse_sampling
from vjepa2.spec import RGB_MEAN, RGB_STD

Writer = Callable[..., Path]


@pytest.fixture
def engine(exported: Path) -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine.open(exported) as opened:
        yield opened


def test_a_video_is_embedded_as_by_hand(engine: EmbeddingEngine, write_video: Writer, scene: FramesArray) -> None:
    file = write_video(scene)
    torch = pytest.importorskip("torch")
    embeddings = engine.encode([file])
    numbers = choose_frames(parse_sampling("uniform"), Footage(total=24, count=TINY_CLIP.frames))[0]
    frames = fit_clip(decode_all(file)[numbers], TINY_CLIP)
    with torch.no_grad():
        tokens = tiny_encoder()(torch.from_numpy(normalise(frames[None], RGB_MEAN, RGB_STD)))
    assert embeddings.shape == (1, 192)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, tokens.mean(1).numpy(), atol=1e-5)


def test_order_is_kept_across_batches(engine: EmbeddingEngine, scene: FramesArray) -> None:
    videos = [scene, scene[::-1], scene[:12]]
    together = engine.encode(videos, batch_size=2)
    alone = [engine.encode(video) for video in videos]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-6)
    assert alone[0].shape == (192,), "one video gives one row"
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


def test_normalized_embeddings_have_length_one(engine: EmbeddingEngine, scene: FramesArray) -> None:
    plain = engine.encode([scene, scene[::-1]])
    normalized = engine.encode([scene, scene[::-1]], normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(normalized, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(normalized, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


def test_tokens_are_returned_when_asked_for(engine: EmbeddingEngine, scene: FramesArray) -> None:
    tokens = engine.encode([scene], output_value="token_embeddings")
    assert tokens.shape == (1, TINY_CLIP.tokens, 192)
    np.testing.assert_allclose(tokens.mean(1), engine.encode([scene]), atol=1e-6)


def test_generators_and_strings_are_taken(engine: EmbeddingEngine, write_video: Writer, scene: FramesArray) -> None:
    file = str(write_video(scene))
    assert engine.encode(name for name in (file, file)).shape == (2, 192)
    assert engine.encode(file, show_progress_bar=True).shape == (192,)


def test_what_cannot_be_encoded_is_refused(engine: EmbeddingEngine, scene: FramesArray) -> None:
    with pytest.raises(VideoError, match="there is no video to encode"):
        engine.encode([])
    with pytest.raises(VideoError, match="the array has 3 frames and the clip takes 4"):
        engine.encode(scene[:3])
    assert engine.encode(scene[:3], pad="repeat-last").shape == (192,)
    with pytest.raises(VideoError, match="the array has no frames"):
        engine.encode(scene[:0], pad="repeat-last")
    with pytest.raises(ValueError, match="output_value is 'tokens'; it must be one of"):
        engine.encode(scene, output_value="tokens")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size is 0"):
        engine.encode(scene, batch_size=0)


def test_a_changed_bundle_is_not_opened(bundle_copy: Path) -> None:
    weights = bundle_copy / "weights.data"
    data = weights.read_bytes()
    weights.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(BundleError, match="was changed after export"):
        EmbeddingEngine.open(bundle_copy)


def test_each_clip_of_a_video_is_a_row_that_says_where_it_lies(
    engine: EmbeddingEngine, write_video: Writer, scene: FramesArray
) -> None:
    file = write_video(scene)
    rows = engine.encode_clips([file, scene[:9]], sampling="window:8", batch_size=3)
    assert [(place.video, place.start_s) for place in rows.places] == [(0, 0.0), (0, 1.0), (0, 2.0), (1, None)]
    assert rows.places[1].end_s == pytest.approx(1.5)
    assert rows.values.shape == (4, 192)
    np.testing.assert_allclose(rows.values[3], engine.encode(scene[:4]), atol=1e-6)
    assert engine.encode(file, sampling="window:8").shape == (3, 192), "of one video all rows"
    assert engine.encode(file, sampling="stride:2").shape == (192,)


def test_a_damaged_video_is_refused_and_named(engine: EmbeddingEngine, write_video: Writer, scene: FramesArray) -> None:
    file = write_video(scene, "a.mkv")
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size * 3 // 4)
    with pytest.raises(VideoError, match=r"a\.mkv is partial \(.* frames: .*\); it is truncated or damaged: mend it"):
        engine.encode([file])
    with pytest.raises(VideoError, match=r"none\.mp4: it is not a file that can be read"):
        engine.encode(["none.mp4"])
    with pytest.raises(VideoError, match="sampling is 'often'; it must be one of uniform"):
        engine.encode([file], sampling="often")


def test_an_image_classifier_and_run_take_one_clip_a_video(engine: EmbeddingEngine, scene: FramesArray) -> None:
    with pytest.raises(VideoError, match="sampling 'window' gives several clips a video"):
        engine.clips.read_one(scene, "window")


def test_encode_gives_rows_in_the_precision_asked_for(engine: EmbeddingEngine, scene: FramesArray) -> None:
    rows = engine.encode([scene, scene[::-1]], truncate_dim=60)
    ranges = np.stack([rows.min(0), rows.max(0)])
    eight = engine.encode([scene, scene[::-1]], truncate_dim=60, precision="int8", ranges=ranges)
    np.testing.assert_array_equal(eight, quantize_rows(rows, "int8", ranges))
    assert engine.encode(scene, precision="ubinary").shape == (24,), "192 channels"
    with pytest.raises(ValueError, match=r"they must be \[2, 60\]"):
        engine.encode("no such file", truncate_dim=60, precision="int8")
