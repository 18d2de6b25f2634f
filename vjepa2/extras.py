"""Which extra brings a library that is not installed?"""

from importlib import import_module
from types import ModuleType

from vjepa2.errors import MissingDependencyError


def import_with_extra(module: str, extra: str) -> ModuleType:
    """Import one of our modules that needs more than the base install; the error names the extra to install."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module} needs {error.name or error}; pip install 'vjepa2-edge[{extra}]'"
        ) from error
