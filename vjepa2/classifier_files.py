"""How does an image classifier lie on disk: a folder in Hugging Face's layout, read back strictly.

That layout has no words for V-JEPA 2.1, sin-cos positions and clips that are not square: those lie in one of ours.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from vjepa2.checkpoint_files import WEIGHTS, SafetensorsState, weight_files, write_safetensors
from vjepa2.encoder import Encoder
from vjepa2.errors import CheckpointError
from vjepa2.filling import fill_module
from vjepa2.folder_model import CONFIG, OURS, describe_ours, fits_huggingface, read_config, read_model
from vjepa2.heads import ImageClassifier, ImageHead
from vjepa2.names import huggingface_names
from vjepa2.outputs import write_whole
from vjepa2.spec import ModelSpec

_ARCHITECTURES: dict[ImageHead, str] = {
    "linear": "VJEPA2MeanPoolingImageClassifier",  # transformers has none without a pooler
    "attentive": "VJEPA2ForVideoClassification",
}


def save_image_classifier(classifier: ImageClassifier, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` into `folder`, each whole; earlier ones are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    config = describe_classifier(classifier)
    text = json.dumps(config, indent=2) + "\n"
    state = classifier.state_dict()
    tensors: dict[str, Tensor] = {}
    for name, theirs in _file_names(classifier, config["model_type"] == OURS).items():
        tensors.update(zip(theirs, state[name].chunk(len(theirs)), strict=True))
    write_whole(folder / CONFIG, lambda stream: stream.write(text.encode()))
    write_safetensors(folder / WEIGHTS, tensors)


def load_image_classifier(folder: str | Path, encoder: Encoder | None = None) -> ImageClassifier:
    """What `save_image_classifier` wrote, in float32 and evaluation mode, with its `labels`.

    If its `encoder` was loaded already, only the head is. A tensor that is missing, left over or of the wrong shape is
    a `CheckpointError` that lists it.
    """
    path = Path(folder)
    held = read_model(path, path.resolve().name)
    head, labels = _read_head(path)
    with torch.device("meta"):
        classifier = ImageClassifier(encoder or Encoder(held.spec, held.clip), len(labels), head=head)
    names = _file_names(classifier, held.is_ours)
    module = nn.ModuleDict(dict(classifier.named_children()))
    others: tuple[str, ...] = ()
    if encoder is not None:
        del module["encoder"]
        names = {name: theirs for name, theirs in names.items() if not name.startswith("encoder.")}
        others = ("vjepa2.encoder.", "encoder.")
    fill_module(module, f"its {CONFIG}", SafetensorsState(weight_files(path)), names, others, path)
    classifier.labels = labels
    return classifier.eval()


def is_image_classifier(folder: str | Path) -> bool:
    """Whether `folder` is one that `save_image_classifier` wrote."""
    return (Path(folder) / CONFIG).is_file() and OURS in read_config(Path(folder))


def describe_classifier(classifier: ImageClassifier) -> dict[str, Any]:
    """The `config.json` of a classifier."""
    spec, clip = classifier.encoder.spec, classifier.encoder.clip
    assert classifier.labels is not None
    head: ImageHead = "linear" if classifier.pooler is None else "attentive"
    labels = {
        "id2label": {str(number): label for number, label in enumerate(classifier.labels)},
        "label2id": {label: number for number, label in enumerate(classifier.labels)},
    }
    if not fits_huggingface(spec, clip):
        return {"model_type": OURS, **labels, OURS: {"head": head, **describe_ours(spec, clip)}}
    return {
        "model_type": "vjepa2",
        "architectures": [_ARCHITECTURES[head]],
        "patch_size": clip.patch,
        "tubelet_size": clip.tubelet,
        "crop_size": clip.height,
        "frames_per_clip": clip.frames,
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "mlp_ratio": _mlp_ratio(spec),
        "num_pooler_layers": 0 if classifier.pooler is None else len(classifier.pooler.blocks),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "in_chans": 3,
        **labels,
        OURS: {"head": head},
    }


def _mlp_ratio(spec: ModelSpec) -> float:
    """A number whose product with the width is cut to `mlp_dim` by whoever reads it."""
    ratio = spec.mlp_dim / spec.dim
    return ratio if int(spec.dim * ratio) == spec.mlp_dim else math.nextafter(ratio, math.inf)


def _file_names(classifier: ImageClassifier, is_ours: bool) -> Mapping[str, tuple[str, ...]]:
    """The names in the file of each of our parameters."""
    if is_ours:
        return {name: (name,) for name, _ in classifier.named_parameters()}
    names: dict[str, tuple[str, ...]] = {}
    for name, _ in classifier.named_parameters():
        if name.startswith("encoder."):
            names[name] = tuple(f"vjepa2.{theirs}" for theirs in huggingface_names(name.removeprefix("encoder.")))
        else:
            names[name] = huggingface_names(name.replace("head.", "linear."))
    return names


def _read_head(folder: Path) -> tuple[ImageHead, tuple[str, ...]]:
    """The kind of head and the classes' names."""
    config = read_config(folder)
    ours, labels = config.get(OURS), config.get("id2label")
    head: Any = ours.get("head") if isinstance(ours, dict) else None
    if head not in get_args(ImageHead):
        raise CheckpointError(
            f"{folder / CONFIG} has no image classifier's head ({head!r}); vjepa2 finetune writes one"
        )
    numbers = [str(number) for number in range(len(labels))] if isinstance(labels, dict) else []
    if not isinstance(labels, dict) or set(labels) != set(numbers) or not all(map(_is_text, labels.values())):
        raise CheckpointError(
            f"{folder / CONFIG} has the id2label {labels!r}; it must name the classes 0, 1, 2 and so on"
        )
    return head, tuple(labels[number] for number in numbers)


def _is_text(value: object) -> bool:
    return isinstance(value, str)
