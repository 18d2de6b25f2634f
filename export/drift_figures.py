"""How far is a value inside a graph from what it must be, and is that within a gate?

The limits are a precision's own, on each vector along the last axis. A few massive channels of the residual stream
would hide all others in a cosine, so tokens of the stream are looked at as the next LayerNorm gives them, in float64.

Axes: V vectors, D their channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vjepa2.runtime.backends.base import FloatArray
from vjepa2.runtime.figures import find_p01, find_quiet
from vjepa2.runtime.gates import Gate

_Float64 = npt.NDArray[np.float64]
_CHUNK = 1 << 22  # numbers at once in float64: attention's scores have a thousand times as many


@dataclass(frozen=True, slots=True)
class Lens:
    """A LayerNorm of the reference: what reads the stream sees its channels through these gains."""

    gain_D: FloatArray
    bias_D: FloatArray
    epsilon: float

    def look(self, x_VD: _Float64) -> _Float64:
        """The normed vectors."""
        centred_VD = x_VD - x_VD.mean(-1, keepdims=True)
        scale_V1 = np.sqrt(np.square(centred_VD).mean(-1, keepdims=True) + self.epsilon)
        normed_VD: _Float64 = centred_VD / scale_V1 * self.gain_D + self.bias_D
        return normed_VD


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far one value is off; None is a figure that there is none of, or that is no number."""

    token_worst: float | None  # cosine of the worst vector that counts
    token_p01: float | None  # of those that count; none if they are too few for it
    token_median: float | None
    embedding: float | None  # cosine of the mean of tokens
    relative_max: float | None  # max |difference| / max |reference|
    relative_frobenius: float | None
    is_tokens: bool  # else one vector a clip
    quiet_tokens: int  # that do not count: under a part of the median norm before the LayerNorm
    faults: tuple[str, ...]  # every figure that is outside its limit


def measure_drift(
    expected: FloatArray, got: FloatArray, gate: Gate, *, lens: Lens | None = None, norms_V: _Float64 | None = None
) -> Drift:
    """The figures of `got`; vectors whose norm is under the gate's part of the median of `norms_V` do not count."""
    if expected.shape != got.shape:
        return _no_figures(f"has shape {list(got.shape)}, must be {list(expected.shape)}")
    width = expected.shape[-1] if expected.ndim else 1
    rows = [_measure_rows(*pair) for pair in _chunks(expected.reshape(-1, width), got.reshape(-1, width), lens)]
    cosines_V = np.concatenate([row[0] for row in rows])
    most, reference_most = (np.max([row[index] for row in rows]) for index in (1, 2))  # NaN stays
    squares, reference_squares = (np.sum([row[index] for row in rows]) for index in (3, 4))
    norms_V = np.ones(len(cosines_V)) if norms_V is None else norms_V
    quiet_V = find_quiet(norms_V, gate.quiet)
    counted = cosines_V[~quiet_V]
    embedding = _measure_mean(expected, got, lens) if expected.ndim == 3 else float(cosines_V.min())
    is_tokens = expected.ndim > 2
    figures: dict[str, float | None] = {
        "embedding": embedding if expected.ndim < 4 else None,
        "token_worst": float(counted.min()) if is_tokens else None,
        "token_p01": find_p01(counted) if is_tokens else None,
        "token_median": float(np.median(cosines_V)) if is_tokens else None,
        "relative_max": float(most / reference_most) if reference_most else float(most),
        "relative_frobenius": float(np.sqrt(squares / reference_squares)) if reference_squares else float(squares),
    }
    faults = (*_find_faults(figures, gate), *_find_odd_norms(norms_V))
    finite = {name: value if value is None or np.isfinite(value) else None for name, value in figures.items()}
    return Drift(**finite, is_tokens=is_tokens, quiet_tokens=int(np.sum(quiet_V)), faults=faults)


def _find_faults(figures: dict[str, float | None], gate: Gate) -> tuple[str, ...]:
    """NaN is outside every limit, and where there is none; without a first percentile the worst vector is held."""
    faults = []
    p01 = figures["token_worst"] if figures["token_p01"] is None else figures["token_p01"]
    for name, figure in (figures | {"token_p01": p01}).items():
        limit = getattr(gate, name, None)
        if figure is None:
            continue
        if not np.isfinite(figure):
            faults.append(f"{name} is no number")
        elif limit is not None and (figure > limit if name.startswith("relative") else figure < limit):
            side = "most" if name.startswith("relative") else "least"
            faults.append(f"{name} is {figure:.7g}, must be at {side} {limit}")
    return tuple(faults)


def _find_odd_norms(norms_V: _Float64) -> tuple[str, ...]:
    """Of a reference that is no number nothing can be said."""
    odd = int(np.sum(~np.isfinite(norms_V)))
    return (f"{odd} of {len(norms_V)} norms of the reference are no finite numbers",) if odd else ()


def _chunks(expected_VD: FloatArray, got_VD: FloatArray, lens: Lens | None) -> Iterator[tuple[_Float64, _Float64]]:
    step = max(1, _CHUNK // expected_VD.shape[1])
    for start in range(0, len(expected_VD), step):
        pair = (array[start : start + step].astype(np.float64) for array in (expected_VD, got_VD))
        with np.errstate(all="ignore"):
            expected, got = pair if lens is None else (lens.look(array) for array in pair)
        yield expected, got


def _measure_rows(expected_VD: _Float64, got_VD: _Float64) -> tuple[_Float64, float, float, float, float]:
    with np.errstate(all="ignore"):
        difference_VD = got_VD - expected_VD
        lengths_V = np.linalg.norm(expected_VD, axis=-1) * np.linalg.norm(got_VD, axis=-1)
        cosines_V = (expected_VD * got_VD).sum(-1) / lengths_V
        cosines_V[(expected_VD == got_VD).all(-1)] = 1.0  # of zeros, too
        return (
            cosines_V,
            float(np.abs(difference_VD).max()),
            float(np.abs(expected_VD).max()),
            float(np.square(difference_VD).sum()),
            float(np.square(expected_VD).sum()),
        )


def _measure_mean(expected_BND: FloatArray, got_BND: FloatArray, lens: Lens | None) -> float:
    """Cosine of the mean of tokens, of the worst clip."""
    means = []
    for array in (expected_BND, got_BND):
        with np.errstate(all="ignore"):
            wide_BND = array.astype(np.float64)
            means.append((wide_BND if lens is None else lens.look(wide_BND)).mean(1))
    cosines_B = _measure_rows(*means)[0]
    return float(cosines_B.min())


def _no_figures(fault: str) -> Drift:
    return Drift(
        token_worst=None, token_p01=None, token_median=None, embedding=None, relative_max=None,
        relative_frobenius=None, is_tokens=True, quiet_tokens=0, faults=(fault,),
    )  # fmt: skip
