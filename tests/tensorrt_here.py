"""How does a test get a TensorRT of some version under the code that imports it?"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from tests.fake_tensorrt import Script, fake_tensorrt

# everything that imports tensorrt, or what imports it
_USERS = (
    "vjepa2.export.compile",
    *(f"vjepa2.export.tensorrt_{part}" for part in ("api", "features", "graph", "log", "plan")),
    *(f"vjepa2.runtime.backends.{name}" for name in ("trt", "trt_log", "trt_session")),
)


class Installed:
    """Our modules over one fake, imported on demand."""

    def __init__(self, trt: Any) -> None:
        self.trt = trt

    def __getattr__(self, name: str) -> Any:
        return import_module(f"vjepa2.export.{name}")


@contextmanager
def installed(version: str, script: Script) -> Iterator[Installed]:
    """A fake of `version` in the place of tensorrt, and our modules imported anew over it."""
    before: dict[str, ModuleType | None] = {name: sys.modules.pop(name, None) for name in (*_USERS, "tensorrt")}
    sys.modules["tensorrt"] = fake_tensorrt(version, script)
    try:
        yield Installed(sys.modules["tensorrt"])
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
