"""Is what the README says still true: its code runs, its commands exist?"""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import readme
from tests.conftest import tiny_spec
from tests.measured import measure_bundle
from vjepa2.bundle import Bundle
from vjepa2.cli import VERBS
from vjepa2.errors import BundleError
from vjepa2.registry import RELEASES, Release
from vjepa2.runtime import EmbeddingEngine
from vjepa2.runtime.backends import BACKENDS
from vjepa2.runtime.backends.base import FramesArray
from vjepa2.runtime.evidence import Evidence, gather_evidence, read_evidence

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", [text for language, text in BLOCKS if language == "python"])
def test_every_python_block_runs(
    block: str,
    exported: Path,
    write_video: Callable[..., Path],
    scene: FramesArray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "import torch" in block:
        pytest.importorskip("torch")
        make_narrow(monkeypatch)
    shutil.copytree(exported, tmp_path / "artifacts" / "vitl-16x256-fp32")
    write_video(scene, "a.mp4"), write_video(scene, "b.mp4")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    if "import torch" in block:
        shapes = {name: tuple(names[name].shape) for name in ("predicted", "rollout", "scores")}  # type: ignore[attr-defined]
        assert shapes == {"predicted": (1, 1024, WIDTH), "rollout": (1, 3 * 256, WIDTH), "scores": (1, 174)}
        return
    assert "embeddings" in names
    assert names["EmbeddingEngine"] is EmbeddingEngine


WIDTH = 48


def make_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every row of the table few channels and blocks, and leave it its clip and its classes."""
    small = {"dim": WIDTH, "heads": 2, "mlp_dim": 64, "depth": 1}
    rows = {}
    for name, row in RELEASES.items():
        parts = {"predictor": row.predictor, "action": row.action}
        narrow = {part: replace(spec, **small, encoder_dim=WIDTH) for part, spec in parts.items() if spec}  # type: ignore[arg-type]
        rows[name] = replace(row, spec=replace(row.spec, **small, levels=()), **narrow)  # type: ignore[arg-type]
    for module in map(import_module, ("vjepa2.checkpoints", "vjepa2.head_checkpoints")):
        monkeypatch.setattr(module, "RELEASES", rows)
        monkeypatch.setattr(module, "find_release", rows.__getitem__)


def test_every_command_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    commands = "\n".join([text for language, text in BLOCKS if language == "bash"] + re.findall("`([^`]+)`", prose))
    targets, verbs = set(re.findall(r"\bmake ([a-z-]+)", commands)), set(re.findall(r"\bvjepa2 ([a-z]+)", commands))
    assert {"export", "test", "check", "test-full"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert verbs
    assert verbs <= set(VERBS)


def test_names_in_the_tables_are_those_of_the_code() -> None:
    assert all(f"`{name}`" in README for name in BACKENDS)
    assert all(f"`{name}`" in README for name, release in RELEASES.items() if release.repository)


def test_the_first_screen_has_the_two_commands() -> None:
    assert {"make export", "make test"} <= {line.split("   ")[0].strip() for line in README.splitlines()[:12]}


def test_tables_of_results_are_what_was_measured() -> None:
    assert set(readme.read_blocks(README)) == {"parity", "bench"}
    if (ROOT / readme.RESULTS).exists():  # else nothing of a whole model was measured yet
        assert readme.fill(README, read_evidence(ROOT / readme.RESULTS)) == README


@pytest.fixture(scope="module")
def measured(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("measured") / "bundle"))
    measure_bundle(folder)
    return folder


@pytest.fixture
def whole(measured: Path, monkeypatch: pytest.MonkeyPatch) -> Evidence:
    """Of a tiny model that is taken for a released one."""
    monkeypatch.setattr(readme, "RELEASES", {"tiny": Release(spec=tiny_spec())})
    return gather_evidence(Bundle.open(measured))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def test_make_readme_writes_both_tables_and_what_they_are_made_of(whole: Evidence, measured: Path, root: Path) -> None:
    assert readme.main(str(measured), root) == 0
    text, kept = readme.read_readme(root), read_evidence(root / readme.RESULTS)
    assert (root / readme.RESULTS).stat().st_size < 300_000
    assert readme.fill(text, kept) == text
    outside = [readme.fill(each, kept) for each in (text, README)]
    assert outside[0] == outside[1], "nothing outside the marks is touched"
    parity, bench = readme.read_blocks(text)["parity"], readme.read_blocks(text)["bench"]
    assert whole.parity is not None
    assert f"{whole.parity.candidates[0].worst.token_cosine:.9f}" in parity
    assert "| 8 of 8 | in it |" in parity
    assert "| `onnxruntime` in fp32 on cpu | 11 | 11 | base | base |" in bench
    assert "| 12.5 | 12.5 | 0.88 (0.88 to 0.88) | 0.88 (0.88 to 0.88) |" in bench
    assert "fake, 2 cores" in bench


def test_a_changed_figure_is_found(whole: Evidence, measured: Path, root: Path) -> None:
    assert readme.main(str(measured), root) == 0
    text, kept = readme.read_readme(root), read_evidence(root / readme.RESULTS)
    cell = text.split("| `onnxruntime-portable` in fp32 on cpu | ")[-1].partition(" |")[0]
    changed = text.replace(f"on cpu | {cell} |", f"on cpu | {float(cell) - 1:g} |")
    assert changed != text
    assert readme.fill(changed, kept) == text, "a figure in README"
    assert kept.latency is not None
    finished = kept.latency.rows[0].finished
    assert finished is not None
    row = replace(kept.latency.rows[0], finished=replace(finished, peak_bytes=10**9))
    other = replace(kept, latency=replace(kept.latency, rows=(row, *kept.latency.rows[1:])))
    assert readme.fill(text, other) != text, "a figure in the JSON"


def test_a_row_that_failed_or_is_doubtful_says_so(whole: Evidence) -> None:
    latency, parity = whole.latency, whole.parity
    assert latency is not None
    assert parity is not None
    base, row = latency.rows
    failed = replace(row, failure="outside | its\ngate", compute=None, end_to_end=None)
    rows = (replace(base, unstable=("others took 87% of the cores",)), failed)
    candidate = replace(parity.candidates[0], passed=False)
    spoilt = replace(
        whole,
        latency=replace(latency, rows=rows),
        parity=replace(parity, candidates=(candidate,), invalid=("the gate lets through: RGB swapped",)),
    )
    blocks = readme.read_blocks(readme.fill(README, spoilt))
    assert "| others took 87% of the cores |" in blocks["bench"]
    assert r"| no times: outside \| its gate |" in blocks["bench"]
    assert "| **outside** |" in blocks["parity"]
    assert "**Invalid**: the gate lets through: RGB swapped." in blocks["parity"]


def test_what_is_not_for_readme_is_refused(whole: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    parity, latency = whole.parity, whole.latency
    assert parity is not None
    assert latency is not None
    refused = {
        "was not measured; run first: vjepa2 parity": replace(whole, parity=None),
        "every time in bundle is of another bundle": replace(whole, foreign={"latency": "every time"}),
        "partial; let make parity": replace(whole, latency=replace(latency, partial=True)),
        "is partial": replace(whole, parity=replace(parity, partial=True)),
    }
    for message, evidence in refused.items():
        with pytest.raises(BundleError, match=message):
            readme.choose_evidence(evidence)
    monkeypatch.setattr(readme, "RELEASES", {"tiny": Release(spec=tiny_spec(depth=24))})
    with pytest.raises(BundleError, match=r"is tiny of 2 blocks; README tells of whole models \(24 blocks\)"):
        readme.choose_evidence(whole)
    with pytest.raises(BundleError, match="0 blocks of make parity"):
        readme.fill("no marks", whole)


def test_a_refusal_leaves_readme_as_it_was(measured: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert readme.main(str(measured), root) == 2
    assert "make readme: bundle is tiny of 2 blocks" in capsys.readouterr().err
    assert readme.read_readme(root) == README
    assert not (root / readme.RESULTS).exists()
