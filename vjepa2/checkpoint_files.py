"""How is a file of weights read: never running what is in it, and never more of it than is asked for."""

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vjepa2.errors import CheckpointError
from vjepa2.head_specs import PredictorSpec
from vjepa2.spec import ClipSpec, ModelSpec

CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"[\w.-]+\.safetensors")
_FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True, "in_chans": 3}


class SafetensorsState(Mapping[str, Tensor]):
    """The tensors of some safetensors files by name, each read when it is asked for."""

    def __init__(self, files: list[Path]) -> None:
        self._files: dict[str, Any] = {}
        for file in files:
            try:
                handle: Any = safe_open(str(file), framework="pt")
                names: list[str] = handle.keys()
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{file} is not a whole safetensors file ({error}); fetch it again") from error
            self._files.update({name: handle for name in names})

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder in Hugging Face's layout: one, or the shards that its index names."""
    if not (folder / _INDEX).is_file():
        if not (folder / _WEIGHTS).is_file():
            raise CheckpointError(f"{folder} has neither {_WEIGHTS} nor {_INDEX}; it must have one of them")
        return [folder / _WEIGHTS]
    table = _read_json(folder / _INDEX).get("weight_map")
    shards = sorted(set(table.values())) if isinstance(table, dict) else []
    for shard in shards or ["(none)"]:
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or not (folder / shard).is_file():
            raise CheckpointError(f"{folder / _INDEX} names the shard {shard!r}; it must lie beside it")
    return [folder / shard for shard in shards]


def config_spec(folder: Path, name: str) -> ModelSpec:
    """The model that a folder's `config.json` describes."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}; give a folder in Hugging Face's layout")
    config = _read_json(folder / CONFIG)
    if config.get("model_type") != "vjepa2":
        raise CheckpointError(f"{folder / CONFIG} is of model_type {config.get('model_type')!r}, not 'vjepa2'")
    for key, must in _FIXED.items():
        if config.get(key, must) != must:
            raise CheckpointError(f"{folder / CONFIG} has {key} {config[key]!r}; this encoder needs {must!r}")
    try:
        side, patch, dim = (int(config[key]) for key in ("crop_size", "patch_size", "hidden_size"))
        return ModelSpec(
            name=name,
            family="vjepa2",
            dim=dim,
            depth=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            mlp_dim=int(dim * float(config["mlp_ratio"])),
            clip=ClipSpec(
                frames=int(config["frames_per_clip"]),
                height=side,
                width=side,
                tubelet=int(config["tubelet_size"]),
                patch=patch,
            ),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} lacks a number that an encoder needs: {error}") from error


def config_predictor(folder: Path) -> PredictorSpec:
    """The predictor that a folder's `config.json` describes; what it leaves out is what every release has."""
    encoder, config = config_spec(folder, folder.name), _read_json(folder / CONFIG)
    plain = PredictorSpec(encoder_dim=encoder.dim)
    try:
        dim = int(config.get("pred_hidden_size", plain.dim))
        return PredictorSpec(
            encoder_dim=encoder.dim,
            dim=dim,
            depth=int(config.get("pred_num_hidden_layers", plain.depth)),
            heads=int(config.get("pred_num_attention_heads", plain.heads)),
            mlp_dim=int(dim * float(config.get("pred_mlp_ratio", plain.mlp_dim / plain.dim))),
            mask_tokens=int(config.get("pred_num_mask_tokens", plain.mask_tokens)),
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} has no number where a predictor needs one: {error}") from error


def read_meta_checkpoint(file: Path, key: str) -> dict[str, Tensor]:
    """The state dict under `key` of a Meta `.pt` file, mapped, not copied; only tensors are unpickled.

    A file of probes holds a list of them, of which the first is meant.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{file} is not a checkpoint of tensors alone, or not whole ({reason}); it was not loaded"
        ) from error
    state = content.get(key) if isinstance(content, dict) else None
    state = state[0] if isinstance(state, list) and state else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        held = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{file} has no state dict under {key!r}; it holds {held}")
    return state


def fetch_repository(repository: str, revision: str | None) -> tuple[Path, str]:
    """Config and safetensors of a Hugging Face repository: the local folder and the commit it holds."""
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=[CONFIG, _WEIGHTS, "model-*.safetensors", _INDEX]
        )
    except (OSError, ValueError) as error:  # the hub's errors are children of these
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{repository} at {revision or 'its newest revision'} could not be fetched: {reason}; "
            "check the name and the network, or give a local folder"
        ) from error
    return Path(folder), Path(folder).name


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not a JSON object; fetch it again")
    return content
