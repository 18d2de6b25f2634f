"""How is a file of weights read and written: never running what is in it, never reading more than is asked for."""

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vjepa2.errors import CheckpointError
from vjepa2.folder_model import CONFIG, read_json
from vjepa2.outputs import write_whole

WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"[\w.-]+\.safetensors")


class SafetensorsState(Mapping[str, Tensor]):
    """The tensors of some safetensors files by name, each read when it is asked for."""

    def __init__(self, files: list[Path]) -> None:
        self._files: dict[str, Any] = {}
        for file in files:
            try:
                handle: Any = safe_open(str(file), framework="pt")
                names: list[str] = handle.keys()
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{file} is not a whole safetensors file ({error}); fetch it again") from error
            self._files.update({name: handle for name in names})

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def write_safetensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whole, the same bytes for the same tensors."""
    held = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    write_whole(file, lambda stream: stream.write(save(held, metadata={"format": "pt"})))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder in Hugging Face's layout: one, or the shards that its index names."""
    if not (folder / _INDEX).is_file():
        if not (folder / WEIGHTS).is_file():
            raise CheckpointError(f"{folder} has neither {WEIGHTS} nor {_INDEX}; it must have one of them")
        return [folder / WEIGHTS]
    table = read_json(folder / _INDEX).get("weight_map")
    shards = sorted(set(table.values())) if isinstance(table, dict) else []
    for shard in shards or ["(none)"]:
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or not (folder / shard).is_file():
            raise CheckpointError(f"{folder / _INDEX} names the shard {shard!r}; it must lie beside it")
    return [folder / shard for shard in shards]


def read_meta_checkpoint(file: Path, key: str) -> dict[str, Tensor]:
    """The state dict under `key` of a Meta `.pt` file, mapped, not copied; only tensors are unpickled.

    A file of probes holds a list of them, of which the first is meant.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{file} is not a checkpoint of tensors alone, or not whole ({reason}); it was not loaded"
        ) from error
    state = content.get(key) if isinstance(content, dict) else None
    state = state[0] if isinstance(state, list) and state else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        held = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{file} has no state dict under {key!r}; it holds {held}")
    return state


def fetch_repository(repository: str, revision: str | None) -> tuple[Path, str]:
    """Config and safetensors of a Hugging Face repository: the local folder and the commit it holds."""
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS, "model-*.safetensors", _INDEX]
        )
    except (OSError, ValueError) as error:  # the hub's errors are children of these
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{repository} at {revision or 'its newest revision'} could not be fetched: {reason}; "
            "check the name and the network, or give a local folder"
        ) from error
    return Path(folder), Path(folder).name
