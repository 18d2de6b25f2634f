"""Is what the README says still true: its code runs, its commands exist?"""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from vjepa2.cli import VERBS
from vjepa2.registry import RELEASES
from vjepa2.runtime import EmbeddingEngine
from vjepa2.runtime.backends import BACKENDS
from vjepa2.runtime.backends.base import FramesArray

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
