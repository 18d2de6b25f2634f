"""Does a comparison catch a backend that lies, refuse what cannot be compared, and keep what it has measured?"""

import errno
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.conftest import TINY_CLIP
from vjepa2.bundle import Bundle
from vjepa2.cli import main
from vjepa2.errors import BackendError, BundleError, MissingDependencyError, ParityError, UnknownNameError, VideoError
from vjepa2.manifest import CROP_DOWN
from vjepa2.runtime import Backend, Outputs, Reference, check_stored, open_backend
from vjepa2.runtime.backends.base import FloatArray, FramesArray, InputArray
from vjepa2.runtime.canaries import NAMES, OF_INPUT
from vjepa2.runtime.clip_set import generate_clips, list_stored, read_folder
from vjepa2.runtime.decode_messages import ClipRequest
from vjepa2.runtime.gates import GATES, Gate
from vjepa2.runtime.neighbours import explain_overlap, overlap_by_chance, overlap_neighbours
from vjepa2.runtime.parity_report import FILE, ParityReport, read_report, write_report
from vjepa2.runtime.parity_run import ParityRequest, run_parity
from vjepa2.runtime.reference import measure_change
from vjepa2.spec import OutputName

Lie = Callable[[dict[OutputName, FloatArray], int], None]
ORT = "onnxruntime"


class Liar:
    """A backend that runs another one and spoils what it gives; `call` counts from 0."""

    name, device, precision = ORT, "cpu", "fp32"

    def __init__(self, bundle: Bundle, lie: Lie, change: Callable[[FramesArray], FramesArray]) -> None:
        self.bundle, self.lie, self.change, self.calls = bundle, lie, change, 0
        self.inner = open_backend(bundle, ORT)

    def run(
        self, frames: FramesArray, outputs: Sequence[OutputName], inputs: Mapping[str, InputArray] | None
    ) -> Outputs:
        got = self.inner.run(self.change(frames), outputs, inputs).by_name()
        self.lie(got, self.calls)
        self.calls += 1
        return Outputs.from_names(got)

    def __enter__(self) -> "Liar":
        return self

    def __exit__(self, *_: object) -> None:
        self.inner.close()


def honest(got: dict[OutputName, FloatArray], call: int) -> None:
    """Spoil nothing."""


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that puts a liar in the place of every backend that is opened."""

    def put(lie: Lie = honest, change: Callable[[FramesArray], FramesArray] = np.ascontiguousarray) -> None:
        monkeypatch.setattr("vjepa2.runtime.candidates.open_backend", lambda bundle, _: Liar(bundle, lie, change))

    return put


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without PyTorch: stored clips are all there is, and quick."""
    monkeypatch.setattr("vjepa2.runtime.oracle.find_missing", lambda *_, **__: "pytorch needs torch")


def run(bundle: Path | Bundle, *backends: str, **options: Any) -> ParityReport:
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    request = ParityRequest(bundles=(opened,), backends=backends or (ORT,), **options)
    return run_parity(request, save=lambda _: None)


@pytest.mark.usefixtures("alone")
def test_without_pytorch_a_device_proves_itself_by_what_is_stored(exported: Path) -> None:
    report = run(exported)
    (row,) = report.candidates
    assert report.passed
    assert (report.reference.kind, report.reference.bundle) == ("reference.npz", None)
    assert "pytorch needs torch" in report.reference.says[1]
    assert [clip.name for clip in row.clips] == ["stored 0", "stored 1", "stored 2", "stored 3"]
    assert {canary.name for canary in report.canaries} == set(NAMES)
    assert not any(canary.passed for canary in report.canaries)


def test_with_pytorch_every_kind_of_clip_is_compared(exported: Path) -> None:
    pytest.importorskip("torch")
    saved: list[ParityReport] = []
    request = ParityRequest(bundles=(Bundle.open(exported),), backends=(ORT, "pytorch"))
    report = run_parity(request, save=saved.append)
    assert report.passed
    graph, itself = report.candidates
    assert len(graph.clips) == 12
    assert graph.neighbours is None
    assert "k-NN overlap@10: 0.909 is what chance alone gives of 12 clips, which is too much; it takes 31" in graph.said
    assert graph.worst_clip in {clip.name for clip in graph.clips}
    assert any(line.startswith("first percentile: 48 tokens of a clip count, it takes 100") for line in graph.said)
    assert len(itself.clips) == 4, "the reference of the others is not held against itself"
    assert any(line.startswith("PyTorch is the reference of all clips but the stored ones") for line in itself.said)
    assert {"vjepa2-edge", "python", "numpy", "onnxruntime", "torch"} <= set(report.versions)
    assert [each.partial for each in saved] == [True] * (len(saved) - 1) + [False]
    assert not any(each.passed for each in saved[:-1])


def repeat_first() -> Lie:
    """A lie of a backend that gives its first answer again and again."""
    first: dict[OutputName, FloatArray] = {}

    def lie(got: dict[OutputName, FloatArray], call: int) -> None:
        if not first:
            first.update({name: array.copy() for name, array in got.items()})
        got.update(first)

    return lie


def spoil(index: tuple[int, ...], value: float) -> Lie:
    """A lie of one number of the third clip's tokens."""

    def lie(got: dict[OutputName, FloatArray], call: int) -> None:
        if call == 2:
            got["tokens"][index] = value

    return lie


def swap_tokens(got: dict[OutputName, FloatArray], call: int) -> None:
    """The token of frame 2, row 1, column 3 is its neighbour's."""
    number = (1 * 4 + 1) * 6 + 3
    got["tokens"][0, number] = got["tokens"][0, number + 1]


def scale(got: dict[OutputName, FloatArray], call: int) -> None:
    """Every number of the tokens a thousandth too large."""
    got["tokens"] = got["tokens"] * np.float32(1.001)


LIES: dict[str, tuple[Lie, str]] = {
    "constant": (repeat_first(), "embedding is"),
    "NaN in one token": (spoil((0, 7, 3), np.nan), "token_worst is nan, must be at least 0.99999"),
    "infinity in one token": (spoil((0, 7, 3), np.inf), "there are values that are no finite numbers"),
    "one token is its neighbour": (swap_tokens, "token_worst is"),
    "scaled": (scale, "relative_max is 0.001"),
    "embedding": (lambda got, _: got.update({"embedding": got["embedding"][:, ::-1]}), "embedding is"),
}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_caught(name: str, lying: Callable[..., None], exported: Path) -> None:
    lie, message = LIES[name]
    lying(lie)
    report = run(exported)
    (row,) = report.candidates
    assert not report.passed
    assert not row.passed
    assert not report.invalid, "it is the candidate that fails, not the gate"
    assert any(message in fault for clip in row.clips for fault in clip.faults)


@pytest.mark.usefixtures("alone")
def test_swapped_channels_of_the_input_are_caught(lying: Callable[..., None], exported: Path) -> None:
    lying(change=lambda frames: np.ascontiguousarray(frames[..., ::-1]))
    report = run(exported)
    assert not report.candidates[0].passed
    assert report.invalid == (f"{exported.name} in onnxruntime: the gate lets through: RGB swapped",)


@pytest.mark.usefixtures("alone")
def test_where_the_worst_token_is_is_told(lying: Callable[..., None], exported: Path) -> None:
    lying(swap_tokens)
    (row,) = run(exported).candidates
    place = row.clips[0].worst_place
    assert place is not None
    assert (place.frame, place.row, place.column) == (2, 1, 3)


@pytest.mark.usefixtures("alone")
def test_a_backend_that_knows_the_stored_clips_by_heart_makes_the_report_invalid(
    lying: Callable[..., None], exported: Path
) -> None:
    reference = Reference.load(Bundle.open(exported))

    def recall(got: dict[OutputName, FloatArray], call: int) -> None:
        if call >= 4:  # what is none of the stored clips
            got.update({name: array[[reference.probe]] for name, array in reference.outputs.by_name().items()})

    lying(recall)
    report = run(exported)
    assert report.candidates[0].passed
    assert not report.passed
    assert {canary.name for canary in report.canaries if canary.passed} == set(OF_INPUT)
    assert len(report.invalid) == 4


@pytest.mark.usefixtures("alone")
def test_a_gate_that_lets_mistakes_through_makes_the_report_invalid(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GATES, "fp32", Gate(source="a test", embedding=-1))
    report = run(exported)
    assert report.candidates[0].passed
    assert not report.passed
    assert all(canary.passed for canary in report.canaries)
    assert len(report.invalid) == 8


@pytest.mark.usefixtures("alone")
def test_a_canary_that_was_not_run_makes_the_report_invalid(exported: Path) -> None:
    report = run(exported)
    shorter = replace(report, canaries=report.canaries[1:]).judged()
    assert not shorter.passed
    assert shorter.invalid == (f"{exported.name} in onnxruntime: not run: {report.canaries[0].name}",)
    assert not replace(report, candidates=(), canaries=()).judged().passed


def test_a_verdict_for_what_is_measured_beside_it(exported: Path, lying: Callable[..., None]) -> None:
    bundle = Bundle.open(exported)
    with open_backend(bundle, ORT) as backend:
        assert check_stored(backend).passed
        backend.precision = "fp64"
        with pytest.raises(BackendError, match="onnxruntime computes in fp64, for which no gate is written down"):
            check_stored(backend)
    with Liar(bundle, swap_tokens, np.ascontiguousarray) as liar:
        assert not check_stored(cast("Backend", liar)).passed


@pytest.mark.usefixtures("alone")
def test_what_an_export_accepted_is_accepted_and_told(exported: Path, lying: Callable[..., None]) -> None:
    bundle = Bundle.open(exported)
    limits = {"embedding": 0.9, "token_worst": -1.0, "relative_max": 9.0}
    verdicts = {name: replace(verdict, accepted=limits) for name, verdict in bundle.manifest.parity.items()}
    lying(scale)
    report = run(replace(bundle, manifest=replace(bundle.manifest, parity=verdicts)))
    assert report.candidates[0].passed
    assert report.candidates[0].accepted == limits


def with_manifest(bundle: Bundle, **changes: Any) -> Bundle:
    return replace(bundle, manifest=replace(bundle.manifest, **changes))


def test_bundles_of_different_models_are_refused(exported: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(exported)
    elsewhere = replace(bundle, path=tmp_path / "other")
    others = {
        "source": replace(bundle.manifest.source, seed=7),
        "model": replace(bundle.manifest.model, name="another"),
        "clip": replace(TINY_CLIP, frames=8),
    }
    for name, value in others.items():
        other = with_manifest(elsewhere, **{name: value})
        with pytest.raises(
            BundleError, match=f"{bundle.path.name} and other are of different models: {name} is .* and "
        ):
            run_parity(ParityRequest(bundles=(bundle, other)), save=lambda _: None)
    with pytest.raises(BundleError, match="two of the bundles have the same name"):
        run_parity(ParityRequest(bundles=(bundle, bundle)), save=lambda _: None)


def test_weights_that_are_not_those_of_the_reference_are_found(bundle_copy: Path) -> None:
    """Both manifests may say the same: what PyTorch makes of the stored clip does not."""
    pytest.importorskip("torch")
    bundle = Bundle.open(bundle_copy)
    weights = np.fromfile(bundle_copy / "weights.data", np.float32)
    (weights * np.float32(1.1)).tofile(bundle_copy / "weights.data")
    with pytest.raises(ParityError, match=r"rebuilt from bundle does not give what reference.npz of bundle holds: emb"):
        run(bundle)


@pytest.mark.usefixtures("alone")
def test_clips_that_nothing_here_knows_the_tokens_of_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"clips of .* need PyTorch float32 .*: pytorch needs torch; give a float32"):
        run(exported, clips=tmp_path)
    with pytest.raises(BackendError, match="cannot be the reference: pytorch needs torch"):
        run(exported, reference=Bundle.open(exported))


def test_a_backend_that_is_not_here_is_named(exported: Path) -> None:
    with pytest.raises(UnknownNameError, match="no backend is named 'onnx'; choose auto or one of"):
        run(exported, "onnx")
    with pytest.raises(MissingDependencyError, match="tensorrt needs"):
        run(exported, "tensorrt")
    with pytest.raises(MissingDependencyError, match="tensorrt needs"):
        run(exported, ORT, "tensorrt")


def test_no_clips_and_clips_that_are_too_short_are_refused(
    exported: Path, write_video: Callable[..., Path], scene: FramesArray, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(VideoError, match="empty holds no video"):
        run(exported, clips=empty)
    with pytest.raises(VideoError, match="none is not a folder; --clips takes a folder of videos"):
        run(exported, clips=tmp_path / "none")
    write_video(scene[:2], "short.mp4")
    with pytest.raises(VideoError, match=r"short\.mp4: .*has 2 frames and the clip takes 4; .* pad with repeat-last"):
        run(exported, clips=tmp_path)
    request = ClipRequest(frames=4, height=64, width=96, crop=CROP_DOWN)
    (clip,) = read_folder(request, tmp_path, "repeat-last")
    assert (clip.name, clip.kind, clip.frames_THWC.shape) == ("short.mp4", "real", (4, 64, 96, 3))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("json_file", ["report.json", "-"])
def test_an_interrupted_run_keeps_what_it_has_and_calls_it_partial(
    json_file: str,
    lying: Callable[..., None],
    bundle_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(got: dict[OutputName, FloatArray], call: int) -> None:
        if call == 3:
            raise KeyboardInterrupt

    lying(interrupt)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["parity", str(bundle_copy), "--backends", ORT, "--json", json_file])
    assert done.value.code == 1
    captured = capsys.readouterr()
    assert "called partial, in " in captured.err
    given = json.loads(captured.out if json_file == "-" else Path(json_file).read_text())
    assert (given["partial"], given["passed"]) == (True, False)
    kept = read_report(bundle_copy / FILE)
    assert [clip.name for clip in kept.candidates[0].clips] == ["stored 0", "stored 1", "stored 2"]
    Bundle.open(bundle_copy)


@pytest.mark.usefixtures("alone")
def test_the_verb_writes_reports_and_its_exit_status_is_the_verdict(
    lying: Callable[..., None], bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> int:
        with pytest.raises(SystemExit) as done:
            main(["parity", str(bundle_copy), *words])
        return int(done.value.code or 0)

    assert call("--backends", ORT, "--json", "-") == 0
    captured = capsys.readouterr()
    given = json.loads(captured.out)
    assert given["passed"]
    for canary in given["canaries"]:
        assert {"name", "figures", "limits", "passed"} <= set(canary)
        assert canary["passed"] is False
    assert "canaries: 8 of 8 fail as they must (5 run here, 3 computed at export)" in captured.err
    assert json.loads((bundle_copy / FILE).read_text()) == given
    lying(swap_tokens)
    assert call("--backends", ORT) == 1
    assert "OUTSIDE the gate" in capsys.readouterr().err
    assert call("--backends", "tensorrt") == 2
    assert call("--backends", ORT, "--clips", "none") == 2


@pytest.mark.usefixtures("alone")
def test_a_report_is_read_as_it_was_written_numbers_that_are_none_too(
    lying: Callable[..., None], exported: Path, tmp_path: Path
) -> None:
    lying(LIES["NaN in one token"][0])
    report, file = run(exported), tmp_path / "parity.json"
    write_report(str(file), report)
    assert "NaN" not in json.dumps(json.loads(file.read_text()), allow_nan=False).replace('"NaN"', "")
    again = read_report(file)
    assert np.isnan(again.candidates[0].worst.token_cosine)
    assert replace(again, candidates=()) == replace(report, candidates=())
    for spoilt, message in (
        ('{"schema": 2}', "lacks"),
        ('{"schema": 9}', "has schema 9; this version reads 2"),
        ("[]", "it must be an object"),
        ("{", "is no report"),
    ):
        file.write_text(spoilt)
        with pytest.raises(BundleError, match=message):
            read_report(file)


@pytest.mark.parametrize("verb", ["parity", "bench", "report"])
def test_a_bundle_that_cannot_be_written_to_is_told_before_anything_runs(
    verb: str, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = Path.mkdir

    def refuse(folder: Path, *words: Any, **named: Any) -> None:
        """A file system that is read only, for root too."""
        if bundle_copy in folder.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
        make(folder, *words, **named)

    monkeypatch.setattr(Path, "mkdir", refuse)
    for name in ("candidates.open_backend", "bench_harness.Harness.measure_group"):
        monkeypatch.setattr(f"vjepa2.runtime.{name}", lambda *_, **__: pytest.fail("something ran"))
    if verb == "report":
        pytest.importorskip("jinja2")
    with pytest.raises(SystemExit) as done:
        main([verb, str(bundle_copy)])
    assert done.value.code == 2
    err = capsys.readouterr().err
    assert f"{bundle_copy / 'reports'} cannot be made: Read-only file system; " in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("alone")
def test_sigterm_is_ctrl_c(lying: Callable[..., None], bundle_copy: Path) -> None:
    """Called, not sent: behind the tests of other libraries, a signal sent to this process ends it with SIGSEGV."""
    before = signal.getsignal(signal.SIGTERM)

    def end(got: dict[OutputName, FloatArray], call: int) -> None:
        if call == 2:
            handler = signal.getsignal(signal.SIGTERM)
            assert callable(handler)
            handler(signal.SIGTERM, None)

    lying(end)
    with pytest.raises(SystemExit) as done:
        main(["parity", str(bundle_copy), "--backends", ORT])
    assert done.value.code == 1
    assert signal.getsignal(signal.SIGTERM) == before
    kept = read_report(bundle_copy / FILE)
    assert kept.partial
    assert [clip.name for clip in kept.candidates[0].clips] == ["stored 0", "stored 1"]


def test_what_is_interrupted_before_anything_is_kept_is_130(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vjepa2.runtime.parity_run.choose_candidates", interrupt)
    with pytest.raises(SystemExit) as done:
        main(["parity", str(bundle_copy)])
    assert done.value.code == 130
    assert not (bundle_copy / FILE).exists()


def test_generated_clips_are_what_they_are_called(exported: Path) -> None:
    bundle = Bundle.open(exported)
    clips = {clip.name: clip.frames_THWC for clip in generate_clips(bundle)}
    assert all(frames.shape == bundle.manifest.frames_shape for frames in clips.values())
    change = {name: measure_change(frames) for name, frames in clips.items()}
    assert change["static"] == change["black"] == clips["black"].max() == 0
    assert change["motion"] > 5
    assert change["flashing"] > 40
    assert change["noise"] == pytest.approx(85, abs=2), "of two uniform bytes a third of the range"
    assert set(np.unique(clips["saturated"])) == {0, 255}
    assert np.array_equal(clips["short"][-1], clips["short"][-2]), "filled up with its last frame"
    assert change["long"] > change["motion"], "frames are left out"
    fast = list_stored(Reference.load(bundle), "x")[3]
    assert fast.change > 1.2 * max(change.values())


def test_neighbours_are_those_of_another_library() -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(40, 8, generator=generator)
    right = left + 0.3 * torch.randn(40, 8, generator=generator)

    def nearest(vectors: Any) -> Any:
        unit = torch.nn.functional.normalize(vectors.double(), dim=1)
        return (unit @ unit.T).fill_diagonal_(-2).topk(10, dim=1).indices

    pairs = zip(nearest(left).tolist(), nearest(right).tolist(), strict=True)
    must = float(np.mean([len(set(ours) & set(theirs)) / 10 for ours, theirs in pairs]))
    assert overlap_neighbours(left.numpy(), right.numpy()) == pytest.approx(must)
    assert 0.3 < must < 0.9
    assert overlap_neighbours(left.numpy(), left.numpy()) == 1


@pytest.mark.parametrize("clips", [31, 60])
def test_vectors_that_have_nothing_in_common_overlap_as_chance_says(clips: int) -> None:
    rng = np.random.default_rng(0)
    sides = [[rng.standard_normal((clips, 16), np.float32) for _ in range(2)] for _ in range(50)]
    overlaps = [overlap_neighbours(left, right) for left, right in sides]
    assert np.mean([each for each in overlaps if each is not None]) == pytest.approx(overlap_by_chance(clips), abs=0.01)
    assert overlap_by_chance(clips) <= 1 / 3


def test_of_clips_so_few_that_chance_is_much_there_is_no_overlap() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 30, 8), np.float32)
    assert overlap_neighbours(left, right) is None
    assert overlap_neighbours(left[:12], right[:12]) is None
    assert explain_overlap(None, 12).startswith("k-NN overlap@10: 0.909 is what chance alone gives of 12 clips")
    assert [overlap_by_chance(clips) for clips in (1, 2, 11, 21)] == [1, 1, 1, 0.5]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("rows", [slice(None), slice(3, 4)], ids=["every vector", "one vector"])
def test_vectors_without_a_direction_overlap_with_nothing(rows: slice, value: float) -> None:
    right = np.random.default_rng(0).standard_normal((31, 8), np.float32)
    broken = right.copy()
    broken[rows] = value
    for sides in ((right, broken), (broken, right), (broken, broken)):
        overlap = overlap_neighbours(*sides)
        assert overlap is not None
        assert np.isnan(overlap)
    assert explain_overlap(np.nan, 31).endswith("an embedding is zero or no number, so there is no figure")
