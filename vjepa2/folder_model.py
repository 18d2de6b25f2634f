"""Which model does a folder's `config.json` describe: in Hugging Face's words, or where those do not reach, in ours?"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vjepa2.errors import BundleError, CheckpointError
from vjepa2.head_specs import PredictorSpec
from vjepa2.schema import read_record
from vjepa2.spec import ClipSpec, ModelSpec

CONFIG = "config.json"
OURS = "vjepa2_edge"  # the key of what transformers has no word for, and the model_type where that is the model itself
_FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True, "in_chans": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderModel:
    """The encoder of a folder."""

    spec: ModelSpec
    clip: ClipSpec  # that its weights are for
    is_ours: bool = False  # described in our words, with tensors called as our parameters are


def read_config(folder: Path) -> dict[str, Any]:
    """What a folder's `config.json` says, unchecked."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}; give a folder in Hugging Face's layout")
    return read_json(folder / CONFIG)


def read_model(folder: Path, name: str) -> FolderModel:
    """The encoder that a folder's `config.json` describes; `name` is what it is called if the file does not say."""
    config = read_config(folder)
    if config.get("model_type") == OURS:
        return _read_ours(config, folder / CONFIG)
    if config.get("model_type") != "vjepa2":
        raise CheckpointError(f"{folder / CONFIG} is of model_type {config.get('model_type')!r}, not 'vjepa2'")
    for key, must in _FIXED.items():
        if config.get(key, must) != must:
            raise CheckpointError(f"{folder / CONFIG} has {key} {config[key]!r}; this encoder needs {must!r}")
    try:
        side, patch, dim = (int(config[key]) for key in ("crop_size", "patch_size", "hidden_size"))
        spec = ModelSpec(
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
    return FolderModel(spec=spec, clip=spec.clip)


def fits_huggingface(spec: ModelSpec, clip: ClipSpec) -> bool:
    """Whether transformers' VJEPA2Config has words for this encoder: V-JEPA 2's, on squares."""
    is_version_2 = spec.positions == "tiled" and spec.side is None and not spec.levels
    return is_version_2 and clip.height == clip.width


def describe_ours(spec: ModelSpec, clip: ClipSpec) -> dict[str, Any]:
    """What `read_model` reads under our key, where `fits_huggingface` does not hold."""
    return {"model": asdict(spec), "clip": asdict(clip)}


def read_predictor(folder: Path) -> PredictorSpec:
    """The predictor that a folder's `config.json` describes; what it leaves out is what every release has."""
    encoder, config = read_model(folder, folder.name).spec, read_config(folder)
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


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not a JSON object; fetch it again")
    return content


def _read_ours(config: dict[str, Any], file: Path) -> FolderModel:
    ours = config.get(OURS)
    held = ours if isinstance(ours, dict) else {}
    try:
        return FolderModel(
            spec=read_record(ModelSpec, held.get("model"), "model"),
            clip=read_record(ClipSpec, held.get("clip"), "clip"),
            is_ours=True,
        )
    except BundleError as error:
        raise CheckpointError(f"{file} has a model under {OURS} that cannot be read: {error}") from error
