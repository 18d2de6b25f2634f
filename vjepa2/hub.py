"""How does a repository of Hugging Face get to this machine?"""

from pathlib import Path

import huggingface_hub

from vjepa2.checkpoint_files import INDEX, WEIGHTS
from vjepa2.errors import CheckpointError
from vjepa2.folder_model import CONFIG


def download_repository(repository: str, revision: str | None) -> tuple[Path, str]:
    """Config and safetensors of a Hugging Face repository: the local folder and the commit it holds."""
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS, "model-*.safetensors", INDEX]
        )
    except (OSError, ValueError) as error:  # the hub's errors are children of these
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{repository} at {revision or 'its newest revision'} could not be fetched: {reason}; "
            "check the name and the network, or give a local folder"
        ) from error
    return Path(folder), Path(folder).name
