"""What do TensorRT's messages mean, and which of its versions are publicly reported to compute transformers wrongly?"""

import re
from dataclasses import dataclass

from vjepa2.engine_manifest import Machine
from vjepa2.errors import CompileError

LEAST_TENSORRT = (8, 6)

# what a message holds (a regular expression) -> what to do about it
ADVICE: dict[str, str] = {
    r"No importer registered for op: LayerNormalization": (
        "a libnvonnxparser older than 8.6 is on the library path before the one of this TensorRT; take it off"
    ),
    r"No importer registered for op|getPluginCreator could not find plugin": (
        "this TensorRT does not know that operator; run vjepa2 inspect on the bundle for the versions that do"
    ),
    r"Target GPU SM \d+ is not supported": (
        "this TensorRT was made for other GPUs; on Jetson take the one of JetPack (apt install tensorrt), not pip's"
    ),
    r"an illegal (memory access|instruction)|unspecified launch failure|device-side assert": (
        "no CUDA call of this process works after that; try again with a lower --level"
    ),
    r"(?i)out of memory|OutOfMemory|insufficient memory": (
        "free GPU memory, set --workspace lower, or export fewer frames or a 16-bit precision (vjepa2 plan tells)"
    ),
    r"Could not find any implementation for node": (
        "no kernel fits at this level: lower ones are tried next; set --workspace higher, or --level"
    ),
    r"CUDA initialization failure with error: \d+|CUDA driver version is insufficient": (
        "the driver is older than the CUDA of this TensorRT, or no GPU is free; update the driver"
    ),
    r"Unable to load library: libnvinfer_builder_resource": (
        "TensorRT is installed in part: the builder's resource library is missing; install tensorrt again, whole"
    ),
    r"Failed to open file|WeightsContext|Failed to import initializer": (
        "the graph's weights were not found beside it; export the bundle again, and leave its files together"
    ),
    r"(?i)unsupported.*(onnx|ir).version|opset.*not supported": (
        "this parser is older than the graph; export for it (vjepa2 inspect says which), or take a newer TensorRT"
    ),
}


def advise(text: str) -> str | None:
    """What to do about a log or an error of TensorRT; None if nothing in it is known."""
    return next((advice for pattern, advice in ADVICE.items() if re.search(pattern, text)), None)


# why a builder makes no plan at any level: the disk, the installation, the GPU, or a process that CUDA gave up
_AT_ANY_LEVEL = re.compile(
    r"No space left on device|Unable to load library|Target GPU SM \d+ is not supported|CUDA initialization failure"
    r"|CUDA driver version is insufficient|an illegal (memory access|instruction)|unspecified launch failure"
    r"|device-side assert"
)


class NoPlanError(CompileError):
    """The builder made no plan of a graph that was parsed, or none that loads."""


def depends_on_level(error: CompileError) -> bool:
    """Whether what failed so may go well at another level of the builder.

    No plan may, but for a reason that is known to lie elsewhere: what a level tries, and holds in memory while it
    tries it, is its own, and the words that tell of it are known of a few versions alone.
    """
    return isinstance(error, NoPlanError) and _AT_ANY_LEVEL.search(str(error)) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFault:
    """A public report that some versions compute wrongly, without an error."""

    first: tuple[int, ...]  # version
    last: tuple[int, ...]  # the last that has it, as far as its numbers go: (10, 4) is any 10.4
    sms: tuple[int, ...] = ()  # compute capabilities; none: any
    symptom: str
    link: str

    def concerns(self, machine: Machine) -> bool:
        """Whether `machine` has such a version, and such a GPU."""
        number = machine.tensorrt.number
        within = self.first <= number and number[: len(self.last)] <= self.last
        return within and (not self.sms or machine.sm in self.sms)


_TENSORRT = "https://github.com/NVIDIA/TensorRT/issues/"
KNOWN_FAULTS = (
    KnownFault(
        first=(8, 6),
        last=(8, 6),
        symptom="a ViT in fp16 wrong where types are hints, right where the graph's hold; 8.6 has hints alone",
        link="https://github.com/NVIDIA/TensorRT-LLM/issues/3223",
    ),
    KnownFault(first=(10, 0), last=(10, 4), symptom="transformers wrong, right again in 10.5", link=f"{_TENSORRT}4419"),
    KnownFault(first=(10, 3), last=(10, 3), symptom="a ViT in fp16 wrong, right in 8.6", link=f"{_TENSORRT}4723"),
    KnownFault(first=(10, 4), last=(10, 4), symptom="a ViT wrong even in fp32", link=f"{_TENSORRT}4742"),
    KnownFault(
        first=(10, 7), last=(10, 7), symptom="attention with the scale on q and on k wrong", link=f"{_TENSORRT}4333"
    ),
    KnownFault(
        first=(10, 13),
        last=(10, 13),
        sms=(110,),
        symptom="Linears of one input merged wrongly at batch 1",
        link="https://github.com/NVIDIA/TensorRT-Edge-LLM/issues/151",
    ),
    KnownFault(
        first=(10, 14),
        last=(10, 14),
        symptom="Linears of 4-D inputs wrong, right again in 11.0",
        link="https://github.com/pytorch/TensorRT/issues/4379",
    ),
    KnownFault(
        first=(8, 6), last=(10, 16), sms=(120,), symptom="fused attention wrong in 16 bit", link=f"{_TENSORRT}4837"
    ),
    KnownFault(first=(11, 2), last=(11, 2), symptom="attention on a transposed input wrong", link=f"{_TENSORRT}4826"),
    KnownFault(
        first=(11, 2),
        last=(11, 2),
        symptom="what is fused from the input to the output garbage or NaN",
        link="https://github.com/rerun-io/examples-monorepo/pull/87",
    ),
)


def find_reports(machine: Machine) -> tuple[KnownFault, ...]:
    """The reports that concern a machine; on it nobody may leave the gate out."""
    return tuple(fault for fault in KNOWN_FAULTS if fault.concerns(machine))
