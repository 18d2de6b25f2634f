"""Do the examples find, group and classify what they say?"""

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from examples import classify_few_shots, find_duplicates, search_folder
from examples.classify_few_shots import Floats, fit_probe
from examples.find_duplicates import group_copies, measure_threshold
from examples.search_folder import embed_folder, search_faiss, search_numpy
from tests.videos import write
from vjepa2.errors import VideoError
from vjepa2.fitting import fit_frames
from vjepa2.runtime import EmbeddingEngine
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.scenes import generate_scene
from vjepa2.spec import ClipSpec

EXAMPLES = Path(__file__).parent.parent / "examples"
LABELS = [f"label {number:02}" for number in range(20)]


@pytest.fixture(scope="module")
def engine(exported: Path) -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine.open(exported) as engine:
        yield engine


def show(number: int) -> FramesArray:
    return generate_scene(8, 90, 120, seed=100 + number)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos, of the first two of which there are copies: another codec, a crop, a smaller one."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "copies").mkdir()
    (folder / "notes.txt").write_text("not a video")
    small = ClipSpec(frames=2, height=66, width=88, tubelet=1, patch=1)
    for number in range(6):
        frames = show(number)
        write(folder / f"{number}.mp4", frames, "mpeg4")
        if number < 2:
            write(folder / "copies" / f"{number}-coded.mkv", frames, options={"crf": "34"})
            write(folder / "copies" / f"{number}-cropped.mp4", frames[:, 4:-4, 5:-5], "mpeg4")
            write(folder / "copies" / f"{number}-small.MP4", fit_frames(frames, small, views=2)[0], "mpeg4")
    return folder


@pytest.fixture(scope="module")
def query(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("query") / "query.mkv", show(3), options={"crf": "30"})


def test_a_copy_is_found_and_numpy_and_faiss_agree(engine: EmbeddingEngine, library: Path, query: Path) -> None:
    files, embeddings_ND = embed_folder(engine, library)
    assert {file.name for file in files} == {file.name for file in library.rglob("*.*") if file.name != "notes.txt"}
    query_D = engine.encode(query, normalize_embeddings=True)
    found = search_numpy(embeddings_ND, query_D, top=100)
    assert files[found[0][0]] == library / "3.mp4"
    assert found[0][1] > 0.97 > found[1][1] + 0.02
    same = search_faiss(embeddings_ND, query_D, top=100)
    assert [row for row, _ in same] == [row for row, _ in found]
    np.testing.assert_allclose([cosine for _, cosine in same], [cosine for _, cosine in found], atol=1e-6)


def test_cosines_are_those_of_each_pair_in_falling_order(engine: EmbeddingEngine, library: Path, query: Path) -> None:
    files, embeddings_ND = embed_folder(engine, library)
    asked = engine.encode(query).astype(float)
    rows = [engine.encode(file).astype(float) for file in files]
    cosines = [float(row @ asked) / float(np.linalg.norm(row) * np.linalg.norm(asked)) for row in rows]
    wanted = sorted(range(len(files)), key=lambda row: -cosines[row])[:4]
    found = search_numpy(embeddings_ND, engine.encode(query, normalize_embeddings=True), top=4)
    assert [row for row, _ in found] == wanted
    np.testing.assert_allclose([cosine for _, cosine in found], [cosines[row] for row in wanted], atol=1e-5)


def test_searching_prints_the_same_either_way(exported: Path, library: Path, query: Path) -> None:
    arguments = [str(exported), str(library), str(query), "--top", "3"]
    done = [CliRunner().invoke(search_folder.main, [*arguments, *more]) for more in ([], ["--faiss"])]
    assert done[0].output == done[1].output
    assert len(done[0].output.splitlines()) == 3
    assert done[0].output.splitlines()[0].endswith("/3.mp4")


def test_copies_are_grouped_and_nothing_else(exported: Path, library: Path) -> None:
    done = CliRunner().invoke(find_duplicates.main, [str(exported), str(library)])
    groups = [{Path(line).stem for line in group.splitlines()} for group in done.stdout.split("\n\n")]
    assert groups == [{f"{number}{kind}" for kind in ("", "-coded", "-cropped", "-small")} for number in range(2)]
    assert "12 videos; 2 groups" in done.stderr
    strict = CliRunner().invoke(find_duplicates.main, [str(exported), str(library), "--threshold", "1"])
    assert strict.stdout.strip() == ""


def test_the_threshold_lies_between_copies_and_others(engine: EmbeddingEngine, library: Path) -> None:
    files, embeddings_ND = embed_folder(engine, library)
    own = np.array([file.stem[0] for file in files])
    is_copy_NN = own[:, None] == own
    cosines_NN = embeddings_ND @ embeddings_ND.T
    assert cosines_NN[~is_copy_NN].max() < measure_threshold(engine, files) < cosines_NN[is_copy_NN].min()


def test_a_copy_of_a_copy_is_in_the_group() -> None:
    angles = np.radians([0, 90, 4, 180, 8, 96])
    embeddings_ND = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert group_copies(embeddings_ND, threshold=float(np.cos(np.radians(5)))) == [[0, 2, 4]]
    assert group_copies(embeddings_ND, threshold=float(np.cos(np.radians(7)))) == [[0, 2, 4], [1, 5]]


def show_label(number: int, take: int) -> FramesArray:
    """A take of a scene: begun later, lighter or darker, noisy."""
    random = np.random.default_rng([number, take])
    frames = generate_scene(10, 64, 96, seed=number)[take : take + 6] * random.uniform(0.85, 1.0)
    return np.clip(frames + random.normal(0, 6, frames.shape), 0, 255).astype(np.uint8)


def test_three_clips_of_each_of_20_labels_are_enough(engine: EmbeddingEngine) -> None:
    names = [name for name in LABELS for _ in range(3)]
    embeddings_ND = engine.encode([show_label(number, take) for number in range(20) for take in range(3)])
    others_ND = engine.encode([show_label(number, 3) for number in range(20)])
    probe = fit_probe(embeddings_ND, names)
    assert np.mean(np.array(probe.classify(others_ND)) == LABELS) >= 0.8
    assert np.mean(np.array(probe.left_out) == names) >= 0.5
    mixed = [names[place] for place in np.random.default_rng(0).permutation(len(names))]
    wrong = fit_probe(embeddings_ND, mixed)
    assert np.mean(np.array(wrong.classify(others_ND)) == LABELS) <= 0.2
    assert np.mean(np.array(wrong.left_out) == mixed) <= 0.2


def regress(embeddings_ND: Floats, wanted_NL: Floats, ridge: float) -> Floats:
    """Weights `[D + 1, L]` of least squares with a ridge on all but the last, which is added to the rest."""
    dim = embeddings_ND.shape[1]
    equations = np.vstack([np.c_[embeddings_ND, np.ones(len(embeddings_ND))], np.sqrt(ridge) * np.eye(dim, dim + 1)])
    solution: Floats = np.linalg.lstsq(equations, np.vstack([wanted_NL, np.zeros((dim, wanted_NL.shape[1]))]))[0]
    return solution


def test_the_probe_is_a_ridge_regression_and_leaving_out_is_refitting() -> None:
    random = np.random.default_rng(0)
    names = [LABELS[place] for place in random.choice(4, 40, p=[0.55, 0.15, 0.15, 0.15])]
    wanted_NL = np.array([[name == label for label in LABELS[:4]] for name in names], float)
    embeddings_ND = random.normal(5, 1, (40, 12)) + wanted_NL @ random.normal(0, 0.7, (4, 12))
    probe = fit_probe(embeddings_ND, names)
    ridge = 0.03 * float(((embeddings_ND - embeddings_ND.mean(axis=0)) ** 2).sum(axis=1).mean())
    weights = regress(embeddings_ND, wanted_NL, ridge)
    np.testing.assert_allclose(probe.weights_DL, weights[:-1], atol=1e-9)
    np.testing.assert_allclose(probe.shares_L - probe.mean_D @ probe.weights_DL, weights[-1], atol=1e-9)
    others_ND = random.normal(5, 1.5, (60, 12))
    scores_NL = np.c_[others_ND, np.ones(60)] @ weights
    assert probe.classify(others_ND) == [LABELS[best] for best in scores_NL.argmax(axis=1)]
    refitted = []
    for place, row_D in enumerate(embeddings_ND):
        rest = np.arange(40) != place
        scores_L = np.r_[row_D, 1] @ regress(embeddings_ND[rest], wanted_NL[rest], ridge)
        refitted.append(LABELS[int(scores_L.argmax())])
    assert list(probe.left_out) == refitted
    assert 10 < sum(np.array(refitted) == names) < 40, "all alike would prove nothing"


def test_a_folder_for_each_label_classifies_videos(exported: Path, tmp_path: Path) -> None:
    for number, label in enumerate(LABELS[:3]):
        (tmp_path / "labelled" / label).mkdir(parents=True)
        for take in range(2):
            write(tmp_path / "labelled" / label / f"{take}.mp4", show_label(number, take), "mpeg4")
    videos = [write(tmp_path / f"{number}.mp4", show_label(number, 3), "mpeg4") for number in (2, 0)]
    arguments = [exported, tmp_path / "labelled", *videos]
    done = CliRunner().invoke(classify_few_shots.main, [str(word) for word in arguments])
    assert done.stdout.splitlines() == [f"label 02  {videos[0]}", f"label 00  {videos[1]}"]
    assert re.search("3 labels, 6 clips; left out, [3-6] are called right", done.stderr)


def test_one_label_is_no_choice() -> None:
    with pytest.raises(VideoError, match=r"the labels are \['a'\]; there must be at least two"):
        fit_probe(np.eye(3), ["a", "a", "a"])


@pytest.mark.parametrize(
    ("name", "words"),
    [("search_folder", ["x.mp4"]), ("find_duplicates", []), ("classify_few_shots", ["x.mp4"])],
)
@pytest.mark.parametrize("bundle", ["none", "ours"])
def test_what_a_user_can_put_right_is_one_line(
    name: str, words: list[str], bundle: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    if bundle == "none":
        (tmp_path / "empty" / "label").mkdir()
        (tmp_path / "empty" / "label" / "a.mp4").write_bytes(b"")
    place = exported if bundle == "ours" else tmp_path / "none"
    monkeypatch.setattr(sys, "argv", [name, str(place), str(tmp_path / "empty"), *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert ("is not a folder" if bundle == "none" else "empty holds no video") in str(ended.value.code)
