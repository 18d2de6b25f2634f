"""Is the engine of an earlier run still one: does it open here, and pass its gate again?

python -m benchmarks.gpu.kept_engine BUNDLE --json FILE
"""

import argparse
import sys
from dataclasses import asdict

import tensorrt as trt

from vjepa2.bundle import Bundle
from vjepa2.engine_folder import find_engine
from vjepa2.errors import Vjepa2Error
from vjepa2.outputs import write_json
from vjepa2.runtime.backends.cuda import CudaDevice
from vjepa2.runtime.backends.trt import TensorRtBackend
from vjepa2.runtime.parity import Reference, find_faults, prove_stored


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 it is, 1 it runs and is outside its gate, 2 there is none that runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--json", required=True)
    options = parser.parse_args(arguments)
    try:
        bundle = Bundle.open(options.bundle)
        with CudaDevice.open() as gpu:
            path, manifest = find_engine(bundle, gpu.describe(trt.__version__))
        with TensorRtBackend(bundle) as backend:
            verdict, gate = prove_stored(Reference.load(bundle), backend)
    except Vjepa2Error as error:
        print(f"no engine is kept: {error}", file=sys.stderr)
        return error.exit_code
    if not verdict.passed:
        print(f"{path} is not kept: {'; '.join(find_faults(verdict, gate))}", file=sys.stderr)
        return 1
    write_json(options.json, {"engine": str(path), "manifest": asdict(manifest), "reused": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())
