"""What do released files look like, and are two modules the same?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vjepa2.head_specs import PredictorSpec
from vjepa2.spec import ClipSpec, ModelSpec


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


def config_of(spec: ModelSpec, clip: ClipSpec, predictor: PredictorSpec | None = None) -> dict[str, Any]:
    """What transformers' VJEPA2Config says of a model, of V-JEPA 2's own predictor if of no other."""
    predictor = predictor or PredictorSpec(encoder_dim=spec.dim)
    return {
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "mlp_ratio": spec.mlp_dim / spec.dim,
        "crop_size": clip.height,
        "patch_size": clip.patch,
        "frames_per_clip": clip.frames,
        "tubelet_size": clip.tubelet,
        "pred_hidden_size": predictor.dim,
        "pred_num_hidden_layers": predictor.depth,
        "pred_num_attention_heads": predictor.heads,
        "pred_mlp_ratio": predictor.mlp_dim / predictor.dim,
        "pred_num_mask_tokens": predictor.mask_tokens,
    }
