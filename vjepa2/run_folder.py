"""How does a training run that was killed go on as if nothing had happened?

A run's folder holds `run.json` (what is trained, on what, where), `metrics.jsonl` (one object a line), `state.pt`
(everything that the next step depends on, and how long the metrics were then) and the classifier itself.
"""

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vjepa2.errors import FinetuneError
from vjepa2.outputs import write_whole

RUN = "run.json"
METRICS = "metrics.jsonl"
STATE = "state.pt"


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def start(cls, path: Path, run: dict[str, Any]) -> "RunFolder":
        """A folder for a run that `run`, plain JSON, describes; one that is not empty is a `FinetuneError`."""
        if (path / RUN).exists():
            raise FinetuneError(f"{path} holds a run already; resume it, or choose another folder")
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise FinetuneError(f"{path} is not empty; choose another folder")
        except OSError as error:
            raise FinetuneError(f"{path} cannot be written ({error.strerror}); choose another folder") from error
        write_whole(path / RUN, lambda stream: stream.write(json.dumps(run, indent=2).encode() + b"\n"))
        return cls(path)

    @classmethod
    def resume(cls, path: Path, run: dict[str, Any]) -> "RunFolder":
        """The folder of a run that was begun as `run` describes; a `FinetuneError` lists what differs."""
        try:
            begun = json.loads((path / RUN).read_bytes())
        except (OSError, ValueError) as error:
            raise FinetuneError(f"{path} holds no run that could be resumed ({error}); start it anew") from error
        differing = list(_differences(begun, json.loads(json.dumps(run)), ""))
        if differing:
            raise FinetuneError(f"{path} was begun otherwise: {'; '.join(differing)}; ask for the same, or start anew")
        for draft in path.glob(".*.[0-9]*"):  # what was being written when the run was killed
            draft.unlink()
        return cls(path)

    def log(self, entry: dict[str, Any]) -> None:
        """Append one line to the metrics."""
        with (self.path / METRICS).open("ab") as stream:
            stream.write(json.dumps(entry, allow_nan=False).encode() + b"\n")

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep `state`, in one step, as what the run is to go on from."""
        with (self.path / METRICS).open("ab") as stream:
            os.fsync(stream.fileno())
            held = {**state, "metrics_bytes": stream.tell()}
        write_whole(self.path / STATE, lambda stream: torch.save(held, stream))

    def load_state(self) -> dict[str, Any] | None:
        """What was kept last, the metrics cut to what they were then; None if the run was killed before that."""
        file = self.path / STATE
        state: dict[str, Any] = {"metrics_bytes": 0}
        if file.exists():
            try:
                state = torch.load(file, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
                raise FinetuneError(f"{file} is damaged ({type(error).__name__}); start the run anew") from error
        metrics = self.path / METRICS
        metrics.touch()
        if metrics.stat().st_size < state["metrics_bytes"]:
            raise FinetuneError(f"{metrics} is shorter than it was; start the run anew")
        os.truncate(metrics, state.pop("metrics_bytes"))
        return state or None


def _differences(begun: Any, asked: Any, where: str) -> Iterator[str]:
    if isinstance(begun, dict) and isinstance(asked, dict):
        for key in sorted({*begun, *asked}):
            yield from _differences(begun.get(key), asked.get(key), f"{where}.{key}".removeprefix("."))
    elif begun != asked:
        yield f"{where} was {begun!r} and is {asked!r}"
