"""Can this machine turn a bundle into a TensorRT engine? So far: what it lacks for that."""

import ctypes
from importlib.util import find_spec
from pathlib import Path

import click

from vjepa2.bundle import Bundle
from vjepa2.errors import BackendError

_LIBCUDA = "libcuda.so.1"


def compile_engine(bundle: Bundle) -> None:
    """Refuse, and say why: TensorRT or the GPU is missing, or both are here and building is yet to be written."""
    missing = [reason for reason in (_find_tensorrt(), _find_gpu()) if reason]
    if not missing:
        missing = ["this version does not build engines yet"]
    raise BackendError(f"no engine for {bundle.path.name}: {'; '.join(missing)}")


def _find_tensorrt() -> str | None:
    if find_spec("tensorrt") is not None:
        return None
    return "tensorrt is not installed (pip install 'vjepa2-edge[tensorrt]'; on Jetson, apt install tensorrt)"


def _find_gpu() -> str | None:
    try:
        cuda = ctypes.CDLL(_LIBCUDA)
    except OSError:
        return f"there is no CUDA GPU ({_LIBCUDA}, the driver's library, is not on this machine)"
    count = ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "there is no CUDA GPU (the driver finds none)"
    return None


@click.command("compile")
@click.argument("bundle", type=click.Path(path_type=Path))
def compile_command(bundle: Path) -> None:
    """Build BUNDLE's TensorRT engine for this machine's GPU."""
    compile_engine(Bundle.open(bundle))
