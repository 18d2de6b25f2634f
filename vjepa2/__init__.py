"""V-JEPA 2 video encoders, from PyTorch to the devices that have to run them."""

from vjepa2.bundle import Bundle
from vjepa2.errors import Vjepa2Error
from vjepa2.registry import RELEASES, find_release
from vjepa2.spec import ClipSpec, ModelSpec

__version__ = "0.1.0"
__all__ = ["RELEASES", "Bundle", "ClipSpec", "ModelSpec", "Vjepa2Error", "find_release"]
