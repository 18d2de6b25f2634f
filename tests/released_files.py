"""What do released files look like, and are two modules the same?"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def assert_equal(left: nn.Module, right: nn.Module) -> None:
    """The same parameters and buffers, bit for bit."""
    assert list(left.state_dict()) == list(right.state_dict())
    for name, value in left.state_dict().items():
        assert torch.equal(value, right.state_dict()[name]), name


def probe_state(module: nn.Module) -> dict[str, Tensor]:
    """What a probe's file holds of a model: neither its encoder nor its predictor."""
    return {
        name: value for name, value in module.state_dict().items() if not name.startswith(("encoder.", "predictor."))
    }


def meta_file(file: Path, states: Mapping[str, Mapping[str, Tensor]], wrapper: str = "module.") -> Path:
    """A checkpoint as Meta writes them: state dicts by key, names with the wrappers' prefixes, probes in a list."""
    named = {key: {wrapper + name: value for name, value in state.items()} for key, state in states.items()}
    content = {key: [state, {}] if key == "classifiers" else state for key, state in named.items()}
    torch.save({**content, "epoch": 3, "loss": 0.5}, file)
    return file
