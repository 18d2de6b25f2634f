"""Which models are there, and where are their released weights: one table.

Integers, files and clips are those of facebookresearch/vjepa2 and of the papers, arXiv 2506.09985 and 2603.14482.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType

from vjepa2.errors import UnknownNameError
from vjepa2.head_specs import ActionSpec, PredictorSpec, ProbeSpec
from vjepa2.spec import ClipSpec, ModelSpec

FILES = "https://dl.fbaipublicfiles.com/vjepa2/"  # where Meta's files lie


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A model and its released checkpoint, if it has one."""

    spec: ModelSpec  # of the encoder; `clip` is the one that this checkpoint was trained with
    repository: str | None = None  # Hugging Face id
    revision: str | None = None  # the commit that was looked at
    licence: str | None = None  # as the model card says, or where there is none, the repository of the code
    file: str | None = None  # Meta's, below FILES
    keys: tuple[str, ...] = ()  # of Meta's file that hold an encoder or a probe; several: one has to be chosen
    base: str | None = None  # the model whose file has the encoder, if Meta's file of this one has none
    predictor: PredictorSpec | None = None
    action: ActionSpec | None = None
    probe: ProbeSpec | None = None

    @property
    def parameters(self) -> int | None:
        """Parameters of the encoder and of what stands on it; None where only the checkpoint says how many."""
        parts = [self.spec.parameters]
        parts += [part.parameters for part in (self.predictor, self.action) if part]
        if self.probe:
            if not self.probe.classes:
                return None
            parts.append(self.probe.parameters(self.spec.dim, self.probe.classes))
        return sum(parts)


_CLIP_256 = ClipSpec(frames=64, height=256, width=256)
_CLIP_384 = ClipSpec(frames=64, height=384, width=384)

# mlp_dim of ViT-g is int(1408 * 48 / 11), of ViT-G int(1664 * 64 / 13).
_L = ModelSpec(name="vitl", family="vjepa2", dim=1024, depth=24, heads=16, mlp_dim=4096, clip=_CLIP_256)
_H = ModelSpec(name="vith", family="vjepa2", dim=1280, depth=32, heads=16, mlp_dim=5120, clip=_CLIP_256)
_G = ModelSpec(name="vitg", family="vjepa2", dim=1408, depth=40, heads=22, mlp_dim=6144, clip=_CLIP_256)
_G_384 = replace(_G, name="vitg-384", clip=_CLIP_384)
_HUB_AND_EVALS = ("encoder", "target_encoder")  # the first is what Hugging Face's files were made of


def _pretrained(spec: ModelSpec, repository: str, revision: str, licence: str, file: str) -> Release:
    return Release(
        spec=spec,
        repository=repository,
        revision=revision,
        licence=licence,
        file=file,
        keys=_HUB_AND_EVALS,
        predictor=PredictorSpec(encoder_dim=spec.dim),
    )


def _probe(base: ModelSpec, task: str, frames: int, probe: ProbeSpec, released: tuple[str, str, str]) -> Release:
    repository, revision, file = released
    return Release(
        spec=replace(base, name=f"{base.name}-{task}", clip=replace(base.clip, frames=frames)),
        repository=repository,
        revision=revision,
        licence="MIT",
        file=f"evals/{file}",
        keys=("classifiers",),
        base=base.name,
        predictor=PredictorSpec(encoder_dim=base.dim),
        probe=probe,
    )


def _anticipation(base: ModelSpec, file: str) -> Release:
    return Release(
        spec=replace(base, name=f"{base.name}-ek100", clip=replace(base.clip, frames=32)),
        licence="MIT (the code's)",
        file=f"evals/{file}",
        keys=("classifiers",),
        base=base.name,
        predictor=PredictorSpec(encoder_dim=base.dim),
        probe=ProbeSpec(queries=3, frames_per_second=8),
    )


def _version_21(
    arch: str, file: str, dim: int, depth: int, heads: int, mlp_dim: int, levels: tuple[int, ...]
) -> Release:
    # B and L were distilled from G's last level and predict that; g and G predict their own four levels
    distilled = "_dist_" in file
    return Release(
        spec=ModelSpec(
            name=f"{arch}-2.1",
            family="vjepa2.1",
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_dim=mlp_dim,
            positions="interleaved",
            side=16,
            levels=levels,
            clip=_CLIP_384,
        ),
        licence="MIT (the code's)",
        file=file,
        keys=("ema_encoder" if distilled else "target_encoder",),
        predictor=PredictorSpec(
            encoder_dim=dim,
            depth=12 if distilled else 24,
            mask_tokens=8,
            positions="interleaved",
            levels=1 if distilled else 4,
            out_dim=1664 if distilled else 4 * dim,
            has_modalities=True,
        ),
    )


_SSV2_L = ("facebook/vjepa2-vitl-fpc16-256-ssv2", "4aa02df83918538fc21cfaf576382fa20e489a80", "ssv2-vitl-16x2x3.pt")
_SSV2_G = (
    "facebook/vjepa2-vitg-fpc64-384-ssv2",
    "9f5fd615cb6f79065a28edcf1cc3ef25010dddfa",
    "ssv2-vitg-384-64x2x3.pt",
)
_DIVING_L = (
    "facebook/vjepa2-vitl-fpc32-256-diving48",
    "71ae2a8b1ff5a297aeeaae9b5e64c7a2e5e6a633",
    "diving48-vitl-256.pt",
)
_DIVING_G = (
    "facebook/vjepa2-vitg-fpc32-384-diving48",
    "0b48243375319bd8e03e3cd5560d957095429189",
    "diving48-vitg-384-32x4x3.pt",
)
_SSV2 = ProbeSpec(classes=(174,), segments=2, views=3, frame_step=2)
_DIVING = ProbeSpec(classes=(48,), segments=4, views=3, frame_step=2)

_RELEASES = (
    _pretrained(_L, "facebook/vjepa2-vitl-fpc64-256", "b3c1679b7c34d3255ef3547f27c7b226aefab26f", "MIT", "vitl.pt"),
    _pretrained(_H, "facebook/vjepa2-vith-fpc64-256", "b5eac8703e3efdc1547fbb6ddfbeb133dc0bdee5", "MIT", "vith.pt"),
    _pretrained(
        _G, "facebook/vjepa2-vitg-fpc64-256", "875c192b7b704b87d1e1d99345769632dd5f739a", "Apache-2.0", "vitg.pt"
    ),
    _pretrained(
        _G_384,
        "facebook/vjepa2-vitg-fpc64-384",
        "12ca91694b230e0d4b5b0078af6f4ae1d51e933d",
        "Apache-2.0",
        "vitg-384.pt",
    ),
    Release(spec=replace(_L, name="vitl-sincos", positions="sincos")),
    _probe(_L, "ssv2", 16, replace(_SSV2, frame_step=4), _SSV2_L),
    _probe(_G_384, "ssv2", 64, _SSV2, _SSV2_G),
    _probe(_L, "diving48", 32, replace(_DIVING, layers=(17, 19, 21, 23)), _DIVING_L),
    _probe(_G_384, "diving48", 32, replace(_DIVING, layers=(24, 29, 34, 39)), _DIVING_G),
    _anticipation(_L, "ek100-vitl-256.pt"),
    _anticipation(_G_384, "ek100-vitg-384.pt"),
    Release(
        spec=replace(_G, name="vitg-ac", clip=replace(_CLIP_256, frames=2)),  # an image at a time, doubled
        licence="MIT (the code's)",
        file="vjepa2-ac-vitg.pt",
        keys=("encoder",),
        action=ActionSpec(encoder_dim=_G.dim),
    ),
    _version_21("vitb", "vjepa2_1_vitb_dist_vitG_384.pt", 768, 12, 12, 3072, (2, 5, 8, 11)),
    _version_21("vitl", "vjepa2_1_vitl_dist_vitG_384.pt", 1024, 24, 16, 4096, (5, 11, 17, 23)),
    _version_21("vitg", "vjepa2_1_vitg_384.pt", 1408, 40, 22, 6144, (9, 19, 29, 39)),
    _version_21("vitG", "vjepa2_1_vitG_384.pt", 1664, 48, 26, 8192, (11, 23, 37, 47)),
)

RELEASES = MappingProxyType({release.spec.name: release for release in _RELEASES})


def find_release(name: str) -> Release:
    """The table's row of `name`; `UnknownNameError` lists the names there are."""
    if name not in RELEASES:
        raise UnknownNameError(f"no model is named {name!r}; choose one of {', '.join(RELEASES)}")
    return RELEASES[name]
