"""How do a file's tensors become a module's: all of them, and no others?"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from vjepa2.errors import CheckpointError
from vjepa2.names import pack


def fill_module(
    module: nn.Module,
    name: str,
    state: Mapping[str, Tensor],
    theirs: Mapping[str, tuple[str, ...]],
    others: tuple[str, ...],
    where: Path,
) -> None:
    """Put `state` into `module`, whose parameter `key` is the tensors `theirs[key]` packed, as float32.

    Names in `state` that begin as one of `others` are none of the module's; any other that is left over or missing,
    and any wrong shape, is a `CheckpointError` that lists it.
    """
    expected = {part for parts in theirs.values() for part in parts}
    missing = sorted(expected - set(state))
    left_over = sorted(key for key in set(state) - expected if not key.startswith(others))
    if missing or left_over:
        raise CheckpointError(f"{where} does not fit {name}: missing {_list(missing)}, left over {_list(left_over)}")
    packed, wrong = {}, []
    for key, old in module.named_parameters():
        new = pack([state[part] for part in theirs[key]])
        packed[key] = new.float()
        if new.shape != old.shape or not new.is_floating_point():
            wrong.append(f"{key} {new.dtype} {list(new.shape)}, must be float {list(old.shape)}")
    if wrong:
        raise CheckpointError(f"{where} does not fit {name}: wrong shape {_list(wrong)}")
    module.load_state_dict(packed, strict=True, assign=True)


def _list(names: list[str]) -> str:
    return ", ".join(names) or "none"
