"""How much may a precision lose: the limits of every gate in one table, written down before anything is measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from vjepa2.errors import SpecError
from vjepa2.manifest import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Limits that a candidate must keep on every clip; None is no limit, and NaN keeps none."""

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
        known = [entry.name for entry in fields(self) if entry.name not in ("quiet", "accepted")]
        for name, value in limits.items():
            held = getattr(self, name) if name in known else None
            if held is None:
                has = ", ".join(f"{each}={getattr(self, each)}" for each in known if getattr(self, each) is not None)
                raise SpecError(f"this gate has no limit {name}; it has {has}")
            is_less = value > held if name == "relative_max" else value < held
            if not is_less:  # nor is NaN
                raise SpecError(f"{name}={value} asks for no less than the gate's {held}; leave it out")
        return replace(self, **limits, accepted={**self.accepted, **limits})


# A quiet token is a direction that the final LayerNorm blows up: trained ViTs have them, and any 16-bit form loses
# them. They are counted and their worst is told.
_SIXTEEN = Gate(embedding=0.9999, token_worst=0.99, token_p01=0.999, token_median=0.9999, quiet=0.1)
# An 8-bit step is 1/254 of the largest value: what is left is the direction of the clip, and which class wins.
_EIGHT = Gate(embedding=0.99, token_p01=0.95, agreement=0.99)

GATES: dict[Precision, Gate] = {
    # MatMuls of other libraries sum in another order; measured here about 1 - 1e-10 and 1e-6 to 1e-5.
    "fp32": Gate(embedding=0.99999, token_worst=0.99999, relative_max=1e-4),
    "fp16": _SIXTEEN,
    "bf16": _SIXTEEN,
    "int8": _EIGHT,
    "fp8": _EIGHT,
}
