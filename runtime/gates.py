"""How much may a precision lose: the limits of every gate in one table, written down before anything is measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from vjepa2.errors import SpecError

from .backends.placement import Executed

Limits = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Limits that a candidate must keep on every clip; None is no limit, and NaN keeps none."""

    source: str  # where the limits come from
    embedding: float  # cosine of the worst of what is one vector a clip, at least
    token_worst: float | None = None  # cosine of the worst token that counts, at least
    token_p01: float | None = None  # first percentile of the cosines of tokens that count, at least
    token_median: float | None = None  # of all tokens' cosines, at least
    agreement: float | None = None  # of a head's likeliest classes, the part that is the reference's, at least
    relative_max: float | None = None  # max |difference| / max |reference|, at most
    quiet: float = 0.0  # tokens whose norm before the final LayerNorm is under this part of the median do not count
    accepted: Mapping[str, float] = field(default_factory=dict)  # limits that a user put lower, by name

    def accept(self, limits: Mapping[str, float]) -> "Gate":
        """The same gate with limits that ask for less, which verdicts then name; `SpecError` if one asks for more."""
        known = [entry.name for entry in fields(self) if entry.name not in _NO_LIMITS]
        for name, value in limits.items():
            held = getattr(self, name) if name in known else None
            if held is None:
                has = ", ".join(f"{each}={getattr(self, each)}" for each in known if getattr(self, each) is not None)
                raise SpecError(f"this gate has no limit {name}; it has {has}")
            is_less = value > held if name == "relative_max" else value < held
            if not is_less:  # nor is NaN
                raise SpecError(f"{name}={value} asks for no less than the gate's {held}; leave it out")
        changes: dict[str, Any] = {**limits, "accepted": {**self.accepted, **limits}}
        return replace(self, **changes)

    @property
    def limits(self) -> Limits:
        """What there is a limit of, by name."""
        named = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in _NO_LIMITS}
        return {name: float(value) for name, value in named.items() if value is not None}


_NO_LIMITS = ("source", "quiet", "accepted")


# A quiet token is a direction that the final LayerNorm blows up: trained ViTs have them, and any 16-bit form loses
# them. They are counted and their worst is told.
_SIXTEEN = Gate(
    source="ours: what float32 islands keep of every token that counts; a naive fp16 form loses more (make "
    "prove-precision)",
    embedding=0.9999,
    token_worst=0.99,
    token_p01=0.999,
    token_median=0.9999,
    quiet=0.1,
)
_EIGHT = Gate(
    source="ours: an 8-bit step is 1/254 of the largest value; what is left is the direction of the clip, and which "
    "class wins",
    embedding=0.99,
    token_p01=0.95,
    agreement=0.99,
)

GATES: dict[Executed, Gate] = {
    "fp32": Gate(
        source="ours: MatMuls of other libraries sum in another order, measured about 1 - 1e-10 and 1e-6 to 1e-5",
        embedding=0.99999,
        token_worst=0.99999,
        relative_max=1e-4,
    ),
    "tf32": _SIXTEEN,  # of which no bundle is: a GPU's float32 with the fraction of fp16
    "fp16": _SIXTEEN,
    "bf16": _SIXTEEN,
    "int8": _EIGHT,
    "fp8": _EIGHT,
}
