"""Which release of NVIDIA's driver is this, by its own number: 550.54.15, or on a Jetson its L4T?"""

import re
from pathlib import Path

_ROOT = Path("/")
# where it is written; on a Jetson the driver comes with the system, whose release names it
_PLACES = (
    ("etc/nv_tegra_release", r"# R(\d+) \(release\), REVISION: ([\d.]+)", "L4T {}.{}"),
    ("proc/driver/nvidia/version", r"NVRM version:.*?\s(\d+\.[\d.]+)\s", "{}"),
)


def find_driver_release(root: Path = _ROOT) -> str | None:
    """The driver's release; None where the system does not tell, as under WSL."""
    for place, pattern, form in _PLACES:
        try:
            match = re.search(pattern, (root / place).read_text(errors="replace"))
        except OSError:
            continue
        if match:
            return form.format(*match.groups())
    return None
