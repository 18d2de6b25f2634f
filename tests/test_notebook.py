"""Does the notebook run from top to bottom, and was it stored without what it printed?"""

import json
import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOK = EXAMPLES / "imagenet_finetuning.ipynb"
_RUN = """
import json, pathlib, sys
names = {}
for cell in json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
evaluation = names["result"].evaluation
print("RESULT", json.dumps({"top1": evaluation.top1, "table": list(names["table"].shape)}))
"""


def run_notebook(notebook: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Its code cells in one namespace, where Jupyter would run them."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(EXAMPLES.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder),
    }
    command = [sys.executable, "-W", "error", "-c", _RUN, str(notebook)]
    return subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, check=False)


def test_every_cell_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    done = run_notebook(NOTEBOOK, tmp_path)
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert "(1568, 1024), torch.float32" in shown
    assert "the same bytes: True" in shown
    assert "the encoder is what it was: True" in shown
    assert "the same first guesses: True" in shown
    figures = json.loads(shown.rsplit("RESULT ", 1)[1])
    assert figures["table"] == [1568, 1024]
    assert figures["top1"] > 0.8


def test_a_cell_that_fails_is_noticed(tmp_path: Path) -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    broken = {**content["cells"][1], "source": ["assert False, 'this cell fails'"]}
    (tmp_path / "broken.ipynb").write_text(json.dumps({**content, "cells": [broken]}))
    done = run_notebook(tmp_path / "broken.ipynb", tmp_path)
    assert done.returncode == 1
    assert "this cell fails" in done.stderr


def test_it_is_stored_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert len({cell["id"] for cell in cells}) == len(cells)
