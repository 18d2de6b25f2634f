"""Do the Makefile's targets measure what they say, and come to their end when what they measured is not good?"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vjepa2.runtime.evidence import FILES, list_commands

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
# says what it was asked for, writes what it was told to, and ends as the file of its verb says
_VJEPA2 = """#!/bin/sh
echo "vjepa2 $@"
for word in "$@"; do case $word in */reports/*.json) touch "$word";; esac; done
exit $(cat "$(dirname "$0")/$1" 2>/dev/null || echo 0)
"""


@pytest.fixture
def make(tmp_path: Path) -> "Make":
    return Make(tmp_path)


class Make:
    """The Makefile with a `vjepa2` that measures nothing, on a bundle that holds nothing."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.out = folder / "bin", folder / "bundle"
        self.bin.mkdir()
        (self.bin / "vjepa2").write_text(_VJEPA2)
        (self.bin / "vjepa2").chmod(0o755)
        self.out.mkdir()
        (self.out / "manifest.json").touch()

    def end(self, verb: str, status: int) -> None:
        """Let a verb end so."""
        (self.bin / verb).write_text(str(status))

    def __call__(self, *words: str) -> tuple[int, list[str], str]:
        """Exit status, the verbs that were called, and all that was said."""
        command = ["make", "--no-print-directory", "-o", ".venv/installed", f"BIN={self.bin}", f"OUT={self.out}"]
        done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        return done.returncode, re.findall(r"^vjepa2 (.*)", done.stdout, re.MULTILINE), said


def test_a_report_measures_by_the_commands_that_its_page_lists(make: Make) -> None:
    status, called, _ = make("report")
    assert status == 0
    listed = list_commands(make.out)
    assert [each.split()[0] for each in called] == ["parity", "bench", "inspect", "drift", "report"]
    for command, each in zip((*(listed[name] for name in FILES), listed["report"]), called, strict=True):
        assert f"vjepa2 {each} ".startswith(f"{command.rpartition(' && ')[2]} ")


def test_what_was_measured_is_not_measured_again(make: Make) -> None:
    (make.out / "reports").mkdir()
    for section in ("parity", "lint"):
        (make.out / FILES[section]).touch()
    assert [each.split()[0] for each in make("report")[1]] == ["bench", "drift", "report"]


def test_verdicts_that_are_not_good_do_not_stop_the_page(make: Make) -> None:
    make.end("parity", 1)
    make.end("bench", 2)
    status, called, said = make("report")
    assert status == 0
    assert called[-1].startswith("report ")
    assert "\nparity.json: not passed; the page says why\n" in said
    assert "\nlatency.json: not measured, for the reason above\n" in said


@pytest.mark.parametrize("status", [130, 137])
def test_one_that_was_ended_stops_it(status: int, make: Make) -> None:
    make.end("inspect", status)
    ended, called, _ = make("report")
    assert ended == 2
    assert called[-1].startswith("inspect ")


@pytest.mark.parametrize("target", ["parity", "bench", "report"])
def test_what_there_is_no_bundle_for_is_exported_as_asked(target: str, make: Make) -> None:
    (make.out / "manifest.json").unlink()
    _, called, _ = make(target, "LAYERS=2", "FRAMES=8", "CLIPS=videos", "CALIBRATION_CLIPS=others")
    exported = called[0].split()
    assert exported[0] == "export"
    for option in ("--layers 2", "--frames 8", "--clips videos", "--calibration-clips others", f"-o {make.out}"):
        name, value = option.split()
        assert exported[exported.index(name) + 1] == value


def test_make_bench_fails_where_a_row_does(make: Make) -> None:
    make.end("bench", 1)
    assert make("bench")[0] == 2


def test_scaling_has_two_bundles_on_each_axis_that_agree_on_the_others(make: Make) -> None:
    folders = next(line for line in make("-n", "bench-scaling")[2].splitlines() if "/vjepa2 bench " in line)
    points = [tuple(map(int, each)) for each in re.findall(r"artifacts/scaling/(\d+)x(\d+)x(\d+)", folders)]
    points = list(dict.fromkeys(points))
    for axis, values in enumerate(({8, 16, 32}, {256, 384}, {1, 2})):
        middle = (16, 256, 1)
        line = {
            point[axis] for point in points if point[:axis] + point[axis + 1 :] == middle[:axis] + middle[axis + 1 :]
        }
        assert line == values


_PYTHON = """#!/bin/sh
case "$1 $2" in
  "-c import tensorrt") exit $(cat "$(dirname "$0")/tensorrt");;
  "-m venv") shift 2; echo "venv $@"; mkdir -p .venv/bin
    printf '#!/bin/sh\\n' >.venv/bin/python; chmod +x .venv/bin/python;;
esac
"""


@pytest.mark.parametrize(("status", "words"), [(0, "--system-site-packages .venv"), (1, ".venv")])
def test_a_tensorrt_of_the_system_is_seen_from_the_environment(status: int, words: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tensorrt").write_text(str(status))
    (tmp_path / "python").write_text(_PYTHON)
    (tmp_path / "python").chmod(0o755)
    command = ["make", "--no-print-directory", f"PYTHON={tmp_path / 'python'}", "install"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"venv {words}\n" in done.stdout
