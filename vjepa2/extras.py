"""Which extra brings a library that is not installed?"""

import platform
from importlib import import_module
from types import ModuleType

from vjepa2.errors import MissingDependencyError


def import_with_extra(module: str, extra: str) -> ModuleType:
    """Import one of our modules that needs more than the base install; the error names the extra to install."""
    try:
        return import_module(module)
    except OSError as error:  # a shared library that is missing
        raise MissingDependencyError(
            f"{module}: a library of vjepa2-edge[{extra}] does not load ({error}); install it again, whole"
        ) from error
    except ImportError as error:
        raise MissingDependencyError(f"{module} needs {error.name or error}; {advise(extra)}") from error


def advise(extra: str) -> str:
    """How to install what `extra` brings; TensorRT on a Jetson is the system's, which pip does not have."""
    if extra == "tensorrt" and platform.machine() == "aarch64":
        return (
            "on a Jetson, sudo apt install tensorrt python3-libnvinfer, and a virtual environment made with "
            "--system-site-packages"
        )
    return f"pip install 'vjepa2-edge[{extra}]'"
