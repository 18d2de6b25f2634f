"""What would a user run instead: transformers' VJEPA2Model with the bundle's weights, its predictor left out.

Axes: B batch, N tokens, D channels of a token.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import VJEPA2Config, VJEPA2Model

from vjepa2.bundle import Bundle
from vjepa2.headed import mean_tokens
from vjepa2.names import to_huggingface
from vjepa2.spec import OutputName

from .base import Backend, FloatArray, FramesArray, InputArray, RunOptions, normalise
from .held import HeldClips
from .held_tensors import HeldTensors
from .placement import Executed, check_placement, count_nodes
from .pytorch import DTYPES, PyTorchBackend, PyTorchCompileBackend, keep_exact, list_layers, rebuild_model


class TransformersBackend(Backend):
    """Runs VJEPA2Model with PyTorch's fused attention, its default. In 16 bits all of it is, as by `dtype=`."""

    name: ClassVar[str] = "transformers"
    attention: ClassVar[str] = "sdpa"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    casts: ClassVar[tuple[Executed, ...]] = ("fp16", "bf16")

    def __init__(self, bundle: Bundle, options: RunOptions = RunOptions()) -> None:  # noqa: B008  (frozen)
        super().__init__(bundle, options)
        self._dtype = DTYPES[self.precision]
        model = build_peer(bundle, self.attention).to(self.device, self._dtype)
        self._model: Any = model
        self.placement = count_nodes(list_layers(model))
        self.precision = check_placement(
            self.name, self.placement, place=self.device, precision=self.precision, allow=options.allow
        )

    @classmethod
    def find_obstacle(cls, device: str | None = None, bundle: Bundle | None = None) -> str | None:
        """A bundle of V-JEPA 2's encoder for square clips, and a GPU that PyTorch can use, if one is asked for."""
        return find_other_model(bundle) or PyTorchBackend.find_obstacle(device)

    def _compute(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> dict[OutputName, FloatArray]:
        held = self._hold(frames_BTHWC, extras, outputs)
        held.compute()
        return held.fetch()

    def _hold(
        self, frames_BTHWC: FramesArray, extras: Mapping[str, InputArray], outputs: Sequence[OutputName]
    ) -> HeldClips:
        preprocessing, model = self.bundle.manifest.preprocessing, self._model
        pixels = torch.from_numpy(normalise(frames_BTHWC, preprocessing.mean, preprocessing.std)).to(self.device)

        def compute() -> dict[OutputName, Tensor]:
            with torch.inference_mode(), keep_exact(self.name):
                tokens_BND = model(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state
                return {"tokens": tokens_BND, "embedding": mean_tokens(tokens_BND)}

        return HeldTensors(compute, self.device, outputs)

    def _release(self) -> None:
        self._model = None


class TransformersEagerBackend(TransformersBackend):
    """Runs VJEPA2Model with attention spelled out: N x N scores in memory."""

    name: ClassVar[str] = "transformers-eager"
    attention: ClassVar[str] = "eager"


class TransformersCompileBackend(TransformersBackend):
    """Runs VJEPA2Model through `torch.compile`; the first run of a batch size compiles."""

    name: ClassVar[str] = "transformers-compile"

    def __init__(self, bundle: Bundle, options: RunOptions = RunOptions()) -> None:  # noqa: B008  (frozen)
        super().__init__(bundle, options)
        self._model = torch.compile(self._model, dynamic=False)

    @classmethod
    def find_obstacle(cls, device: str | None = None, bundle: Bundle | None = None) -> str | None:
        """A compiler too."""
        return find_other_model(bundle) or PyTorchCompileBackend.find_obstacle(device)


def find_other_model(bundle: Bundle | None) -> str | None:
    """What transformers' VJEPA2Model would need a bundle to be that this one is not."""
    if bundle is None:
        return None
    manifest = bundle.manifest
    model, clip = manifest.model, manifest.clip
    must = {
        "V-JEPA 2's encoder": model.positions == "tiled" and model.side is None and not model.levels,
        "head tokens or embedding": manifest.head in ("tokens", "embedding"),
        "float32 weights": manifest.precision == "fp32",
        "square frames": clip.height == clip.width,
    }
    lacks = [what for what, holds in must.items() if not holds]
    if not lacks:
        return None
    return (
        f"a bundle of {', '.join(lacks)}, and {bundle.path.name} is {model.family} with head {manifest.head} in "
        f"{manifest.precision} of {clip.height} x {clip.width}; transformers has a model for no other"
    )


def build_peer(bundle: Bundle, attention: str) -> nn.Module:
    """VJEPA2Model in float32 with the bundle's weights, laid out as `from_pretrained` would."""
    manifest = bundle.manifest
    spec, clip = manifest.model, manifest.clip
    settings: dict[str, Any] = {
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "mlp_ratio": spec.mlp_dim / spec.dim,
        "crop_size": clip.height,
        "patch_size": clip.patch,
        "frames_per_clip": clip.frames,
        "tubelet_size": clip.tubelet,
        "pred_num_hidden_layers": 1,
        "attn_implementation": attention,
    }
    with torch.device("meta"):
        model: Any = VJEPA2Model(VJEPA2Config(**settings))
    model.predictor = nn.Identity()  # never called
    state = to_huggingface(rebuild_model(bundle).encoder.state_dict())
    theirs = {name.removeprefix("encoder."): value.clone().contiguous() for name, value in state.items()}
    model.encoder.load_state_dict(theirs, strict=True, assign=True)
    peer: nn.Module = model.eval()
    return peer
