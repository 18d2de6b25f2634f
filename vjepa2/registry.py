"""Which models are there, and where are their released weights: one table."""

from dataclasses import dataclass
from types import MappingProxyType

from vjepa2.errors import UnknownNameError
from vjepa2.spec import ClipSpec, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A model and its released checkpoint, if it has one."""

    spec: ModelSpec
    repository: str | None = None  # Hugging Face id
    revision: str | None = None  # the commit that was looked at
    licence: str | None = None  # as the model card says


_CLIP_256 = ClipSpec(frames=64, height=256, width=256)
_CLIP_384 = ClipSpec(frames=64, height=384, width=384)

# mlp_dim of ViT-g is int(1408 * 48 / 11); integers from facebookresearch/vjepa2, arXiv 2506.09985.
_RELEASES = (
    Release(
        spec=ModelSpec(name="vitl", family="vjepa2", dim=1024, depth=24, heads=16, mlp_dim=4096, clip=_CLIP_256),
        repository="facebook/vjepa2-vitl-fpc64-256",
        revision="b3c1679b7c34d3255ef3547f27c7b226aefab26f",
        licence="MIT",
    ),
    Release(
        spec=ModelSpec(name="vith", family="vjepa2", dim=1280, depth=32, heads=16, mlp_dim=5120, clip=_CLIP_256),
        repository="facebook/vjepa2-vith-fpc64-256",
        revision="b5eac8703e3efdc1547fbb6ddfbeb133dc0bdee5",
        licence="MIT",
    ),
    Release(
        spec=ModelSpec(name="vitg", family="vjepa2", dim=1408, depth=40, heads=22, mlp_dim=6144, clip=_CLIP_256),
        repository="facebook/vjepa2-vitg-fpc64-256",
        revision="875c192b7b704b87d1e1d99345769632dd5f739a",
        licence="Apache-2.0",
    ),
    Release(
        spec=ModelSpec(name="vitg-384", family="vjepa2", dim=1408, depth=40, heads=22, mlp_dim=6144, clip=_CLIP_384),
        repository="facebook/vjepa2-vitg-fpc64-384",
        revision="12ca91694b230e0d4b5b0078af6f4ae1d51e933d",
        licence="Apache-2.0",
    ),
    Release(
        spec=ModelSpec(
            name="vitl-sincos",
            family="vjepa2",
            dim=1024,
            depth=24,
            heads=16,
            mlp_dim=4096,
            positions="sincos",
            clip=_CLIP_256,
        ),
    ),
)

RELEASES = MappingProxyType({release.spec.name: release for release in _RELEASES})


def find_release(name: str) -> Release:
    """The table's row of `name`; `UnknownNameError` lists the names there are."""
    if name not in RELEASES:
        raise UnknownNameError(f"no model is named {name!r}; choose one of {', '.join(RELEASES)}")
    return RELEASES[name]
