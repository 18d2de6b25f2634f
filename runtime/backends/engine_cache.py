"""Where does ONNX Runtime keep the engines that it builds with TensorRT: in a folder of ours, one for each cause.

An engine is native code and fits one machine. Its folder is the user's alone, and its name follows from everything
that the engine depends on, so that no engine is ever loaded that was built from something else.
"""

import hashlib
import json
import os
import stat
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from vjepa2.bundle import WEIGHTS, Bundle
from vjepa2.errors import BackendError
from vjepa2.runtime.gpus import Gpu


def prepare_cache(bundle: Bundle, graph: str, precision: str, gpu: Gpu, onnxruntime: str) -> Path:
    """The folder for engines of `graph` on `gpu`, made if it is not there; nobody else may write to it."""
    causes = {
        "graph": bundle.manifest.files[graph].sha256,
        "weights": bundle.manifest.files[WEIGHTS].sha256,
        "precision": precision,
        "gpu": asdict(gpu),
        "onnxruntime": onnxruntime,
        "tensorrt": _tensorrt_versions(),
    }
    key = hashlib.sha256(json.dumps(causes, sort_keys=True).encode()).hexdigest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vjepa2-edge" / "onnxruntime-tensorrt"
    folder = root / key
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise BackendError(f"{folder} cannot be made: {error.strerror}; set XDG_CACHE_HOME") from error
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or others:
        raise BackendError(
            f"{folder} is {stat.filemode(found.st_mode)} of user {found.st_uid}; engines are native code, so it must "
            f"be a folder that only user {os.getuid()} can write: remove it"
        )
    return folder


def _tensorrt_versions() -> list[str]:
    names = ((item.metadata["Name"] or "", item.version) for item in metadata.distributions())
    return sorted(f"{name}=={version}" for name, version in names if name.startswith("tensorrt"))
